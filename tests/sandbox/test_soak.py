"""Many folds on one runner, honest and hostile: it ends as it began. `pytest -m soak`; SOAK_FOLDS sets how many."""

import os
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from runner.jobs import DataSet, FoldJob, Limits, SplitJob
from runner.sandbox.executor import Executor
from tests.sandbox.conftest import HONEST, Bench, reference, traces, wait_for, with_body

HOSTILE = {
    "raises": "raise ValueError",
    "exits": "import os; os._exit(3)",
    "crashes": "import ctypes; ctypes.string_at(0)",
    "prints": "print('x' * 5_000_000)",
    "memory": "import numpy; numpy.ones(1 << 40)",
    "disk": "open('/dev/shm/x', 'wb').write(b'x' * (64 << 20))",
    "daemon": "import os, time\nif os.fork() == 0: time.sleep(99)",
    "closes": "import os; os.closerange(0, 99)",
    "time": "import time; time.sleep(9)",
    "deaf": "import signal, time\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\ntime.sleep(9)",
    "bomb": "import os\nwhile True: os.fork()",
}


def memory_of(pids: set[str]) -> int:
    """Bytes that the runner's processes share with no other."""
    total = 0
    for pid in pids:
        try:
            lines = Path("/proc", pid, "smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))
    return total


@pytest.mark.soak
def test_the_end_is_as_the_start(standard: DataSet, folder: Path, tmp_path: Path) -> None:
    executor = Executor(Limits(soft_time=1, hard_time=1.5, memory=256 << 20, scratch=32 << 20, processes=16), slots=1)
    rng = random.Random(1)
    try:
        second = DataSet(tmp_path / "second", "species", ("classifier",), False)
        split = SplitJob(folder / "raw", second.folder, "flowers", "species", False, 0.5, 1)
        assert executor.run_split(split).failure is None
        bench = Bench(executor, standard, tmp_path)
        right = {data: reference(data, bench.submit(HONEST), np.arange(40)) for data in (standard, second)}
        honest = bench.submit(HONEST)
        hostile = {name: bench.submit(with_body(body)) for name, body in HOSTILE.items()}
        ended: Counter[str] = Counter()

        def fold(name: str) -> None:
            data = rng.choice([standard, second])
            outcome = executor.run_fold(FoldJob(data, hostile.get(name, honest), np.arange(40)), lambda *_: None)
            ended[f"{name}: {outcome.failure.reason if outcome.failure else outcome.state}"] += 1
            if name == "honest":
                assert outcome.failure is None, outcome.failure
                assert outcome.test_predictions.tobytes() == right[data][1].tobytes()

        names = ["honest"] * 12 + list(HOSTILE)[:8] * 2
        slow = list(HOSTILE)[8:]
        for name in (*names, *slow):
            fold(name)
        before, memory = traces(), memory_of(traces()["processes"])
        for number in range(int(os.environ.get("SOAK_FOLDS", 2000))):
            fold(rng.choice(slow) if number % 40 == 39 else rng.choice(names))
        wait_for(lambda: traces() == before, lambda: f"{before} != {traces()}")
        grown = memory_of(traces()["processes"]) - memory
        print(f"\n{sum(ended.values())} folds; private memory {memory >> 20} MiB, grown by {grown >> 10} KiB")
        print("\n".join(f"  {count:5} {what}" for what, count in sorted(ended.items())))
        assert grown < 8 << 20
    finally:
        executor.close()
