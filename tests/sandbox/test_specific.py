"""A custom data set's own code, when it is imported: it comes through the API too."""

from dataclasses import replace
from pathlib import Path

import pytest

from runner.jobs import DataSet, Failure, Outcome, Reason, SplitJob
from runner.sandbox import launch, slots
from runner.sandbox.data import DataSets
from runner.sandbox.executor import Executor
from tests.sandbox.conftest import HONEST, LIMITS, SLOWNESS, SPECIFIC, Bench, flowers, wait_for

pytestmark = pytest.mark.usefixtures("clean")


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import os, time\nfor _ in range(500):\n    if os.fork() == 0: time.sleep(60)\n", "BlockingIOError"),
        (f"memory = bytearray({4 * LIMITS.memory})\n", "MemoryError"),
        ("import os\nos._exit(3)\n", "ends or blocks"),
        ("while True: pass\n", "ends or blocks"),
        ("import socket\nsocket.create_connection(('127.0.0.1', 22))\n", "Connection refused"),
        ("1 / 0\n", "ZeroDivisionError"),
    ],
    ids=["fork bomb", "memory", "exit", "endless", "network", "mistake"],
)
def test_what_it_may_not_do_is_an_error_of_the_data(
    code: str, says: str, executor: Executor, bench: Bench, tmp_path: Path
) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    flowers().to_csv(raw / "flowers.csv", index=False)
    (raw / "specific.py").write_text(code + SPECIFIC)
    outcome = executor.run_split(SplitJob(raw, tmp_path / "split", "flowers", "species", True))
    assert outcome.failure.reason is Reason.DATA
    assert says in outcome.failure.message
    assert not (tmp_path / "split").exists()
    wait_for(lambda: not sandboxes(tmp_path), lambda: f"left behind: {sandboxes(tmp_path)}")


def test_it_has_one_capability_and_sees_itself_alone(executor: Executor, bench: Bench, tmp_path: Path) -> None:
    """Over its own namespaces: that for its folds' mounts."""
    raw = tmp_path / "raw"
    raw.mkdir()
    look = "import os\nsaid = dict(line.split(':\\t') for line in open('/proc/self/status').read().splitlines())\n"
    look += "names = 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb', 'NoNewPrivs'\n"
    look += "seen = [int(said[name], 16) for name in names], os.getppid(), sorted(os.listdir('/tmp')), sorted(os.listdir('/data'))\n"
    look += "fds = sorted(os.readlink(f'/proc/self/fd/{fd}').partition(':')[0] for fd in range(100) if os.path.lexists(f'/proc/self/fd/{fd}'))\n"
    look += "raise ValueError(f'{seen} {fds} {os.uname().nodename}')\n"
    (raw / "specific.py").write_text(look)
    outcome = executor.run_split(SplitJob(raw, tmp_path / "split", "flowers", "species", True))
    one = 1 << 21  # CAP_SYS_ADMIN
    kept = sorted({Path(path).parts[2] for path in launch.kept()})  # of Python, where it is below /tmp
    assert str(([one, one, one, 0, 1], 0, kept, ["specific.py"])) in outcome.failure.message


def sandboxes(folder: Path) -> list[str]:
    """Processes of the whole machine, as one that is left behind is nobody's child: bubblewraps that show the folder."""
    lines = {path.parent.name: _read(path) for path in Path("/proc").glob("[0-9]*/cmdline")}
    return [pid for pid, line in lines.items() if line.startswith(b"bwrap") and bytes(folder) in line]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


TAKES_OVER = """
import json, os, sys, time
frame = sys._getframe()
while "Zygote" not in frame.f_globals: frame = frame.f_back
zygote, channel = frame.f_globals, frame.f_locals["self"]._channel
honest = zygote["watch"]
READY, TRAIN = b'["ready"]', b'["train"]'
MEASURED = dict(wall=time.monotonic(), cpu=0.0, memory=0)
ENDED = dict(killed="", status=1, soft=False, oom=False, printed=0, **MEASURED)

def say(what, *fds):
    import socket
    socket.send_fds(channel, [what if isinstance(what, bytes) else json.dumps(what).encode()], fds)

def end(pid):
    os.kill(pid, 9)
    os.waitpid(pid, 0)

def hostile(pid, words, output):
    end(pid)
    {body}

def watch(pid, words, output, *others):
    if sys._getframe(1).f_locals["options"]["task"] == "{task}":
        return hostile(pid, words, output)
    return honest(pid, words, output, *others)

zygote["watch"] = watch
"""

HOSTILE = {
    "it ends": "os._exit(1)",
    "it is killed": "os.kill(os.getpid(), 9)",
    "it closes the channel": "channel.close()",
    "it raises": "1 / 0",
    "no words": "return ENDED",
    "no object": "return []",
    "no numbers": "return ENDED | dict(wall='x', cpu=None, memory=[])",
    "not a number": "return ENDED | dict(wall=float('nan'), cpu=float('inf'))",
    "negative": "return ENDED | dict(cpu=-1, printed=-5)",
    "huge": "return ENDED | dict(memory=10 ** 4000, printed=10 ** 4000)",
    "longer": "return ENDED | dict(printed=10 ** 5000)",
    "wrong types": "return dict.fromkeys(ENDED, {})",
    "an odd signal": "return ENDED | dict(status=-(1 << 70))",
    "a long answer": "say(b'x' * 100_000)",
    "a deep answer": "say(b'[' * 60_000)",
    "an empty message": "say(b'')",
    "an unasked descriptor": "fd = os.memfd_create('x'); os.ftruncate(fd, 1 << 40); say({'ended': ENDED}, fd)",
    "many descriptors": "say({'ended': ENDED}, *[0] * 200)",
    "an error of its own": "say({'error': {'a': 'x' * 60_000}})",
    "no readiness": "say({'said': MEASURED}); say(TRAIN)",
    "words of one that is dead": "say({'said': MEASURED}); say(READY); os._exit(0)",
    "endless words": "say({'said': MEASURED}); say(READY)\n    while True: say({'said': MEASURED}); say(b'[]')",
}


@pytest.mark.parametrize("task", ["split", "read", "fold"])
@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
def test_what_its_zygote_does_is_an_error_of_the_data(
    body: str, task: str, executor: Executor, bench: Bench, tmp_path: Path
) -> None:
    failure = run_with(TAKES_OVER.replace("{body}", body).replace("{task}", task), executor, tmp_path)
    assert failure is not None and failure.reason is Reason.DATA, failure
    assert failure.stage == "split" and len(failure.message) < 1 << 16


@pytest.mark.parametrize("task", ["split", "read", "fold"])
@pytest.mark.parametrize(
    "body",
    [
        "time.sleep(600)",
        "os.kill(os.getpid(), 19)",
        "say({'said': MEASURED}); say(READY)\n    while True: say({'said': MEASURED}); time.sleep(1)",
        "say({'said': MEASURED}); say(READY)\n"
        "    for _ in range(6): time.sleep(2); say({'said': MEASURED}); say(b'[]')",
    ],
    ids=["silent", "stopped", "half a word", "slow words"],
)
def test_it_does_not_hold_a_slot_for_longer_than_the_hard_limit(
    body: str, task: str, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "SLACK", 1.0)
    limits = replace(LIMITS, soft_time=2 * SLOWNESS, hard_time=3 * SLOWNESS)
    executor = Executor(limits, slots=1)
    try:
        failure = run_with(TAKES_OVER.replace("{body}", body).replace("{task}", task), executor, tmp_path)
        assert failure is not None and failure.reason is Reason.DATA, failure
    finally:
        executor.close()


@pytest.mark.parametrize(
    "do",
    [
        "os.ftruncate(fd, 1 << 50)",
        "fcntl.fcntl(fd, 1033, 1)",
        "kept.append(mmap.mmap(fd, 1 << 20))",
    ],
    ids=["larger than memory", "sealed in its own way", "still mapped"],
)
def test_the_memory_that_it_fills_is_bounded(do: str, executor: Executor, bench: Bench, tmp_path: Path) -> None:
    code = """
import fcntl, mmap, os, sys
kept = []
def fills(task):
    fd = task.fds[0]
    os.ftruncate(fd, 1 << 20)
    {do}
    task.say("done", (50, 100))
sys.modules["runner.sandbox.work"].read = fills
"""
    failure = run_with(code.replace("{do}", do), executor, tmp_path)
    assert failure is not None and failure.reason in (Reason.DATA, Reason.MEMORY_LIMIT, Reason.SCRATCH_SPACE)


def test_what_it_has_measured_is_not_believed(executor: Executor, bench: Bench, tmp_path: Path) -> None:
    lies = "return ENDED"
    code = TAKES_OVER.replace("end(pid)\n    {body}", "{body}").replace("{task}", "fold").replace("{body}", lies)
    code = code.replace("def hostile(pid, words, output):", "def hostile(pid, words, output, *others):")
    code = code.replace("hostile(pid, words, output)\n", "hostile(pid, words, output, *others)\n")
    code = code.replace(
        lies,
        """import runner.sandbox.watch as own
    class Meter(type(others[2])):
        def __init__(self): pass
        interval = None
        cpu = peak = lambda self: next(numbers)
        over = lambda self: False
    numbers = iter([0, 0, *[1 << 60] * 99])
    return honest(pid, words, output, *others[:2], Meter(), *others[3:])""",
    )
    outcome = fold_with(code, executor, tmp_path)
    assert outcome.failure is None
    measures = outcome.measures
    assert measures["train_cpu_time"] + measures["test_cpu_time"] < 600
    assert max(measures["train_memory"], measures["test_memory"]) < 1 << 40


def test_what_it_does_later_harms_no_fold_of_others(executor: Executor, bench: Bench, tmp_path: Path) -> None:
    """Its processes end before the slot works for another data set."""
    later = "import os, time\nif os.fork() == 0:\n    while True: time.sleep(1)\n"
    assert fold_with(later, executor, tmp_path).failure is None
    assert sandboxes(tmp_path)
    bench.check_honest()
    assert not sandboxes(tmp_path)


def test_a_zygote_that_ended_meanwhile_costs_nobody_a_fold(executor: Executor, bench: Bench, tmp_path: Path) -> None:
    later = "import os, signal\nsignal.signal(signal.SIGALRM, lambda *_: os._exit(1))\n"
    later += "signal.setitimer(signal.ITIMER_REAL, 1)\n"
    outcome = fold_with(later, executor, tmp_path)
    assert outcome.failure is None or outcome.failure.reason is Reason.DATA


def run_with(code: str, executor: Executor, folder: Path) -> Failure | None:
    """What becomes of a split and a fold of a data set with this code before its own."""
    outcome = split_with(code, executor, folder)
    return outcome.failure or fold_with(code, executor, folder, is_split=True).failure


def split_with(code: str, executor: Executor, folder: Path) -> Outcome:
    raw = folder / "raw"
    raw.mkdir()
    flowers().to_csv(raw / "flowers.csv", index=False)
    (raw / "specific.py").write_text(code + SPECIFIC)
    return executor.run_split(SplitJob(raw, folder / "split", "flowers", "species", True))


def fold_with(code: str, executor: Executor, folder: Path, is_split: bool = False) -> Outcome:
    assert is_split or split_with(code, executor, folder).failure is None
    outcome = Bench(executor, DataSet(folder / "split", "species", ("classifier",), True), folder).run(HONEST)
    executor._data = DataSets(1 << 30)  # it holds a descriptor for each
    return outcome
