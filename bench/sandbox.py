"""What the sandbox costs: folds through its executor beside the same folds in one warm process, in turns.

`python -m bench.sandbox` prints the figures of a small fold alone, as JSON: so root has them from an ordinary user.
"""

import json
import logging
import multiprocessing
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from statistics import median
from threading import Barrier
from typing import Any

import numpy as np
import pandas as pd
from sklearn.datasets import make_classification

from bench.figures import ROOT, Figure, console
from runner import datasets, workflow
from runner.elements import SPECIFIC
from runner.jobs import STANDARD_FILES, DataSet, FoldJob, Limits, SplitJob
from runner.sandbox.executor import Executor
from runner.sandbox.plain import PlainExecutor
from test_files.kits import DIGITS, IRIS

LONG = 2.0
"""Seconds."""
MOST, MOST_RATIO = {True: 0.012, False: 0.020}, 1.02
"""The targets: seconds above the bound of a small fold, as root and as an ordinary user; times that of a long one."""
MANY, MOST_START, MOST_EACH, MOST_FIRST = 16, 6.0, 25_000_000, 0.5
"""Slots, and the targets: seconds until they are ready, bytes of each beyond the first, and seconds that a custom data
set's split takes more than its own code, or its first fold on a slot more than later ones."""
A_SECOND = {1: 60, 2: 100}
"""The targets: folds a second by slots."""
USER = "nobody"
"""Whom root becomes for the figures of an ordinary user."""
PATHS = {"PYTHONPATH": f"{ROOT / 'app'}:{ROOT}"}

FOREST = """
from sklearn.ensemble import RandomForestClassifier

class Classifier:
    def fit(self, X, y):
        self.model = RandomForestClassifier(n_estimators={trees}, random_state=1).fit(X, y)

    def predict_proba(self, X):
        return self.model.predict_proba(X)
"""


def measure() -> list[Figure]:
    with tempfile.TemporaryDirectory(prefix="datarun-bench-") as name, console.status("sandbox"):
        folder = Path(name)
        found = small_fold(folder)
        if os.geteuid() == 0:
            found += as_user()
        return [*found, *long_fold(folder), *(a_second(folder, slots, 50) for slots in (1, 2)), *slots(folder)]


# --- a fold ------------------------------------------------------------------------------------------


def small_fold(folder: Path) -> list[Figure]:
    strength, took, bound, cold = _compare(_iris(folder), 60, 3)
    user, over = pwd.getpwuid(os.geteuid()).pw_name, took - bound
    most = MOST[os.geteuid() == 0]
    name = f"iris fold, one tree, as {user}, memory by {strength}; bound: fit and predict in one process"
    return [
        Figure(name, _ms(took), _ms(bound), f"{took / bound:.2f}"),
        Figure("  more than the bound; target", _ms(over), _ms(most), kept=over <= most, target=True),
        Figure("  a cold interpreter a fold", _ms(cold), _ms(bound), f"{cold / bound:.2f}"),
    ]


def as_user() -> list[Figure]:
    """small_fold in a process of an ordinary user."""
    drop = ["setpriv", f"--reuid={USER}", f"--regid={pwd.getpwnam(USER).pw_gid}", "--clear-groups"]
    done = subprocess.run(
        [*_reachable(), *drop, sys.executable, "-m", "bench.sandbox"],
        cwd=ROOT,
        env=os.environ | PATHS | {"HOME": "/tmp"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        why = (done.stderr.strip() or "it said nothing").splitlines()[-1]
        return [Figure(f"iris fold as {USER}: not measured: {why}", "")]
    return [Figure(**figure) for figure in json.loads(done.stdout)]


def _reachable() -> list[str]:
    """Show the interpreter and this code to a user who may not enter the folders above them, /root perhaps."""
    words, opened = ["bwrap", "--die-with-parent", "--dev-bind", "/", "/"], set[Path]()
    for needed in dict.fromkeys((Path(sys.base_prefix), Path(sys.prefix), ROOT)):
        above = list(reversed(needed.parents))
        closed = next((number for number, path in enumerate(above) if not path.stat().st_mode & 1), len(above))
        for number, path in enumerate(above[closed:]):
            if path not in opened:
                words += ["--perms", "0755", "--dir" if number else "--tmpfs", str(path)]
                opened.add(path)
        if closed < len(above):
            words += ["--ro-bind", str(needed), str(needed)]
    return words


def long_fold(folder: Path) -> list[Figure]:
    X, y = make_classification(8000, 30, random_state=0)
    pd.DataFrame(X).rename(columns=str).assign(y=y).to_csv(folder / "long.csv", index=False)
    split = SplitJob(folder, folder / "long", "long", "y", False, 0.25, 1)
    few = 10
    [pace] = _in_turns((1, partial(_in_process, _job(folder, split, few))))
    _, took, bound, cold = _compare(_job(folder, split, max(1, round(few * LONG / pace))), 5, 1)
    name = f"fold of about {LONG:g} s; bound: fit and predict in one process; target for the ratio: {MOST_RATIO}"
    return [
        Figure(name, _ms(took), _ms(bound), f"{took / bound:.3f}", took / bound <= MOST_RATIO, target=True),
        Figure("  a cold interpreter a fold", _ms(cold), _ms(bound), f"{cold / bound:.3f}"),
    ]


def _compare(job: FoldJob, times: int, cold: int) -> tuple[str, float, float, float]:
    """What the sandbox controls memory by; median seconds in the sandbox, in this process, in a cold interpreter."""
    logging.getLogger(PlainExecutor.__module__).disabled = True  # its warning: no stranger's code here
    plain = PlainExecutor(Limits())
    with closing(Executor(Limits(), slots=1)) as executor:
        calls = partial(_run, executor, job), partial(_in_process, job), partial(_run, plain, job)
        took, bound, slow = _in_turns(*zip((times, times, cold), calls, strict=True))
        return executor.strength, took, bound, slow


def _in_turns(*calls: tuple[int, Callable[[], Any]]) -> list[float]:
    """Median seconds of each call, made that many times after one that does not count."""
    seconds: list[list[float]] = [[] for _ in calls]
    for turn in range(-1, max(times for times, _ in calls)):
        for (times, call), mine in zip(calls, seconds, strict=True):
            if turn < times:
                took = _seconds(call)
                mine += [took] * (turn >= 0)
    return [median(mine) for mine in seconds]


# --- slots -------------------------------------------------------------------------------------------


def slots(folder: Path) -> list[Figure]:
    """Start and memory of one slot and of many, and what a slot does for the first time."""
    imports = [sys.executable, "-c", "import runner.workflow, sklearn.ensemble, sklearn.linear_model"]
    starts: dict[int, list[float]] = {1: [], MANY: []}
    memory, bounds = {}, []
    for _ in range(3):
        for number, seconds in starts.items():
            began = time.perf_counter()
            with closing(Executor(Limits(), slots=number)):
                seconds.append(time.perf_counter() - began)
                memory[number] = _memory_below()
        bounds.append(_seconds(partial(subprocess.run, imports, check=True, env=os.environ | PATHS)))
    up, many, bound = median(starts[1]), median(starts[MANY]), median(bounds)
    job = _iris(folder)
    with closing(Executor(Limits(), slots=1)) as executor:
        _run(executor, job)
        warm = _memory_below()
    with _pool(1) as pool:
        plain = pool.submit(_memory_after, job).result()
    each = (memory[MANY] - memory[1]) // (MANY - 1)
    return [
        Figure("start of one slot; bound: its imports in a plain interpreter", _s(up), _s(bound), f"{up / bound:.2f}"),
        Figure(f"start of {MANY} slots; target", _s(many), _s(MOST_START), kept=many <= MOST_START, target=True),
        Figure("memory of an idle slot (Pss); bound: a process after a fold", _mb(memory[1]), _mb(plain)),
        Figure("  of each further one; target", _mb(each), _mb(MOST_EACH), kept=each <= MOST_EACH, target=True),
        Figure("  with iris loaded", _mb(warm), _mb(plain)),
        *_first_times(folder),
    ]


def _first_times(folder: Path) -> list[Figure]:
    """Of a custom data set: its split, and the first fold on each slot, beside its code in this process."""
    raw = folder / "digits"
    raw.mkdir()
    for path in DIGITS.data_files:
        shutil.copy(path, raw / (SPECIFIC if path.suffix == ".py" else path.name))
    plain = folder / "digits-plain"
    shutil.copytree(raw, plain)
    code = datasets.load_specific(plain)
    split_bound = _seconds(partial(code.prepare_data, str(plain)))
    data = DataSet(folder / "digits-split", "", (), custom=True)
    job = FoldJob(data, DIGITS.submission_folder(DIGITS.submissions[0]), np.arange(500))
    with closing(Executor(Limits(), slots=2)) as executor:
        split = _seconds(lambda: executor.run_split(SplitJob(raw, data.folder, "digits", "", True)))
        firsts = []
        with ThreadPoolExecutor(2) as threads:
            barrier = Barrier(2)

            def fold(turn: int) -> float:
                barrier.wait()
                return _seconds(partial(_run, executor, job))

            firsts = list(threads.map(fold, range(2)))
            again = median(max(threads.map(fold, range(2))) for _ in range(5))
    first = max(firsts)

    def more(name: str, took: float, bound: float) -> Figure:
        return Figure(name, _s(took), _s(bound), kept=took - bound <= MOST_FIRST, target=True)

    return [
        more(f"split of a custom data set; bound: its own code; target: {MOST_FIRST} s more", split, split_bound),
        more(f"its first fold on two slots; bound: later ones; target: {MOST_FIRST} s more", first, again),
    ]


def a_second(folder: Path, slots: int, number: int) -> Figure:
    jobs = [_iris(folder)] * number
    with (
        closing(Executor(Limits(), slots)) as executor,
        ThreadPoolExecutor(slots) as threads,
        _pool(slots) as processes,
    ):
        took, bound = _in_turns(
            (3, lambda: list(threads.map(partial(_run, executor), jobs))),
            (3, lambda: list(processes.map(_in_process, jobs))),
        )
    rate, wanted = number / took, A_SECOND[slots]
    name = f"iris folds a second, slots: {slots}; bound: in as many processes; target: {wanted}"
    ratio = f"{bound / took:.2f}"
    return Figure(name, f"{rate:.1f} /s", f"{number / bound:.1f} /s", ratio, rate >= wanted, target=True)


def _seconds(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _pool(processes: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"))


def _memory_after(job: FoldJob) -> int:
    _in_process(job)
    return _pss(os.getpid())


def _memory_below() -> int:
    """Of all processes that this one has started, and theirs."""
    children: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            children.setdefault(int(status.read_text().rpartition(")")[2].split()[1]), []).append(
                int(status.parent.name)
            )
    family = [os.getpid()]
    for pid in family:
        family += children.get(pid, [])
    return sum(map(_pss, family[1:]))


def _pss(pid: int) -> int:
    """Its memory, of what it shares its share."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


# --- jobs --------------------------------------------------------------------------------------------


def _iris(folder: Path) -> FoldJob:
    source, target = IRIS.folder, folder / "iris"
    split = SplitJob(source, target, IRIS.name, IRIS.target_column, False, IRIS.held_out_test, IRIS.random_state)
    return _job(folder, split, trees=1)


def _job(folder: Path, split: SplitJob, trees: int) -> FoldJob:
    """A fold of half of the rows, on a data set that is split unless it is there."""
    if not split.target.exists():
        raw = split.source / f"{split.name}.csv"
        split.target.mkdir()
        datasets.split_standard(raw, split.target, split.target_column, split.held_out_test, split.random_state)
    data = DataSet(split.target, split.target_column, ("classifier",), custom=False)
    submission = folder / f"submission_{trees}"
    submission.mkdir(exist_ok=True)
    (submission / "classifier.py").write_text(FOREST.format(trees=trees))
    X, _, _ = _loaded(data)
    return FoldJob(data, submission, np.arange(0, len(X), 2))


def _run(executor: Executor | PlainExecutor, job: FoldJob) -> None:
    failure = executor.run_fold(job).failure
    assert failure is None, failure


def _in_process(job: FoldJob) -> None:
    """The same fold, its submission imported anew."""
    X_train, y_train, X_test = _loaded(job.data)
    sys.path.insert(0, str(job.submission.parent))
    try:
        model = workflow.train(
            job.data.workflow_elements, job.submission.name, X_train.iloc[job.train_is], y_train[job.train_is]
        )
        for X in (X_train, X_test):
            workflow.as_predictions(workflow.predict(model, X), len(X))
    finally:
        sys.path.pop(0)
        for module in [name for name in sys.modules if name.partition(".")[0] == job.submission.name]:
            del sys.modules[module]


@cache
def _loaded(data: DataSet) -> tuple[pd.DataFrame, np.ndarray, pd.DataFrame]:
    return datasets.read_standard(data.target_column, *(data.folder / name for name in STANDARD_FILES))[:3]


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms"


def _s(seconds: float) -> str:
    return f"{seconds:.2f} s"


def _mb(size: int) -> str:
    return f"{size / 1e6:.0f} MB"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="datarun-bench-") as name:
        print(json.dumps([asdict(figure) for figure in small_fold(Path(name))]))
