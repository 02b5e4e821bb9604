"""Train and test a submission on a standard data set: pure functions over frames and arrays."""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedShuffleSplit

from runner.elements import CLASSES


class PredictionError(Exception):
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

    def make(element: str) -> Any:
        if element not in elements:
            return None
        module = importlib.import_module(f".{element}", module_path)
        return getattr(module, CLASSES[element])()

    model = Model(*(make(element) for element in CLASSES))
    if model.feature_extractor is not None:
        model.feature_extractor.fit(X, y)
    features = _features(model, X)
    if model.regressor is not None:
        model.regressor.fit(features, y)
    elif model.calibrator is None:
        model.classifier.fit(features, y)
    else:
        cut = StratifiedShuffleSplit(n_splits=1, test_size=0.1, random_state=57)
        fit_is, calibration_is = next(cut.split(features, y))
        model.classifier.fit(features[fit_is], y[fit_is])
        model.calibrator.fit(model.classifier.predict_proba(features[calibration_is]), y[calibration_is])
    return model


def predict(model: Model, X: pd.DataFrame) -> Any:
    """Predictions for each row of X: probabilities of a classifier, values of a regressor."""
    features = _features(model, X)
    if model.regressor is not None:
        return model.regressor.predict(features)
    probabilities = model.classifier.predict_proba(features)
    return probabilities if model.calibrator is None else model.calibrator.predict_proba(probabilities)


def as_predictions(raw: Any, n_rows: int) -> np.ndarray:
    """What a submission returned, as float64 in C order with n_rows rows; PredictionError if it is not that."""
    try:
        raw = np.asarray(raw)
        if raw.dtype.kind == "c":
            raise TypeError("they are complex")
        predictions = np.ascontiguousarray(raw, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise PredictionError(f"the predictions are not an array of numbers: {error}") from None
    rows = len(predictions) if np.ndim(raw) else 0
    if rows != n_rows:
        raise PredictionError(f"{n_rows} rows were to be predicted, but the prediction has {rows} rows")
    return predictions


def _features(model: Model, X: pd.DataFrame) -> np.ndarray:
    return np.array(X) if model.feature_extractor is None else model.feature_extractor.transform(X)
