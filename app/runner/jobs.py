"""The words a runner speaks: what it is asked to do, within which limits, and how it ended.

Plain data, imported on both sides of the fold's process; no behaviour beyond it.
"""

import hashlib
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import numpy as np

TAGS = {"train": "ERROR(train)", "validation": "ERROR(validation)", "test": "ERROR(test)", "split": "ERROR(split data)"}
"""How `log_messages` names the stage that failed (contract, section 4)."""

STATES = {"train": "TRAINED", "validation": "VALIDATED", "test": "TESTED"}
"""The state of a fold once the stage is done."""

SOFT_LIMIT_TEXT = "Soft Time Limit Exceeded"
HARD_LIMIT_TEXT = "Hard Time Limit Exceeded"


STANDARD_FILES = ("train.csv", "test.csv", "types.json")
"""What a split makes of a standard data set. The last one holds the type of each column: both sets are read with it."""


def version_name(task_id: str) -> str:
    """The name of the folder that a split makes.

    Not the task's id: a runner answers for a task by its id, and all of them can see the names on the shared disk.
    """
    return hashlib.sha256(task_id.encode()).hexdigest()[:32]


class Reason(StrEnum):
    """Who or what is to blame for an ERROR."""

    USER_CODE = "user_code"
    TIME_LIMIT = "time_limit"
    MEMORY_LIMIT = "memory_limit"
    SCRATCH_SPACE = "scratch_space"
    OUTPUT = "output"
    KILLED_ITSELF = "killed_itself"
    DATA = "data"
    INFRASTRUCTURE = "infrastructure"


@dataclass(frozen=True)
class Limits:
    """What one fold may use. Times in seconds of wall clock; memory and scratch space (/tmp, /dev/shm: each) in bytes.

    processes: how many at once, threads included. At soft_time an exception is raised in the fold's code, again every
    second until hard_time, when it is killed.
    """

    soft_time: float = 300.0
    hard_time: float = 360.0
    memory: int = 2 << 30
    scratch: int = 512 << 20
    processes: int = 64


_MOST_COLUMNS = 1024
_ALWAYS = 16 << 20


def most_predictions(rows: tuple[int, int], classes: int, memory: int) -> int:
    """Bytes of float64 that a fold may hand in, for its train and test rows together.

    A row may have 1,024 values, or two for each class, however they are arranged; 16 MiB are always allowed, more than
    the fold's memory never.
    """
    return min(memory, max(_ALWAYS, 8 * sum(rows) * max(_MOST_COLUMNS, 2 * classes)))


def too_many_predictions(values: int, most: int) -> str:
    """What is said of so many values, of which `most` bytes are allowed."""
    return (
        f"{values:,} values were predicted, for the train and the test set together, but at most {most // 8:,} may be: "
        f"{_MOST_COLUMNS:,} a row, or two for each class, within the memory of a fold"
    )


@dataclass(frozen=True)
class DataSet:
    """A data set on the shared disk, ready to be used.

    folder: a version of the data set, never changed once it is there. A standard one holds
    STANDARD_FILES; a custom one `specific.py` and whatever `prepare_data` left.
    """

    folder: Path
    target_column: str
    workflow_elements: tuple[str, ...]
    custom: bool


@dataclass(frozen=True)
class FoldJob:
    """Train and test one submission.

    train_is: int64, shape (n,), row numbers of the train set.
    highest_test_row: the largest number of the fold's `test_is`. A runner needs no more of it.
    submission_digest: of the submission's files (runner.digests); empty where nobody knows it.
    """

    data: DataSet
    submission: Path
    train_is: np.ndarray
    highest_test_row: int = 0
    submission_digest: str = ""


def out_of_range(row: int, rows: int) -> str:
    """What is said of a row number that a train set of so many rows does not have."""
    return f"Row {row} is out of range: the train set has rows 0 to {rows - 1}."


def rows_problem(train_is: np.ndarray, highest_test_row: int, rows: int) -> str | None:
    """What is wrong with a fold's row numbers for a train set of so many rows; None if nothing is."""
    if not len(train_is):
        return f"train_is names none of the {rows} rows of the train set."
    outside = train_is[(train_is < 0) | (train_is >= rows)]
    if len(outside):
        return f"train_is: {out_of_range(outside[0], rows)}"
    return f"test_is: {out_of_range(highest_test_row, rows)}" if highest_test_row >= rows else None


@dataclass(frozen=True)
class SplitJob:
    """Make a train and a test set out of the raw files in `source`, into the new folder `target`.

    A custom data set ignores held_out_test and random_state: its `prepare_data` decides.
    """

    source: Path
    target: Path
    name: str
    target_column: str
    custom: bool
    held_out_test: float = 0.0
    random_state: int = 42
    workflow_elements: tuple[str, ...] = ()


@dataclass(frozen=True)
class Failure:
    """reason: who is to blame. stage: a key of TAGS. message: what a person reads, without the tag."""

    reason: Reason
    stage: str
    message: str

    @property
    def log(self) -> str:
        return f"{TAGS[self.stage]}: {self.message}"


@dataclass
class Outcome:
    """How a job ended.

    state: TODO, TRAINED, VALIDATED or TESTED, the last one reached; `failure` says why it stopped there.
    notes: remarks that are not errors. output: what the code printed, capped.
    measures: train_time, validation_time, test_time, train_cpu_time, test_cpu_time in seconds;
    train_memory, test_memory in kB, the peak of the fold's own memory.
    full_train_predictions, test_predictions: float64, first axis the rows of the train and test set.
    rows: (train, test) rows that a split made.
    """

    state: str = "TODO"
    failure: Failure | None = None
    notes: list[str] = field(default_factory=list)
    output: str = ""
    measures: dict[str, float] = field(default_factory=dict)
    full_train_predictions: np.ndarray | None = None
    test_predictions: np.ndarray | None = None
    rows: tuple[int, int] | None = None
