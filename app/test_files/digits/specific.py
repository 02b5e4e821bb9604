"""A custom data set: images in a compressed file, and submissions that get them as images.

The five functions that datarun calls; raw_data_path is the folder where the files of the data set lie.
"""

import importlib
from pathlib import Path

import pandas as pd
from sklearn.model_selection import train_test_split


def prepare_data(raw_data_path):
    """Make the files of the train and of the test set."""
    images = pd.read_csv(Path(raw_data_path, "digits.csv.gz"))
    train, test = train_test_split(images, test_size=0.2, random_state=57, stratify=images["digit"])
    train.to_csv(Path(raw_data_path, "digits_train.csv"), index=False)
    test.to_csv(Path(raw_data_path, "digits_test.csv"), index=False)


def get_train_data(raw_data_path):
    """X, shape (images, 8, 8), and y, shape (images,)."""
    return _read(Path(raw_data_path, "digits_train.csv"))


def get_test_data(raw_data_path):
    """As get_train_data."""
    return _read(Path(raw_data_path, "digits_test.csv"))


def train_submission(module_path, X, y, train_indices):
    """A model of the submission, trained on the rows train_indices of X and y."""
    model = importlib.import_module(".classifier", module_path).Classifier()
    model.fit(X[train_indices], y[train_indices])
    return model


def test_submission(model, X, test_indices):
    """Probabilities of the ten digits for the rows test_indices of X, shape (rows, 10)."""
    return model.predict_proba(X[test_indices])


def _read(path):
    frame = pd.read_csv(path)
    return frame.drop(columns="digit").to_numpy(dtype=float).reshape(-1, 8, 8), frame["digit"].to_numpy()
