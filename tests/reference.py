"""What a fold predicts, by hand: contract section 4 in plain pandas and scikit-learn, in one process.

Written apart from the runner and without its code, so that the two can be compared bit for bit.
"""

import contextlib
import importlib
import io
import itertools
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedShuffleSplit, train_test_split

from test_files.kits import Kit

_numbers = itertools.count()


def predict(kit: Kit, submission: Path, train_is: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """full_train_predictions and test_predictions, float64, shape (rows, outputs).

    submission: folder of the submission's files. train_is: row numbers of the train set.
    """
    with tempfile.TemporaryDirectory() as folder, _package(Path(folder), "submission", submission) as module_path:
        one = _custom if kit.custom else _standard
        full, test = one(kit, module_path, np.asarray(train_is))
    return _columns(full), _columns(test)


def _standard(kit: Kit, module_path: str, train_is: np.ndarray) -> tuple[Any, Any]:
    train, test = train_test_split(
        pd.read_csv(kit.data_files[0]), test_size=kit.held_out_test, random_state=kit.random_state
    )
    train, test = _through_csv(train), _through_csv(test)
    y = train[kit.target_column].to_numpy()
    X_train, X_test = train.drop(columns=kit.target_column), test.drop(columns=kit.target_column)
    elements = [word.strip() for word in kit.workflow_elements.split(",")]

    def new(element: str, class_name: str) -> Any:
        return getattr(importlib.import_module(f".{element}", module_path), class_name)()

    X_fold, y_fold = X_train.iloc[train_is], y[train_is]
    if "feature_extractor" in elements:
        extractor = new("feature_extractor", "FeatureExtractor")
        extractor.fit(X_fold, y_fold)
        arrays = [extractor.transform(frame) for frame in (X_fold, X_train, X_test)]
    else:
        arrays = [np.array(frame) for frame in (X_fold, X_train, X_test)]
    A_fold, A_train, A_test = arrays

    if "regressor" in elements:
        regressor = new("regressor", "Regressor")
        regressor.fit(A_fold, y_fold)
        return regressor.predict(A_train), regressor.predict(A_test)

    classifier = new("classifier", "Classifier")
    if "calibrator" not in elements:
        classifier.fit(A_fold, y_fold)
        return classifier.predict_proba(A_train), classifier.predict_proba(A_test)

    cut = StratifiedShuffleSplit(n_splits=1, test_size=0.1, random_state=57)
    [(first, second)] = cut.split(A_fold, y_fold)
    classifier.fit(A_fold[first], y_fold[first])
    calibrator = new("calibrator", "Calibrator")
    calibrator.fit(classifier.predict_proba(A_fold[second]), y_fold[second])
    return (
        calibrator.predict_proba(classifier.predict_proba(A_train)),
        calibrator.predict_proba(classifier.predict_proba(A_test)),
    )


def _custom(kit: Kit, module_path: str, train_is: np.ndarray) -> tuple[Any, Any]:
    with tempfile.TemporaryDirectory() as folder, _package(Path(folder), "data", kit.folder, kit.files) as package:
        specific = importlib.import_module(".specific", package)
        raw_data_path = str(Path(folder, package))
        specific.prepare_data(raw_data_path)
        X_train, y_train = specific.get_train_data(raw_data_path)
        X_test, _ = specific.get_test_data(raw_data_path)
        model = specific.train_submission(module_path, X_train, y_train, train_is)
        return (
            specific.test_submission(model, X_train, np.arange(len(X_train))),
            specific.test_submission(model, X_test, np.arange(len(X_test))),
        )


@contextlib.contextmanager
def _package(folder: Path, name: str, source: Path, files: tuple[str, ...] | None = None) -> Iterator[str]:
    """Copies of source's files (of all plain ones) as a package in folder, importable inside the block; its name."""
    # A name that was never used: Python keeps imported modules, and all submissions have a classifier.py.
    package = f"reference_{name}_{next(_numbers)}"
    (folder / package).mkdir()
    for file in files or [path.name for path in source.iterdir() if path.is_file()]:
        shutil.copy(source / file, folder / package)
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield package
    finally:
        sys.path.remove(str(folder))
        for module in [key for key in sys.modules if key.split(".")[0] == package]:
            del sys.modules[module]


def _through_csv(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame after to_csv and read_csv, which may change the last bit of a number."""
    return pd.read_csv(io.StringIO(frame.to_csv(index=False)))


def _columns(predictions: Any) -> np.ndarray:
    array = np.asarray(predictions, dtype=np.float64)
    return np.ascontiguousarray(array.reshape(len(array), -1))
