"""The example kits as data: what to send, what to expect. The demo, the tests and the benchmarks share it.

The truth is computed here, from the kit's own files, with plain pandas and scikit-learn.
"""

import importlib.util
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
from sklearn.model_selection import ShuffleSplit, StratifiedShuffleSplit, train_test_split

HERE = Path(__file__).parent

Score = Callable[[np.ndarray, np.ndarray], float]


@dataclass(frozen=True)
class Fold:
    """train_is, test_is: int64, shape (n,), row numbers of the train set, which share it between them."""

    train_is: np.ndarray
    test_is: np.ndarray
    priority: str


@dataclass(frozen=True)
class Kit:
    """A data challenge.

    files: paths inside the folder, the data file first. workflow_elements: as they are sent.
    held_out_test, random_state: of the split; a custom data set's own code decides on its split instead.
    submissions: names of folders in `submissions/`; the first one is the demo's.
    score: of labels, shape (n,), and predictions, shape (n, outputs). stratified: folds keep the labels' shares.
    """

    name: str
    folder: Path
    files: tuple[str, ...]
    target_column: str
    workflow_elements: str
    custom: bool
    held_out_test: float
    random_state: int
    submissions: tuple[str, ...]
    score_name: str
    score: Score
    stratified: bool

    @property
    def data_files(self) -> list[Path]:
        return [self.folder / name for name in self.files]

    def submission_folder(self, submission: str) -> Path:
        return self.folder / "submissions" / submission

    def submission_files(self, submission: str) -> list[Path]:
        return sorted(path for path in self.submission_folder(submission).iterdir() if path.is_file())

    def truth(self) -> tuple[np.ndarray, np.ndarray]:
        """y_train and y_test, shape (rows,), in the order of the rows that datarun predicts."""
        return _custom_truth(self) if self.custom else _standard_truth(self)

    def folds(self, y_train: np.ndarray, n_folds: int = 10) -> list[Fold]:
        """Random folds with a fifth of the rows for validation; low and high priority take turns."""
        splitter = StratifiedShuffleSplit if self.stratified else ShuffleSplit
        cut = splitter(n_splits=n_folds, test_size=0.2, random_state=self.random_state)
        pairs = cut.split(np.zeros((len(y_train), 1)), y_train)
        return [Fold(train_is, test_is, "LH"[number % 2]) for number, (train_is, test_is) in enumerate(pairs)]


def accuracy(classes: tuple[str, ...] | tuple[int, ...]) -> Score:
    """The share of rows whose most probable class is right; the columns of the predictions are the sorted classes."""

    def score(y: np.ndarray, predictions: np.ndarray) -> float:
        return float(np.mean(np.array(classes)[predictions.argmax(axis=1)] == y))

    return score


def rmse(y: np.ndarray, predictions: np.ndarray) -> float:
    """Root of the mean squared error, in the unit of the target."""
    return float(np.sqrt(np.mean((predictions[:, 0] - y) ** 2)))


IRIS = Kit(
    name="iris",
    folder=HERE / "iris",
    files=("iris.csv",),
    target_column="species",
    workflow_elements="feature_extractor,classifier,calibrator",
    custom=False,
    held_out_test=0.2,
    random_state=42,
    submissions=("forest", "logistic"),
    score_name="accuracy",
    score=accuracy(("setosa", "versicolor", "virginica")),
    stratified=True,
)

DIABETES = Kit(
    name="diabetes",
    folder=HERE / "diabetes",
    files=("diabetes.csv",),
    target_column="progression",
    workflow_elements="regressor",
    custom=False,
    held_out_test=0.25,
    random_state=7,
    submissions=("boosting", "ridge"),
    score_name="RMSE",
    score=rmse,
    stratified=False,
)

DIGITS = Kit(
    name="digits",
    folder=HERE / "digits",
    files=("digits.csv.gz", "specific.py"),
    target_column="digit",
    workflow_elements="image_classifier",
    custom=True,
    held_out_test=0.2,
    random_state=57,
    submissions=("trees",),
    score_name="accuracy",
    score=accuracy(tuple(range(10))),
    stratified=True,
)

KITS = (IRIS, DIABETES, DIGITS)


def _standard_truth(kit: Kit) -> tuple[np.ndarray, np.ndarray]:
    frame = pd.read_csv(kit.data_files[0])
    train, test = train_test_split(frame, test_size=kit.held_out_test, random_state=kit.random_state)
    return train[kit.target_column].to_numpy(), test[kit.target_column].to_numpy()


def _custom_truth(kit: Kit) -> tuple[np.ndarray, np.ndarray]:
    # In a folder of its own: prepare_data writes beside the raw files.
    with tempfile.TemporaryDirectory() as folder:
        for path in kit.data_files:
            shutil.copy(path, folder)
        specific = _load(Path(folder, "specific.py"))
        specific.prepare_data(folder)
        return specific.get_train_data(folder)[1], specific.get_test_data(folder)[1]


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"_{path.stem}_of_a_kit", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
