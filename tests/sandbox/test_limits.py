"""Memory and processes, where the host has a cgroup for them: measured and limited fold by fold."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from runner.jobs import FoldJob, Reason
from runner.sandbox import cgroups
from runner.sandbox.executor import Executor
from tests.runner.folds import descendants
from tests.sandbox.conftest import HONEST, LIMITS, Bench, traces, wait_for, with_body

pytestmark = pytest.mark.usefixtures("clean")


@pytest.fixture(autouse=True)
def strength(executor: Executor) -> str:
    if executor.strength == cgroups.Sampling.strength:
        pytest.skip("no cgroup of this host is ours")
    return executor.strength


@pytest.fixture
def v2(strength: str) -> cgroups.V2:
    if strength != cgroups.V2.strength:
        pytest.skip("no cgroup v2 with controllers")
    return cgroups.V2()


def test_the_peak_is_that_of_the_fold_alone(bench: Bench) -> None:
    large = bench.fit("import numpy\nnumpy.ones(15 << 20)").measures
    assert 120_000 < large["train_memory"] < 160_000
    small = bench.run(HONEST).measures
    assert 500 < small["train_memory"] < 50_000 and 0 < small["test_memory"] < 50_000


def test_memory_of_processes_that_are_small_each(bench: Bench, v2: cgroups.V2) -> None:
    """Below RLIMIT_AS, so the kernel kills: all of the fold, and it is told apart from other ends."""
    body = """
import os, time
for _ in range(8):
    if os.fork() == 0:
        b = bytearray(b'x' * (60 << 20))
        time.sleep(999)
time.sleep(999)
"""
    outcome = bench.fit(body)
    assert outcome.failure.reason is Reason.MEMORY_LIMIT, outcome.failure
    assert outcome.failure.message == "more than the 256 MiB of memory that a fold may use"
    assert 200_000 < outcome.measures["train_memory"] <= 256 << 10


def test_files_in_memory_count(bench: Bench) -> None:
    body = """
for place in ('/tmp', '/dev/shm'):
    open(place + '/x', 'wb').write(b'x' * (30 << 20))
import numpy
b = numpy.ones(27 << 20)
"""
    outcome = bench.fit(body)
    assert outcome.failure.reason is Reason.MEMORY_LIMIT, outcome.failure


def test_a_group_a_fold_with_its_limits(bench: Bench, v2: cgroups.V2) -> None:
    outcomes = []
    job = FoldJob(bench.data, bench.submit(with_body("import time\ntime.sleep(999)")), np.arange(40))
    thread = threading.Thread(target=lambda: outcomes.append(bench.executor.run_fold(job, lambda *_: None)))
    thread.start()

    def groups() -> list[Path]:
        return [Path(group) for group in traces()["groups"] if "datarun-fold" in group]

    wait_for(
        lambda: any((group / "cgroup.procs").read_text() for group in groups()), lambda: "no group with a process in it"
    )
    (group,) = groups()
    limits = {
        name: (group / name).read_text().strip()
        for name in ("memory.max", "memory.swap.max", "memory.oom.group", "pids.max")
    }
    thread.join()
    assert limits == {
        "memory.max": str(LIMITS.memory),
        "memory.swap.max": "0",
        "memory.oom.group": "1",
        "pids.max": str(LIMITS.processes),
    }
    assert outcomes[0].failure.reason is Reason.TIME_LIMIT
    assert not groups()


def test_a_fold_has_no_more_cpu_than_another(bench: Bench, executor: Executor) -> None:
    """However many processes it has, and whatever sessions these are in."""
    if executor._groups.cpu == cgroups.AFFINITY:
        pytest.skip("no cgroup of this host shares out CPU")
    body = """
import os, time
for _ in range(8):
    if os.fork() == 0:
        os.setsid()
        time.sleep(600)
time.sleep(600)
"""
    thread = threading.Thread(target=bench.fit, args=(body,))
    thread.start()
    v1 = executor.strength == cgroups.V1.strength
    kind, file, share = ("datarun-slot", "cpu.shares", "1024") if v1 else ("datarun-fold", "cpu.weight", "100")

    def processes() -> list[str]:
        return [group for pid in descendants() for group in groups_of(pid) if kind in group]

    wait_for(lambda: len(processes()) > 8, lambda: "no processes in a group with the controller cpu")
    assert {(Path(group) / file).read_text().strip() for group in processes()} == {share}
    thread.join()


def groups_of(pid: int) -> list[str]:
    """The folder of this process's group with the controller cpu."""
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except OSError:  # it has just ended
        return []
    found = [line.split(":", 2) for line in lines]
    v1 = [(path, "cpu") for _, names, path in found if "cpu" in names.split(",")]
    return [str(cgroups._mounted(kind)) + path for path, kind in v1 or [(path, "") for _, _, path in found]]


def test_processes_are_counted_by_group(v2: cgroups.V2) -> None:
    """Without RLIMIT_NPROC, which would be the first to refuse in a fold."""
    code = """
import os, sys, time
os.write(int(sys.argv[1]), b'0')
children = []
try:
    while len(children) < 20:
        pid = os.fork()
        if not pid:
            time.sleep(99)
        children.append(pid)
except BlockingIOError:
    pass
for pid in children:
    os.kill(pid, 9)
    os.wait()
print(len(children))
"""
    group = v2.fold(cgroups.Group(), 64 << 20, 5)
    try:
        join = group.files["join"]
        done = subprocess.run(
            [sys.executable, "-c", code, str(join)], pass_fds=[join], capture_output=True, text=True, check=True
        )
        assert done.stdout == "4\n"
    finally:
        group.close()
    assert not group.folders[0].exists()


def test_groups_of_a_runner_that_was_killed_are_removed(v2: cgroups.V2) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    left = v2._own / f"datarun-fold-{process.pid}-1"
    left.mkdir()
    mine = v2._make("fold")
    cgroups.V2()
    assert not left.exists() and mine.exists()
    mine.rmdir()


def test_a_runner_in_a_group_with_others_moves_them(v2: cgroups.V2) -> None:
    """A group that hands controllers on may have no processes of its own: all were moved one level down."""
    assert (v2._own / "cgroup.procs").read_text() == ""
    assert str(os.getpid()) in (v2._own / "datarun-supervisor/cgroup.procs").read_text().split()
