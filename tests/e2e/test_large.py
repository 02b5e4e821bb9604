"""A million training rows and a million times ten predictions: over the shared disk, in bounded memory."""

from pathlib import Path

import numpy as np
import pytest

from test_files import post_api
from tests.e2e.live import Live, Organiser

pytestmark = pytest.mark.embedded

ROWS = 1_000_000

SPECIFIC = f"""
import importlib
import numpy as np

def prepare_data(raw_data_path):
    pass

def get_train_data(raw_data_path):
    X = np.arange({ROWS}, dtype=float)
    return X, X

def get_test_data(raw_data_path):
    return np.arange(10.0), np.arange(10.0)

def train_submission(module_path, X, y, train_is):
    model = importlib.import_module('.model', module_path).Model()
    model.fit(y[train_is])
    return model

def test_submission(model, X, test_is):
    return model.predict(X[test_is])
"""

MODEL = """
import numpy as np

class Model:
    def fit(self, y):
        self.total = y.sum()

    def predict(self, X):
        return np.random.default_rng(3).random((len(X), 10)) + self.total
"""


def test_large_folds_come_through_in_bounded_memory(live: Live, organiser: Organiser, tmp_path: Path) -> None:
    (tmp_path / "specific.py").write_text(SPECIFIC)
    (tmp_path / "rows.txt").write_text("made by specific.py")
    number = organiser.data(tmp_path / "rows.txt", [tmp_path / "specific.py"])
    organiser.split(number, custom=True)
    files = organiser.submission(tmp_path / "submission", {"model.py": MODEL})
    train_is = np.random.default_rng(5).permutation(ROWS)
    fold_id = organiser.fold(number, files, train_is)
    organiser.wait(fold_id)
    [record] = post_api.get_prediction_list(*organiser.who, [fold_id]).json()
    assert record["state"] == "TESTED", record["log_messages"]
    expected = np.random.default_rng(3).random((ROWS, 10)) + np.arange(float(ROWS))[train_is].sum()
    assert np.array_equal(post_api.decode_predictions(record["full_train_predictions"], ROWS), expected)
    assert np.array_equal(post_api.decode_predictions(record["test_predictions"], 10), expected[:10])
    for name, most in (("web", 500), ("master", 200)):
        assert max(map(_peak_mb, live.family_of(name))) < most


def _peak_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return 0.0
