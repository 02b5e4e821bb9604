"""Train and test a submission on a standard data set: pure functions over frames and arrays."""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.model_selection import StratifiedShuffleSplit
from sklearn.utils import _safe_indexing

from runner.elements import CLASSES
from runner.labels import CALIBRATION_PART

_METHODS = {
    "feature_extractor": "fit(X, y) and transform(X)",
    "classifier": "fit(X, y) and predict_proba(X)",
    "calibrator": "fit(probabilities, y) and predict_proba(probabilities)",
    "regressor": "fit(X, y) and predict(X)",
}
"""Workflow element -> what its class needs, for messages."""


class SubmissionError(Exception):
    """What is wrong with a submission. The message says it all, so no traceback is shown."""


class PredictionError(SubmissionError):
    """The submission returned something that is not one prediction a row."""


@dataclass
class Model:
    """A trained submission; elements that the workflow has not are None."""

    feature_extractor: Any
    classifier: Any
    calibrator: Any
    regressor: Any


def train(elements: Sequence[str], module_path: str, X: pd.DataFrame, y: np.ndarray) -> Model:
    """Fit a submission on the training rows.

    X: frame of the training rows, without the target column. y: their labels, shape (n,).
    module_path: what importlib.import_module('.classifier', module_path) finds the submission by.
    """

    model = Model(*(_make(element, module_path) if element in elements else None for element in CLASSES))
    if model.feature_extractor is not None:
        _method(model, "feature_extractor", "fit")(X, y)
    features = _features(model, X)
    if model.regressor is not None:
        _method(model, "regressor", "fit")(features, y)
    elif model.calibrator is None:
        _method(model, "classifier", "fit")(features, y)
    else:
        cut = StratifiedShuffleSplit(n_splits=1, test_size=CALIBRATION_PART, random_state=57)
        _check_rows(features, len(y))
        fit_is, calibration_is = next(cut.split(np.zeros(len(y)), y))
        _method(model, "classifier", "fit")(_rows(features, fit_is), y[fit_is])
        probabilities = _method(model, "classifier", "predict_proba")(_rows(features, calibration_is))
        _method(model, "calibrator", "fit")(probabilities, y[calibration_is])
    return model


def predict(model: Model, X: pd.DataFrame) -> Any:
    """Predictions for each row of X: probabilities of a classifier, values of a regressor."""
    features = _features(model, X)
    if model.regressor is not None:
        return _method(model, "regressor", "predict")(features)
    probabilities = _method(model, "classifier", "predict_proba")(features)
    if model.calibrator is None:
        return probabilities
    return _method(model, "calibrator", "predict_proba")(probabilities)


def as_predictions(raw: Any, n_rows: int) -> np.ndarray:
    """What a submission returned, as float64 in C order with n_rows rows; PredictionError if it is not that."""
    if sparse.issparse(raw):
        raise PredictionError("the predictions are a sparse matrix: return predictions.toarray()")
    try:
        array = np.asarray(raw)
        predictions = _as_floats(raw, array)
    except (TypeError, ValueError, OverflowError) as error:
        why = "its rows differ in length" if "inhomogeneous" in str(error) else error
        raise PredictionError(f"the predictions are not an array of numbers: {why}") from None
    rows = len(predictions) if array.ndim else 0
    if rows != n_rows:
        returned = "" if array.ndim else f": the submission returned {_kind(raw)}"
        raise PredictionError(f"{n_rows} rows were to be predicted, but the prediction has {rows} rows{returned}")
    if 0 in predictions.shape[1:]:
        raise PredictionError(f"the predictions have 0 columns: their shape is {predictions.shape}")
    return predictions


def _as_floats(raw: Any, array: np.ndarray) -> np.ndarray:
    """array: what numpy makes of raw. Raises TypeError, ValueError or OverflowError where they are no numbers."""
    if array.dtype.kind in "cMm":
        kinds = {"c": "complex", "M": "dates", "m": "time differences"}
        raise TypeError(f"they are {kinds[array.dtype.kind]}")
    if not array.ndim and array.dtype.kind in "OUS" and raw is not None:
        raise TypeError(f"the submission returned {_kind(raw)}")
    if array.dtype.kind in "US":
        array = array.astype(object)  # numpy then names what is no number as its author wrote it
    if array.dtype.hasobject:
        array = np.where(pd.isna(array), np.nan, array)  # missing values of pandas, too, which float() refuses
    if isinstance(raw, np.ma.MaskedArray):
        array = np.where(np.ma.getmaskarray(raw), np.nan, array)
    return np.ascontiguousarray(array, dtype=np.float64)


def _kind(value: Any) -> str:
    return "None" if value is None else f"an object of type {type(value).__name__}"


def _features(model: Model, X: pd.DataFrame) -> Any:
    if model.feature_extractor is None:
        return np.array(X)
    return _method(model, "feature_extractor", "transform")(X)


def _check_rows(features: Any, rows: int) -> None:
    """SubmissionError where what holds the features has other rows than these, or none that can be counted."""
    shape = getattr(features, "shape", None)
    found = shape[0] if shape else len(features) if isinstance(features, list | tuple) else None
    if found != rows:
        returned = _kind(features) if found is None else f"{found} rows"
        raise SubmissionError(
            f"transform in feature_extractor.py returned {returned} for {rows} rows. With a calibrator it must return "
            "an array, a frame, a list or a sparse matrix, with a row for each."
        )


def _rows(features: Any, rows: np.ndarray) -> Any:
    """These rows by position, whatever holds the features: an array, a frame, a sparse matrix or a list."""
    if isinstance(features, np.ndarray):
        return features[rows]
    if sparse.issparse(features) and features.format not in ("csr", "csc", "lil", "dok"):
        features = features.tocsr()  # the other formats have no rows to choose from
    return _safe_indexing(features, rows)


def _make(element: str, module_path: str) -> Any:
    """An object of the class that the submission's file of this element defines."""
    file, name = f"{element}.py", CLASSES[element]
    needs = f"the workflow needs the class {name} there, with {_METHODS[element]}"
    try:
        module = importlib.import_module(f".{element}", module_path)
    except ModuleNotFoundError as error:
        if error.name == f"{module_path}.{element}":
            raise SubmissionError(f"the submission has no file {file}: {needs}") from None
        raise
    if not hasattr(module, name):
        own = [key for key, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
        found = f" The file defines {', '.join(own[:10])}." if own else ""
        raise SubmissionError(f"{file} defines no class {name}: {needs}.{found}")
    make = getattr(module, name)
    if not callable(make):
        raise SubmissionError(f"{name} in {file} is no class, but {_kind(make)}: {needs}")
    return make()


def _method(model: Model, element: str, name: str) -> Callable[..., Any]:
    """A method of an element. One that its class has, but not after this training, raises an error of its own."""
    made = getattr(model, element)
    if not hasattr(type(made), name) and not hasattr(made, name):
        raise SubmissionError(
            f"the class {CLASSES[element]} in {element}.py has no method {name}: it needs {_METHODS[element]}"
        )
    return getattr(made, name)
