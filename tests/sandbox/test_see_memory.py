"""What a submission may not find in its memory: whatever the zygote, or a fold before it, held.

Each test warms new data sets, so what is left afterwards is compared in the other modules.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from runner.jobs import DataSet, FoldJob, SplitJob
from runner.sandbox.executor import Executor
from tests.sandbox.conftest import LIMITS, Bench

SCAN = """
import re, json
found = set()
memory = open('/proc/self/mem', 'rb', 0)
for line in open('/proc/self/maps'):
    where, rights = line.split()[:2]
    if 'r' not in rights or line.rstrip().endswith(('[vvar]', '[vsyscall]', '[vvar_vclock]')) or 'memfd:predictions' in line:
        continue
    low, high = (int(part, 16) for part in where.split('-'))
    for at in range(low, high, 1 << 22):
        try:
            memory.seek(at)
            text = memory.read(min((1 << 22) + 256, high - at))
        except (OSError, ValueError, OverflowError):
            continue
        for plain in (text, text[::4], text[1::4], text[2::4], text[3::4]):  # text may be four bytes a character
            found |= set(re.findall(b'%s-[0-9]{5}' % b'KRAM'[::-1], plain))
print(json.dumps(sorted(word.decode() for word in found)))
"""


@pytest.fixture(scope="module")
def patient() -> Iterator[Executor]:
    """With time to look at every byte of its memory."""
    executor = Executor(replace(LIMITS, soft_time=60, hard_time=70), slots=1)
    yield executor
    executor.close()


def marked(executor: Executor, tmp_path: Path, name: str, first: int, custom: bool = False) -> DataSet:
    """A data set whose labels or features can be told apart in memory, each row's."""
    raw = tmp_path / f"raw-{name}"
    raw.mkdir()
    marks = [f"MARK-{number:05d}" for number in range(first, first + 200)]
    frame = pd.DataFrame({"x": np.arange(200.0), "y": marks})
    if name == "features":
        frame = pd.DataFrame({"x": marks, "y": np.arange(200) % 2})
    frame.to_csv(raw / "d.csv", index=False)
    if custom:
        (raw / "specific.py").write_text(
            "import pandas as pd\nfrom importlib import import_module\n"
            "def prepare_data(path): pass\n"
            "def get_train_data(path):\n    d = pd.read_csv(path + '/d.csv').iloc[:120]\n    return d[['x']].values, d.y.values\n"
            "def get_test_data(path):\n    d = pd.read_csv(path + '/d.csv').iloc[120:]\n    return d[['x']].values, d.y.values\n"
            "def train_submission(m, X, y, i):\n    c = import_module('.classifier', m).Classifier(); c.fit(X[i], y[i]); return c\n"
            "def test_submission(m, X, i): return m.predict_proba(X[i])\n"
        )
    outcome = executor.run_split(SplitJob(raw, tmp_path / name, "d", "y", custom, 0.4))
    assert outcome.failure is None, outcome.failure
    return DataSet(tmp_path / name, "y", ("classifier",), custom)


def scan(executor: Executor, data: DataSet, tmp_path: Path, rows: int) -> set[str]:
    code = "class Classifier:\n    def fit(self, X, y):\n" + "".join(
        f"        {line}\n" for line in SCAN.strip().splitlines()
    )
    code += "    def predict_proba(self, X):\n        import numpy\n        return numpy.zeros((len(X), 2))\n"
    job = FoldJob(data, Bench(executor, data, tmp_path).submit(code), np.arange(rows))
    outcome = executor.run_fold(job, lambda *_: None)
    assert outcome.failure is None, outcome.failure
    return set(json.loads(outcome.output.splitlines()[0])) if len(outcome.output) < 60_000 else set(outcome.output)


def test_labels_that_are_not_its_own(patient: Executor, tmp_path: Path) -> None:
    """Not in any byte of its memory, whatever ran before it."""
    data = marked(patient, tmp_path, "labels", 0)
    train = pd.read_csv(data.folder / "train.csv")["y"]
    assert scan(patient, data, tmp_path, rows=110) == set(train.iloc[:110])
    assert scan(patient, data, tmp_path, rows=10) == set(train.iloc[:10])


def test_test_labels_of_custom_data(patient: Executor, tmp_path: Path) -> None:
    data = marked(patient, tmp_path, "custom", 0, custom=True)
    assert scan(patient, data, tmp_path, rows=10) == {f"MARK-{number:05d}" for number in range(120)}


def test_other_data_sets(patient: Executor, bench: Bench, tmp_path: Path) -> None:
    data = marked(patient, tmp_path, "features", 0)
    assert len(scan(patient, data, tmp_path, rows=10)) == 200
    assert scan(patient, bench.data, tmp_path, rows=10) == set()
