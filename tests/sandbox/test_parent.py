"""The parent of all zygotes: what its death does, what its forks keep of it, what it spares them."""

import contextlib
import os
import select
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from runner.elements import parse_elements
from runner.jobs import DataSet, FoldJob, SplitJob
from runner.sandbox.executor import Executor
from test_files import kits
from tests.runner.folds import descendants, pid_namespaces
from tests.runner.helpers import split_job
from tests.sandbox.conftest import HONEST, LIMITS, Bench, wait_for


def below(namespaces: int) -> set[int]:
    """Processes below this one that are Python's, this many pid namespaces down."""
    found = set()
    for pid in descendants():
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
            if (
                pid_namespaces(pid) == namespaces
                and b"runner.sandbox.zygote" in words
                and not words.startswith(b"bwrap")
            ):
                found.add(pid)
    return found


def parents() -> set[int]:
    """The parents of zygotes; those are in a slot's pid namespace, and folds in others below that."""
    return below(0)


class Own:
    """A bench with an executor of its own."""

    def __init__(self, standard: DataSet, folder: Path) -> None:
        self._others = parents()
        self.executor = Executor(LIMITS, slots=2)
        self.bench = Bench(self.executor, standard, folder)

    @property
    def parents(self) -> set[int]:
        return parents() - self._others

    def kill_parents(self) -> None:
        """The first one, and those that have imported packages."""
        for parent in self.parents:
            os.kill(parent, signal.SIGKILL)


@pytest.fixture
def own(standard: DataSet, tmp_path: Path) -> Iterator[Own]:
    own = Own(standard, tmp_path)
    yield own
    own.executor.close()
    assert not own.parents


def test_one_parent_serves_all_slots(own: Own) -> None:
    assert len(own.parents) == 1


def test_a_fold_outlives_the_parent(own: Own) -> None:
    job = FoldJob(own.bench.data, own.bench.submit(HONEST), np.arange(40))
    outcome = own.executor.run_fold(job, lambda stage, _: own.kill_parents() if stage == "train" else None)
    assert outcome.failure is None and outcome.state == "TESTED"
    own.bench.check_honest()


def test_what_comes_after_its_death_has_another_parent(own: Own, custom: DataSet, folder: Path, tmp_path: Path) -> None:
    own.bench.check_honest()
    own.kill_parents()
    outcome = own.bench.fit("import sys\nprint('pygments' in sys.modules)\nimport pygments")
    assert outcome.failure is None and outcome.output == "True\n"
    own.kill_parents()
    split = SplitJob(folder / "raw", tmp_path / "v", "flowers", "species", False, 0.3, 42)
    assert own.executor.run_split(split).failure is None
    own.kill_parents()
    (tmp_path / "custom").mkdir()
    Bench(own.executor, custom, tmp_path / "custom").check_honest()
    own.bench.check_honest()


def test_a_fold_does_without_the_fork_that_waits_for_it(own: Own) -> None:
    others = below(2)
    own.bench.check_honest()
    wait_for(lambda: len(below(2) - others) == 1, lambda: "the zygote has not forked ahead")
    [waiting] = below(2) - others
    pidfd = os.pidfd_open(waiting)
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    select.select([pidfd], [], [])
    os.close(pidfd)
    own.bench.check_honest()


FIRST = """
import sys
sys.at_first = getattr(sys, "at_first", set(sys.modules))
"""
LAST = """
def say_what_is_new(method):
    def predict(*arguments):
        result = method(*arguments)
        print(*(set(sys.modules) - sys.at_first), sep="\\n")
        return result
    return predict

{name}.{method} = say_what_is_new({name}.{method})
"""


@pytest.mark.parametrize("kit", [kits.IRIS, kits.DIABETES, kits.DIGITS], ids=lambda kit: kit.name)
def test_a_fold_of_a_kit_imports_its_own_files_alone(kit: kits.Kit, executor: Executor, tmp_path: Path) -> None:
    """What it needs of the libraries the parent has imported, also what they import late, when they meet a frame."""
    job = split_job(kit, tmp_path)
    assert executor.run_split(job).failure is None
    elements = () if kit.custom else parse_elements(kit.workflow_elements)
    data = DataSet(job.target, kit.target_column, elements, kit.custom)
    last = ("Regressor", "predict") if "regressor" in elements else ("Classifier", "predict_proba")
    for name in kit.submissions:
        submission = tmp_path / f"{kit.name}_{name}"
        shutil.copytree(kit.submission_folder(name), submission)
        for path in submission.glob("*.py"):
            end = LAST.format(name=last[0], method=last[1]) if path.stem == last[0].lower() else ""
            path.write_text(FIRST + path.read_text() + end)
        outcome = executor.run_fold(FoldJob(data, submission, np.arange(80)))
        assert outcome.failure is None, outcome.failure
        assert {word for word in outcome.output.split() if not word.startswith(submission.name)} == set(), name
