"""Read and split data sets on the shared disk."""

import csv
import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pandas as pd
from sklearn.model_selection import train_test_split

from runner import columns
from runner.elements import SPECIFIC
from runner.jobs import STANDARD_FILES

_TYPES = ("int64", "uint64", "float64", "bool", "str")
"""Types that pandas can be asked for when it reads a column."""

_OBJECTS: dict[type, Callable[[str], Any]] = {bool: {"True": True, "False": False}.__getitem__, int: int}
"""What a column holds that pandas stores as objects, and how its text is read: booleans with missing values among them,

and whole numbers beyond 64 bits.
"""

Source = Path | BinaryIO

Types = dict[str, str]
"""Column -> a word of _TYPES, or the name of a key of _OBJECTS behind `object of `."""


class DataError(Exception):
    """The data set can't be used as it is; the message says what would be right."""


class Standard(NamedTuple):
    """A standard data set: frames without the target column, and labels of shape (rows,)."""

    X_train: pd.DataFrame
    y_train: np.ndarray
    X_test: pd.DataFrame
    y_test: np.ndarray


class Custom(NamedTuple):
    """What a custom data set's own code returned. rows: (train, test), counted by the labels."""

    X_train: Any
    y_train: Any
    X_test: Any
    rows: tuple[int, int]


# A standard data set


def split_standard(
    raw_csv: Path, folder: Path, target_column: str, held_out_test: float, random_state: int
) -> tuple[int, int]:
    """Write STANDARD_FILES into folder, as scikit-learn's train_test_split cuts the raw file.

    Returns the number of train and test rows. Raises DataError for a file that pandas would read as something else
    than its author meant.
    """
    _check_fields(raw_csv)
    # In one piece: by default pandas infers a long file's types in parts, and a column may have several.
    frame = _read_csv(raw_csv, low_memory=False)
    _check_labels(frame[_column_of(frame, target_column)], raw_csv)
    try:
        train, test = train_test_split(frame, test_size=held_out_test, random_state=random_state)
    except ValueError as error:
        raise DataError(f"{raw_csv.name} with {len(frame)} rows can't be split: {error}") from None
    write_standard(folder, train, test, _types_of(frame))
    return len(train), len(test)


def write_standard(folder: Path, train: pd.DataFrame, test: pd.DataFrame, types: Types | None = None) -> None:
    """Write two frames as STANDARD_FILES, and check that reading them gives the same frames.

    types: of the columns of both frames together. Raises DataError where the frames can't be written.
    """
    types = types or _types_of(pd.concat([train, test]))
    texts = [name for name, kind in types.items() if kind == "str"]
    *names, types_file = STANDARD_FILES
    (folder / types_file).write_text(json.dumps(types))
    for name, frame in zip(names, (train, test), strict=True):
        # Python's csv module quotes no carriage return before 3.11.9, and the reader takes one for the end of a line.
        odd = any("\r" in name for name in types) or any(frame[text].str.contains("\r").any() for text in texts)
        quoting: Any = csv.QUOTE_NONNUMERIC if odd else csv.QUOTE_MINIMAL
        frame.to_csv(folder / name, index=False, quoting=quoting)
        again = _read_typed(folder / name, types)
        if not frame.reset_index(drop=True).equals(again):
            raise DataError(f"{name} would not be read as it was written: {_difference(frame, again)}")


def read_standard(target_column: str, train: Source, test: Source, types: Source) -> Standard:
    """Read the files of a split, both sets with the same types of columns."""
    kinds = json.loads(types.read_bytes() if isinstance(types, Path) else types.read())
    parts: list[Any] = []
    for source, name in zip((train, test), STANDARD_FILES, strict=False):
        frame = _read_typed(source, kinds, name)
        column = _column_of(frame, target_column)
        parts += [frame.drop(columns=column), frame[column].to_numpy()]
    return Standard(*parts)


def _types_of(frame: pd.DataFrame) -> Types:
    return {name: _type_of(frame[name]) for name in frame.columns}


def _type_of(column: "pd.Series[Any]") -> str:
    if (kind := str(column.dtype)) in _TYPES:
        return kind
    held = {type(value) for value in column.dropna()}
    if len(held) == 1 and (only := held.pop()) in _OBJECTS:
        return f"object of {only.__name__}"
    raise DataError(f"column {column.name!r} holds values of several types, or of {kind}: make them of one type")


def _read_typed(source: Source, types: Types, name: str = "") -> pd.DataFrame:
    asked = {column: kind if kind in _TYPES else "str" for column, kind in types.items()}
    frame = _read_csv(source, name, dtype=asked)
    for kind, value_of in _OBJECTS.items():
        for column in (column for column, word in types.items() if word == f"object of {kind.__name__}"):
            frame[column] = frame[column].astype(object).map(value_of, na_action="ignore").astype(object)
    return frame


def _read_csv(source: Source, name: str = "", **options: Any) -> pd.DataFrame:
    name = name or Path(source.name).name
    try:
        return pd.read_csv(source, **options)
    except UnicodeDecodeError as error:
        raise DataError(f"{name} is not UTF-8 text ({error}): save it as UTF-8") from None
    except (ValueError, pd.errors.ParserError) as error:
        raise DataError(f"{name} is not a CSV file that pandas can read: {error}") from None


def _column_of(frame: pd.DataFrame, target_column: str) -> str:
    """The frame's column that is meant."""
    found = columns.find(frame.columns, target_column)
    if found is None:
        raise DataError(f"no target column {target_column!r} among the columns {', '.join(map(repr, frame.columns))}")
    return found


def _check_labels(labels: "pd.Series[Any]", raw_csv: Path) -> None:
    """Each row needs a label: without this check every participant's code would fail on those that lack one."""
    missing = labels.isna().to_numpy()
    if missing.any():
        texts = pd.read_csv(raw_csv, dtype="str", na_filter=False)[labels.name][missing]
        words = ", ".join(repr(word) if word else "an empty cell" for word in texts.unique()[:5])
        raise DataError(
            f"{missing.sum()} of the {len(labels)} labels in column {labels.name!r} are missing: pandas reads "
            f"{words} as a missing value. Give each row a label, and a class another name than that"
        )
    if pd.api.types.is_float_dtype(labels) and (infinite := np.isinf(labels)).any():
        raise DataError(f"{infinite.sum()} of the {len(labels)} labels in column {labels.name!r} are infinite")


def _check_fields(raw_csv: Path) -> None:
    """Refuse rows with more fields than the header names, such as rows that end with a comma.

    pandas then takes the first field for the row's name, and each value goes to the column before its own. That is
    right for R's write.table alone: its header has one name less, its row names are unique, and no field is empty.
    """
    csv.field_size_limit(sys.maxsize)
    with raw_csv.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        reader = csv.reader(file)
        rows = (row for row in reader if len(row) > 1 or "".join(row).strip())  # pandas skips blank lines, too
        header = next(rows, [])
        line, seen = 0, set[str]()
        for row in rows:
            if not seen and len(row) <= len(header):
                return  # pandas itself refuses a row that is longer than the first one
            line, first = line or reader.line_num, line or len(row)
            if len(row) != len(header) + 1 or not row[-1].strip() or row[0] in seen:
                raise DataError(
                    f"line {line} of {raw_csv.name} has {first} fields, but its header names {len(header)} columns: "
                    "remove the comma at the end of the rows, or name the column that has no name"
                )
            seen.add(row[0])


def _difference(frame: pd.DataFrame, again: pd.DataFrame) -> str:
    if len(frame) != len(again):
        return f"{len(frame)} rows become {len(again)}"
    if [*frame.columns] != [*again.columns]:
        return "the columns change"
    changed = [name for name in frame.columns if not frame[name].reset_index(drop=True).equals(again[name])]
    return f"the values of column {changed[0]!r} change"


# A custom data set


def load_specific(folder: Path) -> ModuleType:
    """The data set's own module, under the name `specific`."""
    spec = importlib.util.spec_from_file_location("specific", folder / SPECIFIC)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["specific"] = module  # its own classes can be pickled, as those of any imported module
    spec.loader.exec_module(module)
    return module


def read_custom(specific: Any, folder: Path) -> Custom:
    """Call get_train_data and get_test_data of the data set's own module. DataError where rows can't be counted."""
    X_train, y_train = specific.get_train_data(str(folder))
    if y_train is None:
        raise DataError("get_train_data returned no labels (None for y): return labels, which count the rows")
    X_test, y_test = specific.get_test_data(str(folder))
    rows = _count("get_train_data", X_train, y_train), _count("get_test_data", X_test, y_test)
    return Custom(X_train, y_train, X_test, rows)


def _count(call: str, X: Any, y: Any) -> int:
    """The labels count the rows, since X may be anything. Without labels X does, and without both there are none."""
    if X is None and y is None:
        return 0
    counted = X if y is None else y
    shape = getattr(counted, "shape", None)
    if isinstance(shape, tuple) and shape:
        return int(shape[0])
    if isinstance(counted, list) or (counted is y and hasattr(y, "__len__")):
        return len(counted)
    what = "y" if counted is y else "no y, and X"
    raise DataError(f"{call} returned {what} of type {type(counted).__name__}: return labels, which count the rows")
