"""Standard and custom data sets, split and used, and what is wrong with them."""

import dataclasses
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import train_test_split

from runner.jobs import DataSet, FoldJob, Reason, SplitJob
from test_files.kits import DIABETES, DIGITS, IRIS
from tests.runner.folds import ALL, assert_failed, classifier, listing, write_specific
from tests.runner.helpers import split_job


@pytest.mark.parametrize("wrong", [30, -1, 2**62, -(2**63)])
def test_a_row_that_the_train_set_has_not_is_an_error_of_the_data(wrong, run):
    outcome = run(train_is=np.array([0, 1, wrong]))
    message = f"Row {wrong} is out of range: the train set has rows 0 to 29."
    assert_failed(outcome, Reason.DATA, "split", "train_is", message)
    assert outcome.failure.log.startswith("ERROR(split data): ")


@pytest.mark.parametrize("custom", [False, True], ids=["standard", "custom"])
@pytest.mark.parametrize(("highest", "right"), [(29, True), (30, False), (2**63 - 1, False)])
def test_a_test_row_that_the_train_set_has_not_is_an_error_of_the_data(
    custom, highest, right, either_executor, make_submission, small_data, tmp_path
):
    """The train set may be smaller than the one that the fold was made for: the data set was split again."""
    data = write_specific(tmp_path / "data") if custom else small_data
    job = FoldJob(data, make_submission(classifier=classifier()), ALL, highest)
    outcome = either_executor.run_fold(job)
    if right:
        assert outcome.state == "TESTED"
    else:
        message = f"test_is: Row {highest} is out of range: the train set has rows 0 to 29."
        assert_failed(outcome, Reason.DATA, "split", message)


def test_a_data_set_that_lacks_a_file_is_an_error_of_the_data(executor, make_submission, small_data, tmp_path):
    data = dataclasses.replace(small_data, folder=tmp_path / "data")
    shutil.copytree(small_data.folder, data.folder)
    (data.folder / "test.csv").unlink()
    outcome = executor.run_fold(FoldJob(data, make_submission(classifier=classifier()), ALL))
    assert_failed(outcome, Reason.DATA, "split", "test.csv")


def test_a_custom_data_set_decides_how_it_is_trained(executor, make_submission, tmp_path):
    data = write_specific(tmp_path / "data", test_submission="return model.predict_proba(X[test_indices]) + 7")
    outcome = executor.run_fold(FoldJob(data, make_submission(classifier=classifier()), ALL))
    assert outcome.failure is None
    assert outcome.full_train_predictions.tolist() == [[7.5, 7.5]] * 30
    assert outcome.test_predictions.tolist() == [[7.5, 7.5]] * 10


@pytest.mark.parametrize(
    ("code", "stage", "reason"),
    [
        ({"top": "1 / 0"}, "split", Reason.DATA),
        ({"get_train_data": "1 / 0"}, "split", Reason.DATA),
        ({"get_train_data": "exit(3)"}, "split", Reason.DATA),
        ({"train_submission": "1 / 0"}, "train", Reason.USER_CODE),
        ({"test_submission": "1 / 0"}, "validation", Reason.USER_CODE),
        ({"test_submission": "if len(X) == 10: 1 / 0"}, "test", Reason.USER_CODE),
    ],
)
def test_a_mistake_of_the_organiser_shows_specific_py(code, stage, reason, executor, make_submission, tmp_path):
    data = write_specific(tmp_path / "data", **code)
    outcome = executor.run_fold(FoldJob(data, make_submission(classifier=classifier()), ALL))
    assert_failed(outcome, reason, stage, 'File "specific.py", line ')


def test_a_mistake_of_a_submission_shows_both_sides(executor, make_submission, tmp_path):
    data = write_specific(tmp_path / "data")
    outcome = executor.run_fold(FoldJob(data, make_submission(classifier=classifier(fit="1 / 0")), ALL))
    assert_failed(outcome, Reason.USER_CODE, "train", 'File "specific.py"', 'File "classifier.py"', "ZeroDivisionError")


def test_a_row_that_a_custom_train_set_has_not_is_an_error_of_the_data(executor, make_submission, tmp_path):
    job = FoldJob(write_specific(tmp_path / "data"), make_submission(classifier=classifier()), np.array([30]))
    assert_failed(executor.run_fold(job), Reason.DATA, "split", "Row 30", "rows 0 to 29")


@pytest.mark.parametrize("kit", [IRIS, DIABETES], ids=lambda kit: kit.name)
def test_a_standard_split_is_the_one_by_hand(kit, executor, tmp_path):
    job = split_job(kit, tmp_path)
    before = listing(job.source)
    outcome = executor.run_split(job)
    by_hand = train_test_split(
        pd.read_csv(kit.data_files[0]), test_size=kit.held_out_test, random_state=kit.random_state
    )
    assert outcome.failure is None
    assert outcome.rows == tuple(map(len, by_hand))
    for name, frame in zip(("train", "test"), by_hand, strict=True):
        assert (job.target / f"{name}.csv").read_text() == frame.to_csv(index=False)
    assert (job.target / f"{kit.name}.csv").read_bytes() == kit.data_files[0].read_bytes()
    assert listing(job.source) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw", "split"]


def test_a_custom_split_is_prepare_datas(executor, tmp_path):
    job = split_job(DIGITS, tmp_path)
    before = listing(job.source)
    outcome = executor.run_split(job)
    assert outcome.failure is None
    assert outcome.rows == tuple(map(len, DIGITS.truth()))
    assert {path.name for path in job.target.iterdir()} == {
        *(path.name for path in DIGITS.data_files),
        "digits_train.csv",
        "digits_test.csv",
    }
    assert listing(job.source) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw", "split"]


def test_the_same_split_may_be_asked_for_twice(executor, tmp_path):
    job = split_job(IRIS, tmp_path)
    first = executor.run_split(job)
    before = listing(job.target)
    with ThreadPoolExecutor(2) as pool:
        again = list(pool.map(executor.run_split, [job, job]))
    assert [(outcome.failure, outcome.rows) for outcome in again] == 2 * [(None, first.rows)]
    assert listing(job.target) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw", "split"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"target_column": "kind"}, "no target column 'kind' among the columns"),
        ({"held_out_test": 1.0}, "iris.csv with 150 rows can't be split"),
        ({"name": "other"}, "other.csv"),
    ],
)
def test_a_standard_split_that_fails_says_why_and_leaves_nothing(change, says, executor, tmp_path):
    job = dataclasses.replace(split_job(IRIS, tmp_path), **change)
    outcome = executor.run_split(job)
    assert_failed(outcome, Reason.DATA, "split", says)
    assert outcome.rows is None
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        ({"prepare_data": "raise KeyError('no such column')"}, "raise KeyError('no such column')"),
        ({"prepare_data": "open(raw_data_path + '/half', 'w').write('x'); exit(1)"}, "SystemExit"),
        ({"get_train_data": "1 / 0"}, "ZeroDivisionError"),
        ({"top": "x = ("}, "SyntaxError"),
    ],
)
def test_a_custom_split_that_fails_shows_specific_py_and_leaves_nothing(code, shown, executor, tmp_path):
    source = write_specific(tmp_path / "raw", **code).folder
    outcome = executor.run_split(SplitJob(source, tmp_path / "split", "name", "", custom=True))
    assert_failed(outcome, Reason.DATA, "split", 'File "specific.py", line ', shown)
    assert outcome.failure.log.startswith("ERROR(split data): ")
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


@pytest.mark.parametrize(
    ("code", "reason", "says"),
    [
        ("import time; time.sleep(600)", Reason.TIME_LIMIT, "Soft Time Limit Exceeded"),
        ("sum(range(10**15))", Reason.TIME_LIMIT, "Hard Time Limit Exceeded"),
        ("import os; os._exit(3)", None, "exit code 3"),
    ],
)
def test_a_custom_split_that_does_not_end_leaves_nothing(code, reason, says, hasty_executor, tmp_path):
    source = write_specific(tmp_path / "raw", prepare_data=code).folder
    outcome = hasty_executor.run_split(SplitJob(source, tmp_path / "split", "name", "", custom=True))
    assert outcome.failure.stage == "split"
    assert says in outcome.failure.message
    assert reason is None or outcome.failure.reason == reason
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


ROWS = """
import numpy as np

def prepare_data(raw_data_path):
    pass

def get_train_data(raw_data_path):
    n = 30
    return {train}

def get_test_data(raw_data_path):
    n = 10
    return {test}

def train_submission(module_path, X, y, train_indices):
    return type(X).__name__

def test_submission(model, X, test_indices):
    print("X is", type(X).__name__)
    return np.full(len(test_indices), 7.0)
"""


def _split_and_fold(executor, make_submission, folder, train, test="np.zeros((n, 2)), np.zeros(n)"):
    """The outcomes of a custom data set's split and, where that worked, of a fold."""
    (folder / "raw").mkdir()
    (folder / "raw" / "specific.py").write_text(ROWS.format(train=train, test=test))
    split = executor.run_split(SplitJob(folder / "raw", folder / "split", "name", "", custom=True))
    if split.failure is not None:
        return split, None
    data = DataSet(folder / "split", "", (), custom=True)
    return split, executor.run_fold(FoldJob(data, make_submission(model=""), np.arange(20)))


@pytest.mark.parametrize(
    "X",
    [
        "{'left': np.arange(n), 'right': np.arange(n)}",
        "('images', [str(row) for row in range(n)])",
        "np.arange(n + 5.0)",
        "'a folder'",
        "None",
        "[[1, 2]] * (2 * n)",
        "{row for row in range(3)}",
    ],
)
@pytest.mark.parametrize("y", ["np.arange(n)", "list(range(n))", "np.zeros((n, 2))", "tuple(range(n))"])
def test_the_labels_count_the_rows_of_a_custom_data_set(X, y, executor, make_submission, tmp_path):
    split, fold = _split_and_fold(executor, make_submission, tmp_path, f"{X}, {y}", f"{X}, {y}")
    assert split.rows == (30, 10)
    assert fold.failure is None
    assert fold.full_train_predictions.tolist() == 30 * [7.0]
    assert fold.test_predictions.tolist() == 10 * [7.0]


@pytest.mark.parametrize("X", ["np.zeros((n, 2))", "[[1, 2]] * n", "__import__('pandas').DataFrame({'a': range(n)})"])
def test_test_data_without_labels_are_counted_themselves(X, either_executor, make_submission, tmp_path):
    split, fold = _split_and_fold(either_executor, make_submission, tmp_path, f"{X}, np.zeros(n)", f"{X}, None")
    assert split.rows == (30, 10)
    assert fold.failure is None
    assert fold.test_predictions.tolist() == 10 * [7.0]


def test_test_labels_without_data_count_the_rows(either_executor, make_submission, tmp_path):
    split, fold = _split_and_fold(either_executor, make_submission, tmp_path, "[0] * n, [0] * n", "None, [0] * n")
    assert split.rows == (30, 10)
    assert fold.test_predictions.tolist() == 10 * [7.0]
    assert fold.output.split() == ["X", "is", "list", "X", "is", "NoneType"]


def test_a_data_set_without_test_data_has_no_test_predictions(either_executor, make_submission, tmp_path):
    split, fold = _split_and_fold(either_executor, make_submission, tmp_path, "[0] * n, [0] * n", "None, None")
    assert split.rows == (30, 0)
    assert fold.failure is None
    assert fold.state == "TESTED"
    assert fold.full_train_predictions.tolist() == 30 * [7.0]
    assert fold.test_predictions.tolist() == []
    assert fold.output.split() == ["X", "is", "list"]


@pytest.mark.parametrize(
    ("train", "test", "says"),
    [
        ("np.zeros(n), None", "None, None", "get_train_data returned no labels (None for y)"),
        ("None, None", "None, None", "get_train_data returned no labels (None for y)"),
        ("np.zeros(n), 5", "None, None", "get_train_data returned y of type int: return labels"),
        ("np.zeros(n), np.float64(5)", "None, None", "get_train_data returned y of type float64: return labels"),
        (
            "np.zeros(n), [0] * n",
            "{'a': 1}, None",
            "get_test_data returned no y, and X of type dict: return labels",
        ),
        ("np.zeros(n), {'a': [0] * n}", "None, None", "get_train_data returned y of type dict: return labels"),
        ("np.zeros(n), 'labels'", "None, None", "get_train_data returned y of type str: return labels"),
        ("np.zeros((2, 5))", "None, None", "get_train_data returned a ndarray: return two, X and y"),
        ("np.zeros(n), [0] * n, 1", "None, None", "get_train_data returned 3 values: return two, X and y"),
        ("np.zeros(n), [0] * n", "None", "get_test_data returned a NoneType: return two, X and y"),
        ("(lambda: 1), [0] * n", "None, None", "get_train_data or get_test_data returned what can't be kept"),
        ("np.zeros(n), [0] * n", "('a', 'b'), None", "get_test_data returned no y, and X of type tuple: return labels"),
    ],
)
def test_rows_that_can_not_be_counted_are_an_error_of_the_split(
    train, test, says, either_executor, make_submission, tmp_path
):
    split, _ = _split_and_fold(either_executor, make_submission, tmp_path, train, test)
    assert_failed(split, Reason.DATA, "split", says)


def test_both_sets_have_the_types_of_the_whole_file(either_executor, make_submission, tmp_path):
    """The split puts row 148, the only one with a letter, into the test set."""
    (tmp_path / "raw").mkdir()
    rows = "".join(f"{'2A' if row == 148 else f'{row % 20:02}'},{'xy'[row % 2]}\n" for row in range(200))
    (tmp_path / "raw" / "birds.csv").write_text("code,kind\n" + rows)
    split = either_executor.run_split(SplitJob(tmp_path / "raw", tmp_path / "v", "birds", "kind", False, 0.25, 42))
    assert split.failure is None
    assert "2A" not in (tmp_path / "v" / "train.csv").read_text()
    code = classifier(
        predict="print(sorted({type(code).__name__ for code in X[:, 0]}), X[0])", result="np.zeros((len(X), 2))"
    )
    job = FoldJob(DataSet(tmp_path / "v", "kind", ("classifier",), custom=False), make_submission(classifier=code), ALL)
    outcome = either_executor.run_fold(job)
    assert outcome.failure is None
    assert outcome.output.count("['str']") == 2
