"""The API in this process, on the database and the broker that the environment names; no worker runs."""

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
from celery import current_app
from django.conf import settings as django_settings
from django.contrib.auth import get_user_model
from django.core.cache import cache
from django.db import connections
from django.utils import timezone
from kombu.pools import ProducerPool

from runapp import authentication
from runapp.models import RawData
from runapp.services import metrics, pressure, queueing, readiness
from runner import config
from tests.app.helpers import (
    PASSWORD,
    USER,
    Api,
    Queues,
    Valve,
    custom_data_set,
    data_set,
    files_below,
    finish_split,
)

if connections["default"].vendor == "sqlite":
    # A database in memory is one connection's: the tests with threads need a file.
    connections.settings["default"]["TEST"]["NAME"] = str(config.home() / "test.sqlite3")
else:
    # Disks that are slow for a moment hold up Redis and the broker: a test in which one is frozen sets less.
    django_settings.CACHES["default"]["OPTIONS"] |= {"socket_timeout": 60, "socket_connect_timeout": 60}
    current_app.conf.broker_connection_timeout = 60


@pytest.fixture(scope="session")
def all_queues() -> Iterator[Queues]:
    queues = Queues()
    yield queues
    queues.connection.release()


@pytest.fixture(autouse=True)
def _own_world(tmp_path, settings, monkeypatch):
    """Folders of the test's own, nothing remembered, and hashes that cost nothing."""
    for name in ("DIR_DATA", "DIR_SUBMISSION"):
        folder = tmp_path / "disk" / name.lower()
        monkeypatch.setenv(name, str(folder))
        setattr(settings, name, folder)
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    # A machine that is slow for a moment breaks nothing: a test in which something hangs sets less.
    monkeypatch.setattr(pressure, "LOOK_SECONDS", 60)
    monkeypatch.setattr(pressure, "REMEMBER_SECONDS", 0)  # the disks of a test change from one request to the next
    monkeypatch.setattr(readiness, "PATIENCE", 60)
    monkeypatch.setattr(metrics, "BROKER_SECONDS", 60)
    authentication.remembered.clear()
    cache.clear()


@pytest.fixture
def disk(tmp_path):
    """The files below the data and submission folders, as they are when it is called."""
    return lambda: files_below(tmp_path / "disk")


@pytest.fixture
def queues(all_queues) -> Queues:
    """The queues, empty."""
    all_queues.purge()
    return all_queues


@pytest.fixture
def user(db):
    return get_user_model().objects.create_user(USER, "ada@example.org", PASSWORD)


@pytest.fixture
def api(user, queues) -> Api:
    """The API to a user with Basic credentials."""
    return Api()


@pytest.fixture
def still(monkeypatch) -> None:
    """The master's clock stands still: what a limit decides does not hang on how long the test takes."""
    now = timezone.now()
    monkeypatch.setattr(timezone, "now", lambda: now)


@pytest.fixture
def raw(api) -> RawData:
    """A standard data set that nobody has split."""
    answer = api.post("rawdata/", data_set())
    assert answer.status == 201, answer.content
    return RawData.objects.get(name="iris")


@pytest.fixture
def iris(raw) -> RawData:
    """A standard data set of 9 train and 3 test rows."""
    asked = {"split_state": RawData.Split.QUEUED, "split_asked_at": timezone.now(), "split_queued_at": timezone.now()}
    RawData.objects.filter(pk=raw.pk).update(split_task_id=str(uuid.uuid4()), **asked)
    assert finish_split(raw)
    raw.refresh_from_db()
    return raw


@pytest.fixture
def custom(api) -> RawData:
    """A custom data set that nobody has split."""
    answer = api.post("rawdata/", custom_data_set())
    assert answer.status == 201, answer.content
    return RawData.objects.get(name="digits")


def use_broker(patch: pytest.MonkeyPatch, url: str) -> None:
    """Have the API talk to the broker at another address."""
    pool: Any = ProducerPool  # whose stubs lack the argument
    pool = pool(current_app.connection_for_write(url=url).Pool(1), 1, Producer=current_app.amqp.Producer)
    patch.setattr(current_app.amqp, "_producer_pool", pool)
    patch.setitem(current_app.conf, "broker_read_url", url)


@pytest.fixture
def valve(api, monkeypatch) -> Iterator[Valve]:
    """On the way to the broker, and open."""
    if not config.has_broker():
        pytest.skip("files do not hang")
    address = urlsplit(config.broker_url())
    with Valve((address.hostname or "", address.port or 5672)) as valve:
        use_broker(monkeypatch, address._replace(netloc=f"{address.netloc.rpartition(':')[0]}:{valve.port}").geturl())
        yield valve


@pytest.fixture
def frozen(valve):
    """`with frozen():` the broker is silent, and nobody is patient with it, nor waits until it is back."""

    @contextmanager
    def freeze():
        with current_app.amqp.producer_pool.acquire() as producer:
            used = producer.connection
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(queueing, "CONFIRM_SECONDS", 1)
            patch.setattr(used, "connect_timeout", 1)
            patch.setitem(current_app.conf, "broker_connection_timeout", 1)
            valve.shut(60)
            yield
            assert valve.is_shut
        valve.open()

    return freeze


@pytest.fixture
def broker_down(api):
    """Call it, and the broker is away; call what it returns, and it is back."""

    def go():
        if config.has_broker():
            patch = pytest.MonkeyPatch()
            patch.setitem(current_app.conf, "broker_connection_timeout", 1)  # it is tried again for so long
            use_broker(patch, "amqp://guest:guest@127.0.0.1:1//")
            stops.append(patch.undo)
        else:
            queue = config.home() / "queue"
            away = queue.with_name("queue-away")
            queue.rename(away)
            queue.touch()  # a file where the folder was: nobody, root neither, can write below it

            def back() -> None:
                if away.exists():
                    queue.unlink()
                    away.rename(queue)

            stops.append(back)
        return stops[-1]

    stops: list[Callable[[], None]] = []
    yield go
    for stop in stops:
        stop()


@pytest.fixture
def sent(api, iris, queues):
    """Fold 1, sent and no longer in its queue."""
    api.new_fold(iris)
    queues.purge()
