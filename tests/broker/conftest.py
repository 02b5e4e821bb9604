"""A RabbitMQ and a Redis of these tests' own, whatever else the environment names."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import services as harness
from tests.broker.worker import Broker, Share, Worker
from tests.e2e.live import APP


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if missing := harness.missing_packages():
        skip = pytest.mark.skip(reason=f"missing Debian packages: {' '.join(missing)}")
        for item in items:
            if "tests/broker/" in item.nodeid:
                item.add_marker(skip)


@pytest.fixture(scope="session")
def services() -> Iterator[harness.Services]:
    with harness.Services() as services:
        yield services


@pytest.fixture(scope="session")
def declared(services: harness.Services) -> harness.Services:
    """The services with the queues that the master has declared."""
    manage(services, "migrate", "--verbosity", "0")
    manage(services, "declare_queues")
    return services


@pytest.fixture
def share(tmp_path: Path) -> Share:
    return Share(tmp_path / "share")


@pytest.fixture
def broker(declared: harness.Services) -> Broker:
    """The broker, its queues empty."""
    broker = Broker(declared.rabbitmq.url)
    with broker.connection() as connection, connection.channel() as channel:
        for name in ("L", "H", "celery", "master_periodic"):
            channel.queue_purge(name)
    return broker


@pytest.fixture
def worker(declared: harness.Services, share: Share, tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    """worker(name, slots, **environment): a runner that is about to start, ended with the test."""

    def make(name: str = "one", slots: int = 1, **environment: str) -> Worker:
        settings = {"DATARUN_BROKER_URL": declared.rabbitmq.url, "DATARUN_RESULT_URL": declared.redis.url}
        settings["DATARUN_SPOOL"] = str(tmp_path / f"{name}.spool")
        made.append(Worker(name, tmp_path / f"{name}.log", settings | share.env() | environment, slots))
        return made[-1]

    made: list[Worker] = []
    yield make
    for one in made:
        one.stop()


def manage(services: harness.Services, *arguments: str) -> str:
    """`manage.py` on the services."""
    command = [sys.executable, "manage.py", *arguments]
    done = subprocess.run(command, cwd=APP, env=os.environ | services.env(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout
