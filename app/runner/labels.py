"""The labels of a standard data set: their classes, and whether a calibrator can be trained on those of a fold."""

import math
from dataclasses import dataclass

import numpy as np

CALIBRATION_PART = 0.1
"""The part of the training rows that a calibrator is fitted on (contract, section 4)."""
_LISTED = 10
"""How many classes a message names."""


class LabelsError(Exception):
    """The fold's labels don't do for its workflow; the message says what would be right."""


@dataclass(frozen=True)
class Classes:
    """What a classifier is to tell apart. all: the classes of the data set, sorted; train: those of its train set.

    labels: of the fold's rows.
    """

    all: tuple[str, ...]
    train: tuple[str, ...]
    labels: np.ndarray

    def remark(self, columns: int) -> str:
        """What is odd about probabilities with that many columns; empty if nothing is.

        Participants read it: it names no class that only the test set has.
        """
        if columns == len(self.all):
            return ""
        text = f"{_count(columns, 'column')} of probabilities, but the data has {_count(len(self.all), 'class')}"
        seen = classes_of(self.labels)
        if len(seen) < len(self.all):
            text += f"; the training rows hold {len(seen)} of the {len(self.all)} classes"
            if missing := [name for name in self.train if name not in seen]:
                listed = ", ".join(map(repr, missing[:_LISTED])) + (", ..." if len(missing) > _LISTED else "")
                text += f"; missing: {listed}"
            if columns == len(seen):
                text += "; the columns are those of the classes seen, sorted"
        return text


def classes_of(labels: np.ndarray) -> tuple[str, ...]:
    """The classes as text, in the order of numpy.unique: the order of the columns of a classifier's probabilities."""
    return tuple(map(str, _unique(labels)[0].tolist()))


def check_calibration(labels: np.ndarray) -> None:
    """Raise LabelsError where workflow.train can't cut these rows for a calibrator.

    The stratified cut needs two rows of each class, and a row for each class in its smaller part.
    """
    classes, counts = _unique(labels)
    smallest = int(np.argmin(counts))
    name, count, rows = str(classes[smallest]), int(counts[smallest]), len(labels)
    held = f"class {name!r} has {_count(count, 'row')} among the {rows} training rows of this fold"
    if count < 2:
        raise LabelsError(f"{held}, but a calibrator needs at least 2 rows of each class: name more rows in train_is")
    part, needed = math.ceil(CALIBRATION_PART * rows), 10 * len(classes) - 9
    if part < len(classes):
        raise LabelsError(
            f"a calibrator is fitted on a tenth of the training rows. That is {_count(part, 'row')} here, fewer than "
            f"the {len(classes)} classes ({held}): name at least {needed} rows in train_is"
        )


def _unique(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    try:
        return np.unique(labels, return_counts=True)
    except TypeError:  # text beside numbers has no order
        return np.unique(labels.astype(str), return_counts=True)


def _count(number: int, what: str) -> str:
    plural = what if number == 1 else f"{what}es" if what.endswith("s") else f"{what}s"
    return f"{number} {plural}"
