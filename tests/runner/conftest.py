"""An executor, data sets and submissions for the tests of the runner.

How code is run is asked of `Executor` alone, so that the tests hold for whatever is behind it.
"""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from runner import datasets
from runner.elements import parse_elements
from runner.jobs import DataSet, FoldJob, Limits, Outcome
from runner.sandbox.executor import Executor
from runner.sandbox.plain import PlainExecutor
from runner.sandbox.start import AnyExecutor
from test_files.kits import Kit
from tests.runner.folds import ALL, classifier
from tests.runner.helpers import split_job

PATIENT = Limits(soft_time=40.0, hard_time=50.0)

HASTY = Limits(soft_time=4.0, hard_time=8.0)
"""Short, but long enough for a fold to begin on a machine that is busy."""

_numbers = itertools.count()


@pytest.fixture(scope="session")
def executor() -> Iterator[Executor]:
    """With limits that no test comes near."""
    executor = Executor(PATIENT, slots=2)
    yield executor
    executor.close()


@pytest.fixture(params=["sandbox", "plain"])
def either_executor(request: pytest.FixtureRequest, executor: Executor) -> AnyExecutor:
    """Both ways to run a fold."""
    return executor if request.param == "sandbox" else PlainExecutor(PATIENT)


@pytest.fixture(scope="session")
def hasty_executor() -> Iterator[Executor]:
    executor = Executor(HASTY, slots=1)
    yield executor
    executor.close()


@pytest.fixture
def make_submission(tmp_path: Path) -> Callable[..., Path]:
    """make_submission(classifier=code, ...) writes classifier.py, ... into a new folder."""

    def make(**modules: str) -> Path:
        folder = tmp_path / "submissions" / f"submission_{next(_numbers)}"
        folder.mkdir(parents=True)
        for name, code in modules.items():
            (folder / f"{name}.py").write_text(code)
        return folder

    return make


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    """30 rows to train, 10 to test, two classes, a classifier alone: the rows' number tells the two sets apart."""
    folder = tmp_path_factory.mktemp("small")
    rng = np.random.default_rng(57)
    train, test = (
        pd.DataFrame({"a": rng.normal(size=rows), "b": rng.normal(size=rows), "label": np.arange(rows) % 2})
        for rows in (30, 10)
    )
    datasets.write_standard(folder, train, test)
    return DataSet(folder, "label", ("classifier",), custom=False)


@pytest.fixture(scope="session")
def split_kit(executor: Executor, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Kit], DataSet]:
    """The kit's data set, split by the executor; once a kit."""
    known: dict[str, DataSet] = {}

    def split(kit: Kit) -> DataSet:
        if kit.name not in known:
            folder = tmp_path_factory.mktemp(kit.name)
            job = split_job(kit, folder)
            outcome = executor.run_split(job)
            assert outcome.failure is None
            elements = () if kit.custom else parse_elements(kit.workflow_elements)
            known[kit.name] = DataSet(job.target, kit.target_column, elements, kit.custom)
        return known[kit.name]

    return split


@pytest.fixture
def run(executor, make_submission, small_data):
    """run(fit=code, ...) -> the outcome of a fold with that classifier."""

    def run(by=executor, train_is=ALL, **code) -> Outcome:
        return by.run_fold(FoldJob(small_data, make_submission(classifier=classifier(**code)), train_is))

    return run
