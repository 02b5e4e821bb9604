"""`make test` without services; `make flaky`: it names what fails, with the seed, and leaves nothing behind."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import services, suite
from tests.e2e.live import until

ROOT = Path(__file__).parents[1]
SMALL = "-n0", "-p", "no:django", "-p", "no:schemathesis"
"""Of pytest: it starts in a third of the time."""
LONG = """
import pathlib, time
import pytest

calls = []

@pytest.mark.parametrize("number", [1, 2])
def test_the_first_fails_and_the_second_is_long(number):
    calls.append(number)
    assert len(calls) > 1
    pathlib.Path({runs!r}).touch()
    time.sleep(600)
"""


@pytest.fixture
def flaky(tmp_path: Path):
    """flaky(runs, code): the command started on one file of tests."""

    def start(runs: int, code: str) -> "subprocess.Popen[str]":
        (tmp_path / "test_it.py").write_text(code)
        command = ["env", "--default-signal=INT", sys.executable, "-m", "tests.flaky", str(runs), *SMALL, str(tmp_path)]
        return subprocess.Popen(command, cwd=ROOT, start_new_session=True, stdout=subprocess.PIPE, text=True)

    return start


def children(pid: int) -> set[int]:
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_without_services_all_run_on_the_embedded_default(monkeypatch, capsys) -> None:
    monkeypatch.setattr(services, "missing_packages", lambda: ["redis-server"])
    [command] = suite.parts([])
    assert command == [*suite.PYTEST, "-n", str(suite.PROCESSES)]
    assert "missing Debian packages: redis-server" in capsys.readouterr().err


def test_it_names_what_failed_with_the_seeds(flaky) -> None:
    process = flaky(2, "def test_wrong():\n    assert False\n\ndef test_right():\n    pass\n")
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 1
    first, second = re.findall(r"== run \d of 2, seed (\d+)", printed)
    assert "== 1 tests failed in 2 runs" in printed
    [line] = re.findall(r" 2 times  (.*test_it.py::test_wrong)\n", printed)
    assert f"seeds {first} {second}; again: " in printed
    assert f"--random-order-seed={second}" in printed.rpartition("again:")[2]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_it_leaves_nothing_behind(flaky, tmp_path: Path, number: signal.Signals) -> None:
    process = flaky(1, LONG.format(runs=str(tmp_path / "runs")))
    until((tmp_path / "runs").exists, 300, "the test runs")
    started = children(process.pid)
    [pytest_itself] = [pid for pid in started if "pytest" in Path(f"/proc/{pid}/cmdline").read_text()]
    family = started | children(pytest_itself)
    assert len(started) == 1 + (os.cpu_count() or 1)
    if number == signal.SIGKILL:
        process.kill()
    else:
        os.killpg(process.pid, number)  # as a terminal does
        printed, _ = process.communicate(timeout=300)
        assert "== interrupted in run 1" in printed
        assert "== 1 tests failed in 1 runs" in printed
    process.wait(300)
    until(lambda: not any(map(is_alive, family)), 300, "all of them end")
