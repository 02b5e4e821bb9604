"""The commands of the manuals, one by one, instead of `make serve`."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import on_services
from tests.e2e.conftest import split_iris
from tests.e2e.live import APP, LOGIN, PASSWORD, Live, Organiser
from tests.e2e.submissions import HONEST


class ByHand(Live):
    """`migrate`, `createuser`, `runserver` and one Celery worker for all queues."""

    def start(self) -> "ByHand":
        self.home.mkdir(parents=True)
        self.manage("migrate", "--verbosity", "0")
        if not on_services():  # where `make serve` has made the user in the same database
            self.manage("createuser", LOGIN, "organiser@example.org", PASSWORD, "--superuser")
        self.workers = [
            self._spawn("manage.py", "runserver", "--noreload", f"127.0.0.1:{self.port}"),
            self._spawn("-m", "celery", "-A", "datarun", "worker", "-l", "info", "-c", "1"),
        ]
        self.process = self.workers[0]
        self.wait_for_answer()
        return self

    def stop(self, *_: object) -> None:
        for process in self.workers:
            process.terminate()
        for process in self.workers:
            process.wait(60)

    def _spawn(self, *arguments: str) -> "subprocess.Popen[bytes]":
        with self.log.open("ab") as log:
            return subprocess.Popen([sys.executable, *arguments], cwd=APP, env=self.environment, stdout=log, stderr=log)


@pytest.fixture
def by_hand(live: Live, tmp_path: Path) -> Iterator[ByHand]:
    if on_services():
        live.stop()  # its runner shares the queues, but not the folders
    server = ByHand(tmp_path / "home").start()
    yield server
    server.stop()
    if on_services():
        live.start()


@pytest.mark.embedded
def test_a_fold_is_tested_by_one_worker_that_serves_all_queues(by_hand: ByHand, write) -> None:
    organiser = Organiser(by_hand)
    fold_id = organiser.fold(split_iris(organiser), write(HONEST), range(50))
    assert organiser.tested(fold_id)["runner"].startswith("celery@")


@pytest.mark.embedded_only
def test_manage_py_test_runs_the_tests(live: Live) -> None:
    printed = live.manage("test", str(APP.parent / "tests" / "app" / "test_addresses.py"))
    assert "passed" in printed
