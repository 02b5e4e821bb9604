"""PostgreSQL, RabbitMQ and Redis of our own, for the tests and the benchmarks.

Each listens on a free loopback port, keeps everything in one temporary folder and runs as an unprivileged user
(PostgreSQL refuses root). The machine's own services, if there are any, are not touched, and nothing stays behind.

    with Services() as services:
        os.environ.update(services.env())

`python -m tests.services COMMAND...` runs a command with the three up and their environment set.

Start services in a thread that lives as long as they do: so that they end even if this process is killed, they get a
signal on their parent's death, and for Linux the parent is the thread.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import pwd
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import NoReturn
from urllib.parse import quote

START_TIMEOUT = 120.0  # s; RabbitMQ takes 4 s alone on 2 cores, and shares them with other tests
STOP_TIMEOUT = 30.0  # s; then SIGKILL
POLL = 0.02  # s
LOG_LINES = 30  # of a service's log in an error message


class ServiceError(RuntimeError):
    """A service did not start or stop; the message holds the tail of its log."""


class Service:
    """One server. After `stop` (clean) and `kill` (a crash) `start` brings it up again: same port, same data."""

    name: str
    package: str  # the Debian package
    user: str  # that the package makes; the service runs as this user when we are root
    stop_signal = signal.SIGTERM

    def __init__(self, folder: Path, *, durable: bool = False) -> None:
        """`folder` is made here. `durable`: survive a power cut too, which costs time and which no test needs."""
        self.folder = folder
        self.durable = durable
        self.port = free_port()
        self.tls_port = free_port()  # of RabbitMQ and Redis, beside the plain one
        self.password = secrets.token_hex(16)
        self.log = folder.parent / f"{self.name}.log"
        self._prepared = False
        self._helpers: list[subprocess.Popen[bytes]] = []
        self._main: subprocess.Popen[bytes] | None = None

    # What a kind of service says of itself

    @classmethod
    def find(cls) -> Path | None:
        """The program, or a file beside it, if the package is installed."""
        raise NotImplementedError

    def env(self) -> dict[str, str]:
        """The environment with which datarun finds this service."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Write configuration and data, before the first start."""
        raise NotImplementedError

    def command(self) -> list[str]:
        raise NotImplementedError

    def command_env(self) -> dict[str, str]:
        return {}

    def is_ready(self) -> bool:
        """Whether it answers, asked every few milliseconds."""
        raise NotImplementedError

    def finish(self) -> None:
        """What the first start needs once the server answers."""

    # Life

    def start(self) -> None:
        """Start and wait until it answers."""
        self.launch()
        self.wait()

    def launch(self) -> None:
        """Start without waiting; `wait` follows."""
        if self.running:
            raise ServiceError(f"{self.name} runs already")
        if not self._prepared:
            self.folder.mkdir(mode=0o700)
            self.prepare()
        self.launch_helpers()
        self._main = self._spawn(self.command(), self.stop_signal)

    def launch_helpers(self) -> None:
        """Start what the server needs beside it."""

    def wait(self) -> None:
        """Wait until it answers."""
        try:
            self._wait_for_answer(self.is_ready)
            if not self._prepared:
                self.finish()
                self._prepared = True
        except BaseException:
            self.kill()
            raise

    @property
    def running(self) -> bool:
        return self._main is not None and self._main.poll() is None

    @property
    def pid(self) -> int:
        """The server's first process."""
        assert self._main is not None
        return self._main.pid

    def stop(self) -> None:
        """Ask it to end in order, and wait for it and all its children. Without effect if it is down."""
        self._end(self.stop_signal)

    def kill(self) -> None:
        """End it as a crash would, with all its children."""
        self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> None:
        for process in [self._main, *self._helpers]:
            if process is None:
                continue
            family = family_of(process.pid) if process.poll() is None else set()
            if process.poll() is None:
                process.send_signal(how)
            if how != signal.SIGKILL:
                try:
                    process.wait(STOP_TIMEOUT)
                except subprocess.TimeoutExpired:
                    family |= family_of(process.pid)
                    process.kill()
            process.wait()
            _kill_rest(family, grace=0 if how == signal.SIGKILL else 2)
        self._main = None
        self._helpers = []

    # Means

    def _own(self, path: Path) -> None:
        """Give a file or folder to the user that the service runs as."""
        if (account := _account(self.user)) is not None:
            os.chown(path, account.pw_uid, account.pw_gid)

    def write(self, path: Path, text: str) -> None:
        path.touch(mode=0o600)
        path.write_text(text)
        self._own(path)

    @property
    def ca(self) -> Path:
        """The certificate authority of this service alone, which vouches for `localhost`, not for 127.0.0.1."""
        return self.log.with_name(f"{self.name}-ca.pem")  # beside the folder, which is the service's own

    def make_certificates(self) -> None:
        """The authority, and certificate.pem and key.pem in the folder."""
        key, new = self.folder / "ca-key.pem", ["openssl", "req", "-x509", "-nodes", "-days", "2", "-newkey", "ec"]
        new += ["-pkeyopt", "ec_paramgen_curve:prime256v1"]
        authority = [*new, "-subj", "/CN=an authority of the tests", "-keyout", str(key), "-out", str(self.ca)]
        server = [*new, "-subj", "/CN=localhost", "-CA", str(self.ca), "-CAkey", str(key)]
        server += ["-addext", "subjectAltName=DNS:localhost", "-addext", "basicConstraints=critical,CA:FALSE"]
        server += ["-keyout", str(self.folder / "key.pem"), "-out", str(self.folder / "certificate.pem")]
        for command in (authority, server):
            subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        for name in ("key.pem", "certificate.pem"):
            self._own(self.folder / name)

    def _wrapped(self, command: list[str], death_signal: signal.Signals) -> list[str]:
        """`command` as the service's user, told to end when we die."""
        options = [f"--pdeathsig={death_signal.name.removeprefix('SIG')}"]
        if (account := _account(self.user)) is not None:
            options += [f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]
        return ["setpriv", *options, *command]

    def _environment(self) -> dict[str, str]:
        path = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
        return {"PATH": path, "HOME": str(self.folder), "LANG": "C.UTF-8", **self.command_env()}

    def _spawn(self, command: list[str], death_signal: signal.Signals = signal.SIGTERM) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                self._wrapped(command, death_signal),
                cwd=self.folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C on the terminal is ours to handle
            )

    def _run(self, command: list[str], stdin: str = "", env: dict[str, str] | None = None) -> None:
        """Run a short command to its end."""
        with self.log.open("ab") as log:
            done = subprocess.run(
                self._wrapped(command, signal.SIGKILL),
                cwd=self.folder,
                env=self._environment() | (env or {}),
                input=stdin.encode(),
                stdout=log,
                stderr=subprocess.STDOUT,
                timeout=START_TIMEOUT,
                check=False,
            )
        if done.returncode:
            self._fail(f"{Path(command[0]).name} ended with {done.returncode}")

    def _wait_for_answer(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while not condition():
            for process in [*self._helpers, self._main]:
                if process is not None and process.poll() is not None:
                    self._fail(f"{self.name} ended with {process.returncode} before it answered")
            if time.monotonic() > deadline:
                self._fail(f"{self.name} did not answer within {START_TIMEOUT:.0f} s")
            time.sleep(POLL)

    def _fail(self, message: str) -> NoReturn:
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        raise ServiceError("\n  ".join([message + "; the end of its log:", *lines[-LOG_LINES:]]))

    def _exchange(self, request: bytes, answer: bytes, port: int | None = None) -> bool:
        """Whether the service, sent `request`, answers with something that holds `answer`."""
        try:
            with socket.create_connection(("127.0.0.1", port or self.port), timeout=1) as connection:
                connection.sendall(request)
                received = b""
                while answer not in received:
                    if not (chunk := connection.recv(4096)):
                        return False
                    received += chunk
                return True
        except OSError:
            return False


class PostgreSQL(Service):
    name = "postgresql"
    package = "postgresql"
    user = "postgres"
    stop_signal = signal.SIGINT  # "fast": SIGTERM would wait for the clients to leave

    database = "datarun"
    database_user = "datarun"

    @classmethod
    def find(cls) -> Path | None:
        found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
        return max(found, key=lambda path: float(path.parent.name), default=None)

    def env(self) -> dict[str, str]:
        return {
            "DR_DATABASE_NAME": self.database,
            "DR_DATABASE_USER": self.database_user,
            "DR_DATABASE_PASSWORD": self.password,
            "DR_DATABASE_HOST": "127.0.0.1",
            "DR_DATABASE_PORT": str(self.port),
        }

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def prepare(self) -> None:
        self._own(self.folder)
        secret = self.folder / "superuser_password"
        self.write(secret, self.password)
        self._run(
            [str(self._program("initdb")), "--pgdata", str(self.data), "--username=postgres", f"--pwfile={secret}"]
            + ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync", "--no-instructions"]
        )

    def command(self) -> list[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "dynamic_shared_memory_type": "mmap",  # a file in the data folder, so that a crash leaves none elsewhere
        }
        if not self.durable:
            settings |= {"fsync": "off", "full_page_writes": "off"}
        options = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
        return [str(self._program("postgres")), "-D", str(self.data), *options]

    def is_ready(self) -> bool:
        command = [str(self._program("pg_isready")), "-q", "-h", "127.0.0.1", "-p", str(self.port), "-t", "5"]
        return subprocess.run(command, check=False, timeout=START_TIMEOUT).returncode == 0

    def finish(self) -> None:
        # CREATEDB: Django makes a test database.
        self._run(
            [str(self._program("psql")), "-Xq", "-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres"]
            + ["-v", "ON_ERROR_STOP=1"],
            stdin=f"CREATE ROLE {self.database_user} LOGIN CREATEDB PASSWORD '{self.password}';\n"
            f"CREATE DATABASE {self.database} OWNER {self.database_user};\n",
            env={"PGPASSWORD": self.password},
        )

    def kill(self) -> None:
        super().kill()
        self._remove_segment()

    def _remove_segment(self) -> None:
        """Remove the System V shared memory, a few bytes, by which PostgreSQL locks its data and which a crash leaves.

        Line 7 of postmaster.pid: key and id.
        """
        try:
            segment = (self.data / "postmaster.pid").read_text().splitlines()[6].split()[1]
        except (OSError, IndexError):
            return
        subprocess.run(["ipcrm", "-m", segment], check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def _program(self, name: str) -> Path:
        folder = self.find()
        if folder is None:
            raise ServiceError(f"{self.package} is not installed")
        return folder / name


class RabbitMQ(Service):
    name = "rabbitmq"
    package = "rabbitmq-server"
    user = "rabbitmq"

    vhost = "datarun"
    second_vhost = "beside"
    """For a server that runs beside tests that send messages and look for them."""
    broker_user = "datarun"

    def __init__(self, folder: Path, *, durable: bool = False) -> None:
        super().__init__(folder, durable=durable)
        self.epmd_port = free_port()
        self.distribution_port = free_port()

    @classmethod
    def find(cls) -> Path | None:
        # Not /usr/sbin/rabbitmq-server, which insists on root or rabbitmq as the user.
        return max(Path("/usr/lib/rabbitmq/lib").glob("rabbitmq_server-*/sbin/rabbitmq-server"), default=None)

    @property
    def url(self) -> str:
        return f"amqp://{self.broker_user}:{self.password}@127.0.0.1:{self.port}/{self.vhost}"

    @property
    def tls_url(self) -> str:
        return f"amqps://{self.broker_user}:{self.password}@localhost:{self.tls_port}/{self.vhost}"

    def env(self) -> dict[str, str]:
        return {"RMQ_VHOST": self.vhost, "IP_MASTER": "127.0.0.1", "DATARUN_BROKER_URL": self.url}

    def prepare(self) -> None:
        program = self.find()
        if program is None:
            raise ServiceError(f"{self.package} is not installed")
        self._own(self.folder)
        self.make_certificates()
        # RabbitMQ makes these when it starts: no slow rabbitmqctl.
        vhosts = self.vhost, self.second_vhost
        may = dict.fromkeys(("configure", "write", "read"), ".*")
        definitions = {
            "users": [{"name": self.broker_user, "password_hash": self._hash(), "tags": ""}],
            "vhosts": [{"name": vhost} for vhost in vhosts],
            "permissions": [{"user": self.broker_user, "vhost": vhost, **may} for vhost in vhosts],
        }
        self.write(self.folder / "definitions.json", json.dumps(definitions))
        self.write(
            self.folder / "rabbitmq.conf",
            f"listeners.tcp.1 = 127.0.0.1:{self.port}\n"
            f"listeners.ssl.1 = 127.0.0.1:{self.tls_port}\n"
            f"ssl_options.certfile = {self.folder}/certificate.pem\n"
            f"ssl_options.keyfile = {self.folder}/key.pem\n"
            "max_message_size = 8388608\n"  # as roles/rabbitmq has it
            f"load_definitions = {self.folder}/definitions.json\n"
            "log.console = true\n"
            "log.console.level = info\n"
            "log.file = false\n",
        )
        # RabbitMQ as installed, without its plugins: Erlang looks for each of some 800 modules in every folder of
        # plugins/, which is a third of the time that the start takes.
        installed = program.parent.parent
        home = self.folder / "home"
        (home / "plugins").mkdir(parents=True)
        for part in ("sbin", "escript"):
            (home / part).symlink_to(installed / part)
        for library in (installed / "plugins").iterdir():
            if not library.name.startswith("rabbitmq_") or library.name.startswith("rabbitmq_prelaunch"):
                (home / "plugins" / library.name).symlink_to(library)

    def _hash(self) -> str:
        """As https://www.rabbitmq.com/docs/passwords#computing-password-hash has it."""
        salt = secrets.token_bytes(4)
        return base64.b64encode(salt + hashlib.sha256(salt + self.password.encode()).digest()).decode()

    def launch_helpers(self) -> None:
        # RabbitMQ would start this name server itself, on all addresses, and leave it running.
        self._helpers = [self._spawn(["epmd", "-port", str(self.epmd_port)])]
        try:
            self._wait_for_answer(lambda: self._exchange(b"", b"", self.epmd_port))
        except BaseException:
            self.kill()
            raise

    def command(self) -> list[str]:
        return [str(self.folder / "home/sbin/rabbitmq-server"), "-noinput"]

    def command_env(self) -> dict[str, str]:
        own = {  # else taken from /etc/rabbitmq and /var/lib/rabbitmq
            "CONF_ENV_FILE": "none",
            "CONFIG_FILE": "rabbitmq.conf",
            "ADVANCED_CONFIG_FILE": "none.config",
            "ENABLED_PLUGINS_FILE": "enabled_plugins",
            "MNESIA_BASE": "mnesia",
            "LOG_BASE": "log",
            "SCHEMA_DIR": "schema",
            "GENERATED_CONFIG_DIR": "config",
            "PID_FILE": "pid",
        }
        return {
            **{f"RABBITMQ_{key}": str(self.folder / value) for key, value in own.items()},
            "RABBITMQ_NODENAME": "datarun@localhost",
            "RABBITMQ_DIST_PORT": str(self.distribution_port),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "RABBITMQ_ALLOW_INPUT": "1",  # without it a shell stays in between and takes our signals
            "ERL_EPMD_PORT": str(self.epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_CRASH_DUMP_SECONDS": "0",
        }

    def control(self, *arguments: str) -> None:
        """rabbitmqctl, which takes seconds."""
        self._run([str(self.folder / "home/sbin/rabbitmqctl"), "--quiet", *arguments])

    def add_user(self, name: str, *permissions: str) -> str:
        """A user with these permissions (configure, write, read) in the vhost; returns its address."""
        self.control("add_user", name, self.password)
        self.control("set_permissions", "--vhost", self.vhost, name, *permissions)
        return self.url.replace(f"//{self.broker_user}:", f"//{quote(name)}:")

    def is_ready(self) -> bool:
        return self._exchange(b"AMQP\x00\x00\x09\x01", b"PLAIN")  # the mechanisms in Connection.Start


class Redis(Service):
    name = "redis"
    package = "redis-server"
    user = "redis"

    @classmethod
    def find(cls) -> Path | None:
        program = Path("/usr/bin/redis-server")
        return program if program.exists() else None

    @property
    def url(self) -> str:
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    @property
    def tls_url(self) -> str:
        return f"rediss://:{self.password}@localhost:{self.tls_port}/0"

    def env(self) -> dict[str, str]:
        return {"DATARUN_RESULT_URL": self.url}

    def prepare(self) -> None:
        self._own(self.folder)
        self.make_certificates()
        self.write(
            self.folder / "redis.conf",
            f"bind 127.0.0.1\nport {self.port}\nrequirepass {self.password}\ndir {self.folder}\n"
            f"tls-port {self.tls_port}\ntls-auth-clients no\ntls-ca-cert-file {self.folder}/certificate.pem\n"
            f"tls-cert-file {self.folder}/certificate.pem\ntls-key-file {self.folder}/key.pem\n"
            # A power cut is not what it has to survive: its only thread would wait for the disk each second.
            'save ""\nappendonly yes\nappendfsync no\n',
        )

    def command(self) -> list[str]:
        return [str(self.find()), str(self.folder / "redis.conf")]

    def is_ready(self) -> bool:
        return self._exchange(f"AUTH {self.password}\r\nPING\r\n".encode(), b"+PONG")


class Services:
    """The three together, in a temporary folder that goes with them."""

    def __init__(self, *, durable: bool = False) -> None:
        self._durable = durable
        self._folder: Path | None = None
        self.all: list[Service] = []

    def start(self) -> None:
        """Start all three; returns when all answer."""
        if missing := missing_packages():
            raise ServiceError(f"missing Debian packages: {' '.join(missing)}")
        self._folder = Path(tempfile.mkdtemp(prefix="datarun-services-"))
        try:
            self._folder.chmod(0o711)  # the services' users pass through, to folders of their own
            self.postgresql = PostgreSQL(self._folder / "postgresql", durable=self._durable)
            self.rabbitmq = RabbitMQ(self._folder / "rabbitmq", durable=self._durable)
            self.redis = Redis(self._folder / "redis", durable=self._durable)
            # The slowest first: while it boots, the others get ready.
            self.all = [self.rabbitmq, self.redis, self.postgresql]
            for service in self.all:
                service.launch()
            for service in reversed(self.all):
                service.wait()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop all three and remove their files."""
        if self._folder is None:
            return
        try:
            for service in self.all:
                service.stop()
        finally:
            for service in self.all:
                service.kill()  # nothing to do, unless a stop failed
            shutil.rmtree(self._folder)
            self._folder, self.all = None, []

    def env(self) -> dict[str, str]:
        """The environment with which datarun finds the three."""
        return {key: value for service in self.all for key, value in service.env().items()}

    def __enter__(self) -> Services:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def missing_packages() -> list[str]:
    """The Debian packages that are missing; without them no `Services`."""
    kinds: list[type[Service]] = [PostgreSQL, RabbitMQ, Redis]
    return [kind.package for kind in kinds if kind.find() is None]


WORKERS = 4
"""Among how many processes the ports are divided."""
_given_ports: set[int] = set()


def free_port() -> int:
    """A free loopback port, never given before by this process.

    Outside the range from which Linux takes the ports of outgoing connections: while a service is down, its port
    cannot go to another program, nor can a client that tries again and again get connected to itself.
    """
    first_outgoing = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    ports = range(10_000, first_outgoing) if first_outgoing > 12_000 else range(10_000, 65_536)
    # Each process of pytest-xdist has ports of its own: another could be given the same before it is used.
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    ports = ports[worker % WORKERS :: WORKERS]
    for port in random.SystemRandom().sample(ports, k=200):
        if port in _given_ports:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given_ports.add(port)
        return port
    raise ServiceError("no free loopback port")


def _account(user: str) -> pwd.struct_passwd | None:
    """Whom to run as; None: as we are, since only root can choose."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(user)
    except KeyError:
        return pwd.getpwnam("nobody")


def _stat(pid: int) -> tuple[str, int, int] | None:
    """State, parent and start time (which with the pid identifies a process) out of /proc/<pid>/stat, proc(5)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return fields[0], int(fields[1]), int(fields[19])


def family_of(pid: int) -> set[tuple[int, int]]:
    """A process and all that descend from it, as (pid, start time)."""
    stats = {int(path.name): stat for path in Path("/proc").glob("[0-9]*") if (stat := _stat(int(path.name)))}
    family, before = {pid} & stats.keys(), -1
    while len(family) > before:
        before = len(family)
        family |= {child for child, (_, parent, _) in stats.items() if parent in family}
    return {(member, stats[member][2]) for member in family}


def alive(family: set[tuple[int, int]]) -> set[tuple[int, int]]:
    # A zombie is gone: an orphan's waits for process 1, which in a container may never look.
    return {
        (pid, started)
        for pid, started in family
        if (stat := _stat(pid)) is not None and stat[2] == started and stat[0] != "Z"
    }


def _kill_rest(family: set[tuple[int, int]], grace: float) -> None:
    """Wait until all are gone; kill those that are left after `grace` seconds."""
    start = time.monotonic()
    while family := alive(family):
        if time.monotonic() - start > STOP_TIMEOUT:
            raise ServiceError(f"processes do not end: {sorted(pid for pid, _ in family)}")
        if time.monotonic() - start >= grace:
            for pid, _ in family:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
        time.sleep(POLL)


@contextmanager
def _signals_as_exit() -> Iterator[None]:
    """SIGTERM and SIGHUP end the program in order, so that the services are stopped."""

    def leave(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main(command: list[str]) -> int:
    if not command:
        print("usage: python -m tests.services COMMAND...", file=sys.stderr)
        return 2
    if missing := missing_packages():
        print(f"missing Debian packages: {' '.join(missing)}", file=sys.stderr)
        return 1
    with _signals_as_exit(), Services() as services:
        child = subprocess.Popen(["setpriv", "--pdeathsig=TERM", *command], env=os.environ | services.env())
        try:
            return child.wait()
        except KeyboardInterrupt:
            return child.wait()  # the terminal sent it to the command too
        finally:
            if child.poll() is None:
                child.terminate()
                child.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
