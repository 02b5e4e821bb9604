"""What is said of a fold's labels: rows that can't be cut for a calibrator, and columns that are not the classes."""

import numpy as np
import pytest
from sklearn.model_selection import StratifiedShuffleSplit

from runner import labels


def cut_fails(y):
    cut = StratifiedShuffleSplit(n_splits=1, test_size=labels.CALIBRATION_PART, random_state=57)
    try:
        next(cut.split(np.zeros((len(y), 1)), y))
    except ValueError:
        return True
    return False


def refused(y):
    try:
        labels.check_calibration(y)
    except labels.LabelsError:
        return True
    return False


def test_it_refuses_exactly_the_rows_that_the_cut_fails_for():
    rng = np.random.default_rng(3)
    seen = set()
    for rows in [*range(1, 45), 60, 90, 91, 101]:
        for classes in range(1, 12):
            y = rng.integers(classes, size=rows)
            assert refused(y) == cut_fails(y), y
            seen.add(refused(y))
    assert seen == {True, False}


@pytest.mark.parametrize(
    ("y", "says"),
    [
        (["x"] * 20 + ["y"] * 20 + ["rare"], "class 'rare' has 1 row among the 41 training rows"),
        ([1] * 20 + [7], "class '7' has 1 row among the 21 training rows"),
        (np.arange(40) / 8, "class '0.0' has 1 row among the 40 training rows"),
        (["a", "b", "c", "d"] * 4 + ["a"], r"is 2 rows here, fewer than the 4 classes \(class 'b' has 4 rows among"),
        (["a", "b", "c", "d"] * 4, "name at least 31 rows in train_is"),
    ],
)
def test_it_names_the_class_and_its_rows_and_what_would_be_right(y, says):
    with pytest.raises(labels.LabelsError, match=says) as error:
        labels.check_calibration(np.array(y))
    assert "train_is" in str(error.value)


@pytest.mark.parametrize("count", [31, 40])
def test_the_number_of_rows_that_it_asks_for_is_enough(count):
    labels.check_calibration(np.array(["a", "b", "c", "d"] * 10)[:count])


@pytest.mark.parametrize(
    "y", [np.array(["b", "a", None, 3.5] * 9, dtype=object), np.array([True, False] * 9, dtype=object)], ids=str
)
def test_labels_of_any_kind_are_counted(y):
    labels.check_calibration(y)
    assert set(labels.classes_of(y)) == set(map(str, y))


def test_classes_are_in_the_order_of_the_columns():
    assert labels.classes_of(np.array([10, 9, 10, 100])) == ("9", "10", "100")
    assert labels.classes_of(np.array(["b", "B", "a"], dtype=object)) == ("B", "a", "b")


CLASSES = labels.Classes(("a", "b", "c"), ("a", "b", "c"), np.array(["c", "a"]))


def test_it_remarks_on_columns_that_are_not_the_classes():
    assert CLASSES.remark(3) == ""
    assert CLASSES.remark(2) == (
        "2 columns of probabilities, but the data has 3 classes; the training rows hold 2 of the 3 classes; "
        "missing: 'b'; the columns are those of the classes seen, sorted"
    )
    assert CLASSES.remark(1).startswith("1 column of probabilities, but the data has 3 classes; the training rows")
    assert "classes seen, sorted" not in CLASSES.remark(1)
    whole = labels.Classes(("a", "b"), ("a", "b"), np.array(["b", "a"]))
    assert whole.remark(4) == "4 columns of probabilities, but the data has 2 classes"


def test_a_remark_names_no_class_that_the_test_set_alone_has():
    secret = labels.Classes(("a", "b", "secret"), ("a", "b"), np.array(["a", "a"]))
    assert secret.remark(1) == (
        "1 column of probabilities, but the data has 3 classes; the training rows hold 1 of the 3 classes; "
        "missing: 'b'; the columns are those of the classes seen, sorted"
    )
    assert "missing" not in labels.Classes(("a", "secret"), ("a",), np.array(["a"])).remark(1)


def test_a_remark_names_ten_classes_at_most():
    classes = tuple(f"c{number:03}" for number in range(500))
    many = labels.Classes(classes, classes, np.array(["c000"]))
    assert "'c010', ..." in many.remark(1)
    assert len(many.remark(1)) < 400
