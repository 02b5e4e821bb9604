"""The services that the tests start: they work, survive a stop and a crash, and leave nothing behind."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import services as harness

pytestmark = pytest.mark.skipif(
    bool(harness.missing_packages()), reason=f"missing Debian packages: {' '.join(harness.missing_packages())}"
)

ROOT = Path(harness.__file__).parents[1]


@pytest.fixture(scope="module")
def services() -> Iterator[harness.Services]:
    with harness.Services() as services:
        yield services


def query(services: harness.Services, *statements: str):
    """The rows that the last statement gives, as the database's user."""
    import psycopg2

    env = services.env()
    connection = psycopg2.connect(
        dbname=env["DR_DATABASE_NAME"],
        user=env["DR_DATABASE_USER"],
        password=env["DR_DATABASE_PASSWORD"],
        host=env["DR_DATABASE_HOST"],
        port=env["DR_DATABASE_PORT"],
    )
    connection.autocommit = True  # CREATE DATABASE takes no transaction
    try:
        cursor = connection.cursor()
        for statement in statements:
            cursor.execute(statement)
        return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


def send(services: harness.Services, queue: str, text: str) -> None:
    """Send a persistent message to a durable queue, confirmed by the broker."""
    from kombu import Connection, Queue

    with Connection(services.env()["DATARUN_BROKER_URL"], transport_options={"confirm_publish": True}) as connection:
        with connection.channel() as channel:
            Queue(queue, durable=True, channel=channel).declare()
            producer = connection.Producer(channel)
            producer.publish(text, routing_key=queue, delivery_mode=2)


def receive(services: harness.Services, queue: str) -> str | None:
    from kombu import Connection, Queue

    with Connection(services.env()["DATARUN_BROKER_URL"]) as connection, connection.channel() as channel:
        message = Queue(queue, durable=True, channel=channel).get(no_ack=True)
        return None if message is None else message.payload


def processes_in(folder: Path) -> list[str]:
    """The processes that have a folder in their command line or environment (HOME), those that left the family too."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            text = (path / "cmdline").read_bytes() + (path / "environ").read_bytes()
        except OSError:
            continue
        if bytes(folder) in text and path.name != str(os.getpid()):
            found.append(text.decode(errors="replace"))
    return found


def shared_memory(data: Path) -> set[str]:
    """The segments of System V of the PostgreSQL with this data (line 7 of its postmaster.pid: key and id)."""
    try:
        _, segment = (data / "postmaster.pid").read_text().splitlines()[6].split()
    except FileNotFoundError:
        segment = ""
    return {segment} & segments()


def segments() -> set[str]:
    """The ids of all on this machine, proc(5): those of another PostgreSQL come and go meanwhile."""
    return {line.split()[1] for line in Path("/proc/sysvipc/shm").read_text().splitlines()[1:]}


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty folder that the services' users may pass through, unlike pytest's."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)


def test_postgresql_works(services):
    assert query(services, "SELECT current_database(), current_user") == [("datarun", "datarun")]


def test_postgresql_lets_django_make_a_test_database_but_is_no_superuser(services):
    query(services, "CREATE DATABASE test_datarun", "DROP DATABASE test_datarun")
    assert query(services, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user") == [(False,)]


def test_postgresql_rejects_a_wrong_password(services):
    import psycopg2

    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        psycopg2.connect(
            dbname="datarun", user="datarun", password="wrong", host="127.0.0.1", port=services.postgresql.port
        )


def test_rabbitmq_works(services):
    send(services, "works", "hello")
    assert receive(services, "works") == "hello"
    assert receive(services, "works") is None


def test_redis_works(services):
    import redis

    with redis.Redis.from_url(services.env()["DATARUN_RESULT_URL"]) as client:
        client.set("key", "value")
        assert client.get("key") == b"value"


def test_redis_rejects_a_client_without_password(services):
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    with redis.Redis(port=services.redis.port, retry=Retry(NoBackoff(), 0)) as client:
        with pytest.raises(redis.AuthenticationError):
            client.ping()


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_broker_that_was_down_keeps_a_durable_queue(services, end):
    from kombu.exceptions import OperationalError

    send(services, "kept", f"before the {end}")
    getattr(services.rabbitmq, end)()
    assert not services.rabbitmq.running
    with pytest.raises((OSError, OperationalError)):
        receive(services, "kept")
    services.rabbitmq.start()
    assert receive(services, "kept") == f"before the {end}"


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_database_that_was_down_keeps_its_rows(services, end):
    query(services, f"CREATE TABLE kept_{end} (text varchar)", f"INSERT INTO kept_{end} VALUES ('before')")
    with_the_server = shared_memory(services.postgresql.data)
    assert with_the_server
    getattr(services.postgresql, end)()
    assert not with_the_server & segments()
    services.postgresql.start()
    assert query(services, f"SELECT text FROM kept_{end}") == [("before",)]


def test_a_server_that_cannot_start_shows_its_log(folder):
    class Broken(harness.Redis):
        def prepare(self):
            self._own(self.folder)
            self.write(self.folder / "redis.conf", "nonsense 1\n")

    server = Broken(folder / "redis")
    with pytest.raises(harness.ServiceError, match="redis ended with 1 before it answered.*\n(.*\n)*.*nonsense"):
        server.start()
    assert not server.running


def run_with_services(code: str, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.services", sys.executable, "-c", code]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(folder)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_command_runs_with_the_services_and_nothing_is_left_behind(folder):
    code = "import os, sys; print(os.environ['DATARUN_BROKER_URL'], flush=True); input(); sys.exit(3)"
    with run_with_services(code, folder) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("amqp://datarun:")
        family = harness.family_of(process.pid)
        assert len(processes_in(folder)) > 5
        [data] = folder.glob("*/postgresql/data")
        memory = shared_memory(data)
        assert memory
        process.communicate("\n")
    assert process.returncode == 3
    assert harness.alive(family) == set()
    assert processes_in(folder) == []
    assert not memory & segments()
    assert list(folder.iterdir()) == []


def test_the_services_end_when_their_owner_is_killed(folder):
    with run_with_services("print('up', flush=True); input()", folder) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        family = harness.family_of(process.pid)
        process.kill()
        process.wait()
        deadline = time.monotonic() + 120
        while (left := harness.alive(family) or processes_in(folder)) and time.monotonic() < deadline:
            time.sleep(harness.POLL)
        assert not left
