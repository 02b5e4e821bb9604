"""A runner's spool: what was not confirmed is sent in the end, and what ended with a runner is reported."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runner import spool
from tests.runner.helpers import wait_until

FOLD, PROGRESS = "runapp.tasks.save_fold", "runapp.tasks.save_progress"


class Broker:
    """Takes messages, or is away."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, dict]] = []
        self.away = False
        self.tries = 0

    def __call__(self, name, message):
        self.tries += 1
        if self.away:
            raise ConnectionRefusedError("the broker is away")
        self.taken.append((name, message))


@pytest.fixture
def broker():
    return Broker()


@pytest.fixture
def start(tmp_path, broker):
    """start(): the spool of a process that starts."""
    made = []

    def start():
        made.append(spool.Spool(tmp_path / "spool", broker, pause=0.01))
        made[-1].start()
        return made[-1]

    yield start
    broker.away = False
    for one in made:
        one._held.close()


def die(one):
    """What a killed process leaves: its files, without the lock; and it sends nothing any more."""
    with one._sending, one._lock:
        one._left.clear()
    one._held.close()


_begun: list[Any] = []


def begin(one, task_id="t1"):
    """A fold that begins, and never comes to its end."""
    _begun.append(one.begun(task_id, spool.LOST, result(task_id)))
    _begun[-1].__enter__()


def files(tmp_path, pattern="*"):
    return sorted(path.name for path in (tmp_path / "spool").glob(f"*/{pattern}") if path.name != "lock")


def result(task_id="t1", **more):
    return {"databoard_sf_id": 1, "task_id": task_id} | more


def test_it_works(start, broker, tmp_path):
    start().send(FOLD, result())
    assert broker.taken == [(FOLD, result())]
    assert files(tmp_path) == []


def test_it_is_on_the_disk_before_it_is_sent(start, broker, tmp_path, monkeypatch):
    seen = []
    one = start()
    monkeypatch.setattr(one, "_publish", lambda name, message: seen.extend(files(tmp_path)))
    one.send(FOLD, result())
    assert [name.split(".")[0] for name in seen] == ["t1"]


def test_while_the_broker_is_away_the_caller_goes_on_and_nothing_is_lost(start, broker, tmp_path):
    one = start()
    broker.away = True
    for number in range(3):
        one.send(FOLD, result(f"t{number}"))
    assert len(files(tmp_path, "*.result")) == 3
    wait_until(lambda: broker.tries > 6)
    broker.away = False
    wait_until(lambda: len(broker.taken) == 3)
    wait_until(lambda: files(tmp_path) == [])
    assert sorted(message["task_id"] for _, message in broker.taken) == ["t0", "t1", "t2"]


def test_what_a_process_left_is_sent_by_the_next(start, broker, tmp_path):
    first = start()
    broker.away = True
    first.send(FOLD, result())
    die(first)
    broker.away = False
    second = start()
    assert broker.taken == [(FOLD, result())]
    assert second.knows("t1")
    assert files(tmp_path) == []


def test_what_a_process_left_is_sent_later_where_the_broker_is_still_away(start, broker):
    first = start()
    broker.away = True
    first.send(FOLD, result())
    die(first)
    second = start()
    assert second.knows("t1")
    broker.away = False
    wait_until(lambda: broker.taken == [(FOLD, result())])


def test_a_folder_that_another_process_has_just_taken_over_is_passed_over(start, tmp_path, monkeypatch):
    die(start())
    real = spool._hold

    def late(folder):
        held = real(folder)
        if held is not None and folder.name[0] != ".":
            shutil.rmtree(folder)
        return held

    monkeypatch.setattr(spool, "_hold", late)
    start()


def test_a_folder_that_another_process_looks_into_stays(start, broker, tmp_path, monkeypatch):
    first = start()
    broker.away = True
    first.send(FOLD, result())
    die(first)
    broker.away = False
    real = Path.rmdir

    def late(folder):
        (folder / "lock").touch()
        real(folder)

    monkeypatch.setattr(Path, "rmdir", late)
    start()
    assert broker.taken == [(FOLD, result())]


def test_a_fold_that_began_and_ended_leaves_nothing(start, tmp_path):
    one = start()
    with one.begun("t1", spool.LOST, result()) as settle:
        settle()
        assert len(files(tmp_path, "t1.*.begun")) == 1
    assert files(tmp_path) == []


def test_a_fold_that_failed_leaves_nothing(start, tmp_path):
    one = start()
    with pytest.raises(KeyError), one.begun("t1", spool.LOST, result()):
        raise KeyError
    assert files(tmp_path) == []


def test_a_fold_that_ended_with_its_process_is_reported_by_the_next(start, broker, tmp_path):
    first = start()
    begin(first)
    die(first)
    second = start()
    assert broker.taken == [(spool.LOST, result())]
    assert not second.knows("t1"), "it is to be run again"
    assert files(tmp_path) == []
    die(second)
    start()
    assert len(broker.taken) == 1


def test_a_report_waits_for_the_broker_too(start, broker):
    first = start()
    begin(first)
    die(first)
    broker.away = True
    second = start()
    die(second)
    third = start()
    assert not third.knows("t1")
    broker.away = False
    wait_until(lambda: broker.taken == [(spool.LOST, result())])


def test_a_fold_whose_result_is_there_is_not_lost(start, broker):
    first = start()
    broker.away = True
    begin(first)
    first.send(FOLD, result())
    die(first)
    broker.away = False
    start()
    assert [name for name, _ in broker.taken] == [FOLD]


def test_a_task_that_runs_anew_has_no_result_yet(start):
    """The master sends a split's task again under the same id."""
    one = start()
    one.send("runapp.tasks.save_split", result())
    assert one.knows("t1")
    with one.begun("t1", spool.LOST, result()):
        assert not one.knows("t1")


def test_a_message_that_is_handed_back_is_no_result(start):
    one = start()
    one.send(spool.RETURNED, result())
    assert not one.knows("t1")


def test_files_that_are_not_whole_are_passed_over(start, broker, tmp_path):
    """After a power cut."""
    first = start()
    (first.own / "t1.0.result").write_bytes(b"")
    (first.own / "t2.0.part").write_bytes(b"[")
    begin(first, "t3")
    die(first)
    start()
    assert broker.taken == [(spool.LOST, result("t3"))]
    assert files(tmp_path) == []


def test_a_process_that_runs_keeps_what_is_its_own(start, broker, tmp_path):
    code = """
import sys
from pathlib import Path
from typing import Any
from runner import spool
one = spool.Spool(Path(sys.argv[1]), print)
with one.begun("t1", spool.LOST, {"task_id": "t1"}):
    print("begun", flush=True)
    sys.stdin.read()
"""
    command = [sys.executable, "-c", code, str(tmp_path / "spool")]
    environment = {"PYTHONPATH": str(Path(spool.__file__).parents[1]), "DATARUN_HOME": str(tmp_path)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"begun\n"
        start()
        assert broker.taken == []
        other.kill()
    start()
    assert [name for name, _ in broker.taken] == [spool.LOST]


def test_marks_are_forgotten_where_a_process_was_ended_on_purpose(start, broker, tmp_path):
    first = start()
    broker.away = True
    begin(first)
    first.send(FOLD, result("t2"))
    die(first)
    spool.forget_begun(tmp_path / "spool")
    broker.away = False
    start()
    assert broker.taken == [(FOLD, result("t2"))]


def test_a_full_disk_stops_no_fold(start, monkeypatch, tmp_path):
    one = start()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(spool.json, "dumps", full)
    with one.begun("t1", spool.LOST, result()) as settle:
        settle()
    with pytest.raises(OSError):
        one.send(FOLD, result())
    assert files(tmp_path) == []
