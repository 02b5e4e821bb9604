"""`manage.py acceptance` and `manage.py workers` on a server with two runners that share the work.

On services each run of site.yml in `make cluster-test` shows it.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.live import APP, LOGIN, PASSWORD, Live, until

pytestmark = pytest.mark.embedded_only

WRONG = """
import sys
from celery.__main__ import main
from runner.sandbox.executor import Executor

right = Executor.run_fold
def wrong(*job):
    outcome = right(*job)
    if outcome.test_predictions is not None:
        outcome.test_predictions = outcome.test_predictions + 1e-9
    return outcome
Executor.run_fold = wrong
main()
"""


class Cluster(Live):
    """The web server, the master's worker, and runners of the given names, queues and slots."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> "Cluster":
        self.home.mkdir(parents=True)
        self.manage("migrate", "--verbosity", "0")
        self.manage("createuser", LOGIN, "organiser@example.org", PASSWORD, "--superuser")
        self.process = self._spawn("web", "manage.py", "runserver", "--noreload", f"127.0.0.1:{self.port}")
        self._worker("master", "datarun", "master_periodic", 1)
        self.wait_for_answer()
        return self

    def runner(self, name: str, queues: str, slots: int = 1, *program: str) -> None:
        self._worker(name, "runner", queues, slots, *program)

    def stop(self, *_: object) -> None:
        for name in [*self.processes]:
            self.stop_one(name)

    def stop_one(self, name: str) -> None:
        process = self.processes.pop(name)
        process.terminate()
        process.wait(120)

    def acceptance(self, *arguments: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "manage.py", "acceptance", "--url", self.url, *arguments],
            cwd=APP,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def accept(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code, stdout, stderr."""
        process = self.acceptance(*arguments)
        try:
            out, err = process.communicate(timeout=600)
        finally:
            process.kill()
            process.wait()
        return process.returncode, out, err

    def left(self) -> list[str]:
        """What canaries left in the database and in the folders."""
        script = (
            "from runapp.models import *; "
            "print([*RawData.objects.filter(name__startswith='canary').values_list('name', flat=True),"
            "*Submission.objects.filter(pk__gte=2*10**9), *SubmissionFold.objects.filter(pk__gte=2*10**9)])"
        )
        rows = self.manage("shell", "--no-imports", "-c", script).strip()
        return self.left_files() + ([] if rows == "[]" else [rows])

    def left_files(self) -> list[str]:
        return [str(path) for name in ("data", "submission") for path in (self.home / name).rglob("*")]

    def _worker(self, name: str, app: str, queues: str, slots: int, *program: str) -> None:
        worker = ["-A", app, "worker", "-Q", queues, "-c", str(slots), "-n", f"celery@{name}", "-l", "warning"]
        self._spawn(name, *(program or ("-m", "celery")), *worker)

    def _spawn(self, name: str, *arguments: str) -> "subprocess.Popen[bytes]":
        with self.log.open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, *arguments], cwd=APP, env=self.environment, stdout=log, stderr=log
            )
        return self.processes[name]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    server = Cluster(tmp_path_factory.mktemp("cluster") / "home")
    try:
        server.start()
        server.runner("one", "L,celery", 2)
        server.runner("two", "L,H,celery")
        yield server
    finally:
        server.stop()


def test_all_runners_are_proved_in_all_their_queues(cluster: Cluster) -> None:
    code, out, err = cluster.accept("--runner", "one=L,celery:2", "--runner", "two=L,H,celery", "--json")
    assert code == 0, err + cluster.evidence()
    assert json.loads(out) == {
        "runners": {"one": {"L": "ok", "celery": "ok"}, "two": {"L": "ok", "H": "ok", "celery": "ok"}},
        "failed": [],
        "unproven": [],
    }
    assert "waiting for one/L" in err
    assert cluster.left() == []


def test_a_runner_that_is_not_there_is_named(cluster: Cluster) -> None:
    code, out, _ = cluster.accept("--runner", "one=L,celery:2", "--runner", "three=L", "--timeout", "15")
    assert code == 1
    [line] = [line for line in out.splitlines() if "three" in line]
    assert "no canary reached it within 15 s: is datarun-runner running there?" in line
    assert cluster.left() == []


def test_wrong_predictions_are_reported(cluster: Cluster, tmp_path: Path) -> None:
    script = tmp_path / "wrong.py"
    script.write_text(f"import sys; sys.path.insert(0, {str(APP)!r})\n{WRONG}")
    cluster.stop_one("two")
    cluster.runner("two", "L,H", 1, str(script))
    try:
        code, out, err = cluster.accept("--runner", "one=L,celery:2", "--runner", "two=H,L", "--json")
    finally:
        cluster.stop_one("two")
        cluster.runner("two", "L,H,celery")
    assert code == 1, err
    report = json.loads(out)
    assert report["failed"] == ["two"]
    assert report["runners"]["one"] == {"L": "ok", "celery": "ok"}
    assert "wrong predictions: its test_predictions begin with" in report["runners"]["two"]["H"]
    assert cluster.left() == []


def test_a_runner_whose_data_nobody_splits_is_not_blamed(cluster: Cluster) -> None:
    """The other's absence is the reason."""
    cluster.stop_one("one")
    cluster.stop_one("two")
    cluster.runner("two", "L,H")
    try:
        code, out, err = cluster.accept("--runner", "one=celery", "--runner", "two=L,H", "--json", "--timeout", "8")
    finally:
        cluster.stop_one("two")
        cluster.runner("one", "L,celery", 2)
        cluster.runner("two", "L,H,celery")
    assert code == 1, err
    report = json.loads(out)
    assert (report["failed"], report["unproven"]) == (["one"], ["two"])
    assert report["runners"]["two"]["L"] == "not tried: no runner has split the canaries' data"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_leaves_nothing_behind_when_it_is_interrupted(cluster: Cluster, number: signal.Signals) -> None:
    # With one that nobody serves there are canaries until the signal.
    process = cluster.acceptance("--runner", "one=L,celery:2", "--runner", "two=L,H,celery", "--runner", "three=L")
    until(lambda: len(cluster.left_files()) > 2, 250, "canaries are there")
    process.send_signal(number)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "interrupted; the canaries are deleted" in err
    assert cluster.left() == []


def test_the_workers_say_what_they_do(cluster: Cluster) -> None:
    def told() -> Any:
        workers = json.loads(cluster.manage("workers"))
        one, two = workers.get("celery@one"), workers.get("celery@two")
        return one if one and two and one["queues"] else None  # its queues are another answer of it

    one = until(told, 300, "both workers answer")
    assert (one["slots"], one["busy"], one["queues"]) == (2, 0, ["L", "celery"])
    assert one["done"] >= 0
    assert {*json.loads(cluster.manage("workers", "celery@two", "celery@nobody"))} == {"celery@two"}


def test_it_rejects_a_master_that_does_not_answer(cluster: Cluster) -> None:
    code, _, err = cluster.accept("--runner", "one=celery", "--url", "http://127.0.0.1:9")
    assert code != 0
    assert "does not answer" in err
    assert "Traceback" not in err


def test_it_rejects_a_wrong_password(cluster: Cluster) -> None:
    process = subprocess.run(
        [sys.executable, "manage.py", "acceptance", "--url", cluster.url, "--runner", "one=celery"],
        cwd=APP,
        env=cluster.environment | {"USER_PSWD": "not it"},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 1
    assert "401" in process.stderr
    assert os.path.basename(sys.executable) not in process.stderr
