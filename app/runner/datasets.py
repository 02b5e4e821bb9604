"""Read and split data sets on the shared disk."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import BinaryIO

import numpy as np
import pandas as pd
from sklearn.model_selection import train_test_split

from runner.elements import SPECIFIC


class DataError(Exception):
    """The data set can't be used as it is; the message says what would be right."""


def split_standard(
    raw_csv: Path, folder: Path, target_column: str, held_out_test: float, random_state: int
) -> tuple[int, int]:
    """Write train.csv and test.csv into folder, as scikit-learn's train_test_split cuts the raw file.

    Returns the number of train and test rows.
    """
    frame = read_csv(raw_csv)
    column_of(frame, target_column)
    try:
        train, test = train_test_split(frame, test_size=held_out_test, random_state=random_state)
    except ValueError as error:
        raise DataError(f"{raw_csv.name} with {len(frame)} rows can't be split: {error}") from None
    train.to_csv(folder / "train.csv", index=False)
    test.to_csv(folder / "test.csv", index=False)
    return len(train), len(test)


def read_standard(csv: Path | BinaryIO, target_column: str, name: str = "") -> tuple[pd.DataFrame, np.ndarray]:
    """X, the frame without the target column, and y, shape (rows,). name: of an open file, for messages."""
    frame = read_csv(csv, name)
    column = column_of(frame, target_column)
    return frame.drop(columns=column), frame[column].to_numpy()


def read_csv(csv: Path | BinaryIO, name: str = "") -> pd.DataFrame:
    try:
        return pd.read_csv(csv)
    except (ValueError, pd.errors.ParserError) as error:
        raise DataError(f"{name or Path(csv.name).name} is not a CSV file that pandas can read: {error}") from None


def column_of(frame: pd.DataFrame, target_column: str) -> str:
    """The frame's column that is meant, blanks around the names aside (headers often have them after a comma)."""
    for same in (target_column.__eq__, lambda name: str(name).strip() == target_column.strip()):
        for name in frame.columns:
            if same(name) is True:
                return name
    raise DataError(f"no target column {target_column!r} among the columns {', '.join(map(repr, frame.columns))}")


def load_specific(folder: Path) -> ModuleType:
    """The data set's own module, under the name `specific`."""
    spec = importlib.util.spec_from_file_location("specific", folder / SPECIFIC)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["specific"] = module  # its own classes can be pickled, as those of any imported module
    spec.loader.exec_module(module)
    return module
