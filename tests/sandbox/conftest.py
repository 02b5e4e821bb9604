"""A real executor, real data sets, and the same fold in one plain process to compare with."""

import importlib
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_iris

from runner import datasets, workflow
from runner.jobs import STANDARD_FILES, DataSet, FoldJob, Limits, Outcome, SplitJob
from runner.sandbox import launch
from runner.sandbox.executor import Executor
from runner.sandbox.start import AnyExecutor
from tests.runner.folds import descendants

SECRET = "not-for-submissions-4711"
os.environ["DATARUN_TEST_SECRET"] = SECRET
OURS = ("scratch ", "submission ", "nothing ")
"""Sources of the mounts that a fold makes."""
SLOWNESS = float(os.environ.get("DATARUN_TEST_SLOWNESS", "1"))
"""How many times as long everything takes as on an ordinary machine: emulated ones need more time."""
launch._START_SECONDS *= SLOWNESS
LIMITS = Limits(soft_time=8 * SLOWNESS, hard_time=10 * SLOWNESS, memory=256 << 20, scratch=32 << 20, processes=24)

HONEST = """
from sklearn.ensemble import RandomForestClassifier
class Classifier:
    def fit(self, X, y):
        self.model = RandomForestClassifier(n_estimators=5, random_state=1).fit(X, y)
    def predict_proba(self, X):
        return self.model.predict_proba(X)
"""

SPECIFIC = """
import os
import numpy as np
import pandas as pd
from importlib import import_module

def prepare_data(raw_data_path):
    frame = pd.read_csv(os.path.join(raw_data_path, "flowers.csv"))
    frame.iloc[::3].to_csv(os.path.join(raw_data_path, "public.csv"), index=False)
    frame.drop(frame.index[::3]).to_csv(os.path.join(raw_data_path, "hidden.csv"), index=False)

def _get(path):
    frame = pd.read_csv(path)
    return frame.drop(columns="species").to_numpy(), frame["species"].to_numpy()

def get_train_data(raw_data_path):
    return _get(os.path.join(raw_data_path, "public.csv"))

def get_test_data(raw_data_path):
    return _get(os.path.join(raw_data_path, "hidden.csv"))

def train_submission(module_path, X, y, train_is):
    model = import_module(".classifier", module_path).Classifier()
    model.fit(X[train_is], y[train_is])
    return model

def test_submission(model, X, test_is):
    return model.predict_proba(X[test_is])
"""


def pytest_report_header() -> str:
    wanted = os.environ.get("DATARUN_TEST_STRENGTH", "whatever this host has")
    return f"sandbox: memory control has to be {wanted}; limits and waits are multiplied by {SLOWNESS:g}"


def flowers() -> pd.DataFrame:
    frame = load_iris(as_frame=True).frame.rename(columns={"target": "species"})
    frame["species"] = frame["species"].map(dict(enumerate(("setosa", "versicolor", "virginica"))))
    return frame.sample(frac=1, random_state=3)


@pytest.fixture(scope="session")
def executor() -> Iterator[Executor]:
    executor = Executor(LIMITS, slots=1)
    assert executor.strength == os.environ.get("DATARUN_TEST_STRENGTH", executor.strength)
    yield executor
    executor.close()


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="session")
def standard(executor: Executor, folder: Path) -> DataSet:
    raw = folder / "raw"
    raw.mkdir()
    flowers().to_csv(raw / "flowers.csv", index=False)
    outcome = executor.run_split(SplitJob(raw, folder / "v1", "flowers", "species", False, 0.3, 42))
    assert outcome.failure is None, outcome.failure
    return DataSet(folder / "v1", "species", ("classifier",), custom=False)


@pytest.fixture(scope="session")
def custom(executor: Executor, folder: Path) -> DataSet:
    raw = folder / "raw-custom"
    raw.mkdir()
    flowers().to_csv(raw / "flowers.csv", index=False)
    (raw / "specific.py").write_text(SPECIFIC)
    outcome = executor.run_split(SplitJob(raw, folder / "c1", "flowers2", "species", True))
    assert outcome.failure is None, outcome.failure
    return DataSet(folder / "c1", "species", ("classifier",), custom=True)


def with_body(body: str) -> str:
    lines = "".join(f"        {line}\n" for line in body.strip("\n").splitlines())
    return HONEST.replace("(self, X, y):\n", f"(self, X, y):\n{lines}", 1)


@dataclass
class Bench:
    """Runs submissions; `trace` is what they may not leave behind."""

    executor: AnyExecutor
    data: DataSet
    folder: Path

    def submit(self, code: str, **files: str) -> Path:
        submission = Path(tempfile.mkdtemp(prefix="submission_", dir=self.folder))
        for name, text in {"classifier": code, **files}.items():
            (submission / f"{name}.py").write_text(text)
        return submission

    def run(self, code: str, rows: int = 40, **files: str) -> Outcome:
        self.stages: list[str] = []
        job = FoldJob(self.data, self.submit(code, **files), np.arange(rows))
        return self.executor.run_fold(job, lambda stage, measures: self.stages.append(stage))

    def fit(self, body: str, rows: int = 40) -> Outcome:
        """An honest submission but for these lines at the beginning of its fit."""
        return self.run(with_body(body), rows)

    def check_honest(self) -> None:
        """The next fold is right to the last bit."""
        outcome = self.run(HONEST)
        assert outcome.failure is None, outcome.failure
        full, test = reference(self.data, self.submit(HONEST), np.arange(40))
        assert outcome.full_train_predictions is not None and outcome.test_predictions is not None
        assert outcome.full_train_predictions.tobytes() == full.tobytes()
        assert outcome.test_predictions.tobytes() == test.tobytes()


def reference(data: DataSet, submission: Path, train_is: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The steps of the contract by hand, in this process."""
    sys.path.insert(0, str(submission.parent))
    try:
        if data.custom:
            specific = datasets.load_specific(data.folder)
            X, y, X_test, _ = datasets.read_custom(specific, data.folder)
            model = specific.train_submission(submission.name, X, y, train_is)
            raw = [specific.test_submission(model, part, np.arange(len(part))) for part in (X, X_test)]
        else:
            files = (data.folder / name for name in STANDARD_FILES)
            X, y, X_test, _ = datasets.read_standard(data.target_column, *files)
            model = workflow.train(data.workflow_elements, submission.name, X.iloc[train_is], y[train_is])
            raw = [workflow.predict(model, part) for part in (X, X_test)]
        return workflow.as_predictions(raw[0], len(X)), workflow.as_predictions(raw[1], len(X_test))
    finally:
        sys.path.remove(str(submission.parent))
        importlib.invalidate_caches()


def traces() -> dict[str, set[str]]:
    """Processes below this one, mounts, cgroups and open descriptors of this process.

    Not the one fork of a zygote that waits for the next fold: each fold has another one.
    """
    family = {os.getpid()} | descendants(waiting=False)
    # Not by a glob, which fails where those of others end meanwhile.
    ours = re.compile(rf"datarun-.*-{os.getpid()}-")
    groups = {
        os.path.join(top, name) for top, names, _ in os.walk("/sys/fs/cgroup") for name in names if ours.match(name)
    }
    return {
        "processes": set(map(str, family)),
        "mounts": {line for line in Path("/proc/self/mounts").read_text().splitlines() if line.startswith(OURS)},
        "groups": groups,
        "descriptors": set(map(str, range(len(os.listdir("/proc/self/fd"))))),  # counted: their numbers change
    }


@pytest.fixture
def bench(executor: Executor, standard: DataSet, tmp_path: Path) -> Bench:
    return Bench(executor, standard, tmp_path)


def left_since(before: dict[str, set[str]]) -> dict[str, set[str]]:
    """What is there now and was not then. What ends meanwhile, of an earlier test's executor for example, is no fault.

    Nor is what took the place of something: a slot that was started anew has other processes and groups.
    """
    return {
        kind: more for kind, now in traces().items() if (more := now - before[kind]) and len(now) > len(before[kind])
    }


@pytest.fixture
def clean(bench: Bench) -> Iterator[None]:
    """After the test: the next honest fold is right, and nothing is left."""
    bench.check_honest()
    before = traces()
    yield
    bench.check_honest()
    wait_for(lambda: not left_since(before), lambda: f"left behind: {left_since(before)}")


def wait_for(condition: Callable[[], bool], message: Callable[[], str], seconds: float = 60) -> None:
    until = time.monotonic() + seconds * SLOWNESS
    while not condition():
        assert time.monotonic() < until, message()
        time.sleep(0.05)
