"""A custom data set's own code, when it is imported: it comes through the API too."""

from pathlib import Path

import pytest

from runner.jobs import Reason, SplitJob
from runner.sandbox import launch
from runner.sandbox.executor import Executor
from tests.sandbox.conftest import LIMITS, SPECIFIC, Bench, flowers, wait_for

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
