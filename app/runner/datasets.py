"""Read and split data sets on the shared disk."""

import csv
import importlib.util
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO, NamedTuple, TextIO

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
    raw_csv: Path,
    folder: Path,
    target_column: str,
    held_out_test: float,
    random_state: int,
    elements: Sequence[str] = (),
) -> tuple[int, int]:
    """Write STANDARD_FILES into folder, as scikit-learn's train_test_split cuts the raw file.

    elements: the workflow that the labels are for. Returns the number of train and test rows. Raises DataError for a
    file that pandas would read as something else than its author meant.
    """
    _check_fields(raw_csv)
    # In one piece: by default pandas infers a long file's types in parts, and a column may have several.
    frame = _read_csv(raw_csv, low_memory=False)
    column = _column_of(frame, target_column)
    # Again with these types: beside whole numbers beyond 64 bits pandas leaves missing values as texts.
    frame = _read_typed(raw_csv, _types_of(frame))
    _check_labels(frame[column], elements, raw_csv)
    if empty := [number for number, name in enumerate(frame, 1) if _is_empty(frame[name])]:
        raise DataError(
            f"column {empty[0]} of {raw_csv.name} has no name and no values: remove the comma at the end of the lines"
        )
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
    if not held:
        return "str"
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


def _is_empty(column: "pd.Series[Any]") -> bool:
    """Whether a column has neither a name in the file nor a value."""
    return str(column.name).startswith("Unnamed: ") and bool(column.isna().all())


def _check_labels(labels: "pd.Series[Any]", elements: Sequence[str], raw_csv: Path) -> None:
    """Each row needs a label that the workflow can use: otherwise every participant's code would fail."""
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
    if "regressor" in elements and labels.dtype == "str":
        raise DataError(f"column {labels.name!r} holds text such as {labels.iloc[0]!r}, but a regressor needs numbers")
    if "classifier" in elements and pd.api.types.is_float_dtype(labels) and (parts := labels % 1 != 0).any():
        raise DataError(
            f"column {labels.name!r} holds numbers such as {labels[parts].iloc[0]:g}, but a classifier needs classes: "
            "text or whole numbers"
        )


def _check_fields(raw_csv: Path) -> None:
    """Refuse rows with more fields than the header names, such as rows that end with a comma.

    pandas then takes the first field for the row's name, and each value goes to the column before its own. That is
    right for R's write.table alone: its header has one name less, and no field is empty. Its row names are unique, and
    either quoted or the numbers from 1 on. The split's output says that they were taken for names.
    """
    csv.field_size_limit(sys.maxsize)
    with raw_csv.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        lines: list[str] = []
        reader = csv.reader(_noted(file, lines))
        rows = (row for row in reader if len(row) > 1 or "".join(row).strip())  # pandas skips blank lines, too
        header = next(rows, [])
        lines.clear()
        refusal, quoted, seen = "", False, set[str]()
        for row in rows:
            if not seen:
                if len(row) <= len(header):
                    return  # pandas itself refuses a row that is longer than the first one
                quoted = "".join(lines).lstrip().startswith('"')
                refusal = (
                    f"line {reader.line_num} of {raw_csv.name} has {len(row)} fields, but its header names "
                    f"{len(header)} columns: remove the comma at the end of the rows, or name the nameless column"
                )
            lines.clear()
            named = row[0] not in seen and (quoted or row[0] == str(len(seen) + 1))
            if len(row) != len(header) + 1 or not row[-1].strip() or not named:
                raise DataError(refusal)
            seen.add(row[0])
    if seen:
        print("The first field of each row is taken for its name, as in files of R: the header has a name less.")


def _noted(file: TextIO, lines: list[str]) -> Iterator[str]:
    """The file's lines, which are also put into `lines`."""
    for line in file:
        lines.append(line)
        yield line


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
    X_train, y_train = _pair("get_train_data", specific.get_train_data(str(folder)))
    if y_train is None:
        raise DataError("get_train_data returned no labels (None for y): return labels, which count the rows")
    X_test, y_test = _pair("get_test_data", specific.get_test_data(str(folder)))
    rows = _count("get_train_data", X_train, y_train), _count("get_test_data", X_test, y_test)
    return Custom(X_train, y_train, X_test, rows)


def _pair(call: str, returned: Any) -> tuple[Any, Any]:
    if not isinstance(returned, tuple | list) or len(returned) != 2:
        what = f"{len(returned)} values" if isinstance(returned, tuple | list) else f"a {type(returned).__name__}"
        raise DataError(f"{call} returned {what}: return two, X and y")
    return returned[0], returned[1]


def _count(call: str, X: Any, y: Any) -> int:
    """The labels count the rows, since X may be anything. Without labels X does, and without both there are none."""
    if X is None and y is None:
        return 0
    counted = X if y is None else y
    shape = getattr(counted, "shape", None)
    if isinstance(shape, tuple) and shape:
        return int(shape[0])
    if isinstance(counted, list) or (counted is y and isinstance(y, Sequence) and not isinstance(y, str)):
        return len(counted)
    what = "y" if counted is y else "no y, and X"
    raise DataError(f"{call} returned {what} of type {type(counted).__name__}: return labels, which count the rows")
