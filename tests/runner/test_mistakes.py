"""What the author of a submission is shown of its mistakes and its prints."""

import time
from dataclasses import replace

import numpy as np
import pytest

from runner.jobs import FoldJob, Reason
from tests.runner.folds import ALL, assert_failed, classifier, write_specific


@pytest.mark.parametrize(
    ("code", "stage", "where"),
    [
        ({"top": "1 / 0"}, "train", "in <module>"),
        ({"init": "1 / 0"}, "train", "in __init__"),
        ({"fit": "1 / 0"}, "train", "in fit"),
        ({"predict": "1 / 0"}, "validation", "in predict_proba"),
        ({"predict": "if TEST: 1 / 0"}, "test", "in predict_proba"),
    ],
    ids=["import", "__init__", "fit", "validation", "test"],
)
def test_an_exception_is_shown_with_the_submissions_own_frames(code, stage, where, run):
    outcome = run(**code)
    assert_failed(outcome, Reason.USER_CODE, stage)
    lines = outcome.failure.message.splitlines()
    source = classifier(**code).splitlines()
    number = next(number for number, line in enumerate(source, 1) if "1 / 0" in line)
    assert lines[:3] == [
        "Traceback (most recent call last):",
        f'  File "classifier.py", line {number}, {where}',
        f"    {source[number - 1].strip()}",
    ]
    assert lines[-1].startswith("ZeroDivisionError: ")
    assert outcome.failure.log.startswith(f"ERROR({stage}): Traceback")
    assert (outcome.full_train_predictions is not None) == (stage == "test")
    assert outcome.test_predictions is None
    measured = {"train": 1, "validation": 2, "test": 3}[stage]  # what the failed stage used too
    assert [name in outcome.measures for name in ("train_time", "validation_time", "test_time")] == [
        number < measured for number in range(3)
    ]


def test_a_syntax_error_is_shown_where_it_stands(run):
    outcome = run(top="x = (")
    assert_failed(
        outcome, Reason.USER_CODE, "train", 'File "classifier.py", line ', "x = (", "SyntaxError: '(' was never"
    )


def test_a_helpers_mistake_is_shown_in_the_helper(executor, make_submission, small_data):
    submission = make_submission(
        helper="def f():\n    raise KeyError('k')", classifier=classifier("from .helper import f", fit="f()")
    )
    outcome = executor.run_fold(FoldJob(small_data, submission, ALL))
    assert_failed(outcome, Reason.USER_CODE, "train", 'File "helper.py", line 2, in f', ", in fit", "KeyError: 'k'")


def test_a_missing_file_or_class_is_named(executor, make_submission, small_data):
    outcome = executor.run_fold(FoldJob(small_data, make_submission(regressor="x = 1"), ALL))
    assert_failed(outcome, Reason.USER_CODE, "train", "the submission has no file classifier.py")
    outcome = executor.run_fold(FoldJob(small_data, make_submission(classifier="x = 1"), ALL))
    assert_failed(outcome, Reason.USER_CODE, "train", "classifier.py defines no class Classifier")
    assert "Traceback" not in outcome.failure.message


@pytest.mark.parametrize("stage", ["train", "validation", "test"])
@pytest.mark.parametrize(
    ("code", "says", "reason"),
    [
        ("sys.exit(3)", "SystemExit: 3", Reason.USER_CODE),
        ("sys.exit()", "SystemExit", Reason.USER_CODE),
        ("raise KeyboardInterrupt", "KeyboardInterrupt", Reason.USER_CODE),
        ("os._exit(3)", "exit code 3", Reason.KILLED_ITSELF),
        ("os._exit(0)", "exit code 0", Reason.KILLED_ITSELF),
        ("import ctypes; ctypes.string_at(0)", "SIGSEGV", Reason.KILLED_ITSELF),
    ],
)
def test_a_process_that_ends_itself_is_the_submissions_mistake(code, says, reason, stage, run):
    where = {"train": {"fit": code}, "validation": {"predict": code}, "test": {"predict": f"if TEST:\n    {code}"}}
    started = time.monotonic()
    outcome = run(**where[stage])
    assert time.monotonic() - started < 20, "nobody waits for the limits"
    assert_failed(outcome, reason, stage, says)


def test_a_fold_that_signals_itself_lives_on(run):
    """It is process 1 of its namespace, which the kernel keeps from such signals."""
    assert run(fit="os.kill(os.getpid(), signal.SIGKILL); os.kill(os.getpid(), signal.SIGSTOP)").failure is None


@pytest.mark.parametrize("kind", ["BaseException", "GeneratorExit", "type('Own', (BaseException,), {})"])
def test_any_kind_of_exception_is_shown(kind, run):
    assert_failed(run(fit=f"raise {kind}('why')"), Reason.USER_CODE, "train", ", in fit", "why")


def test_a_recursion_without_end_is_shown_in_short(run):
    outcome = run(fit="self.fit(X, y)")
    assert_failed(outcome, Reason.USER_CODE, "train", ", in fit", "RecursionError", "Previous line repeated")
    assert len(outcome.failure.message) < 2000


@pytest.mark.parametrize("code", ["np.empty(1 << 50)", "raise MemoryError"])
def test_memory_that_is_not_there_is_its_own_reason(code, run):
    assert_failed(run(fit=code), Reason.MEMORY_LIMIT, "train", ", in fit", "MemoryError")


@pytest.mark.parametrize(
    ("fit", "says"),
    [
        ("class Bad(Exception):\n    def __str__(self): raise ValueError\nraise Bad", "Bad"),
        ("raise ValueError('a' * 10_000_000 + 'the end')", "the end"),
        ("raise ValueError('\\0 \\ud800 \\x1b[2J')", "ValueError"),
        ("raise SyntaxError('x', (5, 'y', object(), None))", "SyntaxError"),
        ("sys.stdout = sys.stderr = None; 1 / 0", "ZeroDivisionError"),
        ("sys.stdout.close(); os.close(1); os.close(2); 1 / 0", "ZeroDivisionError"),
        ("del sys.modules['traceback'], sys.modules['json']; sys.path.clear(); 1 / 0", "ZeroDivisionError"),
        ("os.chdir('/'); 1 / 0", "ZeroDivisionError"),
    ],
)
def test_a_hostile_end_is_shown_all_the_same(fit, says, run):
    outcome = run(fit=fit)
    assert_failed(outcome, Reason.USER_CODE, "train", says)
    assert len(outcome.failure.message) < 100_000


@pytest.mark.parametrize(
    ("result", "rows"),
    [("np.zeros((len(X) - 1, 2))", (29, 9)), ("np.zeros((len(X) + 1, 2))", (31, 11)), ("[]", (0, 0)), ("None", (0, 0))],
)
@pytest.mark.parametrize("stage", ["validation", "test"])
def test_a_wrong_number_of_rows_says_both_numbers(result, rows, stage, run):
    outcome = run(result=result if stage == "validation" else f"{result} if TEST else np.zeros(len(X))")
    number = (stage == "test") * 1
    assert_failed(outcome, Reason.USER_CODE, stage, f"{(30, 10)[number]} rows", f"{rows[number]} rows")


@pytest.mark.parametrize(
    "result", ["['yes'] * len(X)", "[object()] * len(X)", "[[1], [2, 3]] * (len(X) // 2)", "{}", "X + 1j"]
)
def test_what_is_no_array_of_numbers_is_an_error(result, run):
    assert run(result=result).failure.reason == Reason.USER_CODE


def test_not_a_number_is_noted_and_no_error(run):
    outcome = run(result="np.where(np.arange(2 * len(X)) < 6, np.nan, 0.5).reshape(-1, 2)")
    assert (outcome.state, outcome.failure) == ("TESTED", None)
    assert np.isnan(outcome.full_train_predictions).sum() == np.isnan(outcome.test_predictions).sum() == 6
    validation, test = outcome.notes
    assert "validation" in validation
    assert "3 of 30 predictions are not a number" in validation
    assert "test" in test
    assert "3 of 10 predictions are not a number" in test


@pytest.mark.parametrize(
    ("result", "notes"),
    [
        ("np.full((len(X), 2), 0.5)", []),
        ("np.full((len(X), 2), 1 + 1e-9)", []),
        ("np.full((len(X), 2), np.inf)", ["{} of {} predictions are infinite"]),
        ("np.full((len(X), 2), -np.inf)", ["{} of {} predictions are infinite"]),
        ("np.full((len(X), 2), -0.25)", ["{} of {} predictions are outside [0, 1], which no probability is"]),
        ("np.full((len(X), 2), 1.5)", ["{} of {} predictions are outside [0, 1], which no probability is"]),
        ("np.full(len(X), 0.5)", ["1 column of probabilities, but the data has 2 classes"]),
        ("np.full((len(X), 1), 0.5)", ["1 column of probabilities, but the data has 2 classes"]),
        ("np.full((len(X), 3), 0.5)", ["3 columns of probabilities, but the data has 2 classes"]),
    ],
)
def test_odd_probabilities_are_noted_and_no_error(result, notes, run):
    outcome = run(result=result)
    assert (outcome.state, outcome.failure) == ("TESTED", None)
    stages = [("validation", 30), ("test", 10)]
    assert outcome.notes == [f"{stage}: {note.format(rows, rows)}" for stage, rows in stages for note in notes]


def test_a_note_says_which_classes_the_training_rows_lack(run):
    outcome = run(train_is=2 * np.arange(15), result="np.ones((len(X), 1))")
    assert outcome.failure is None
    for note in outcome.notes:
        assert "the training rows hold 1 of the 2 classes; missing: '1'; the columns are those of the" in note


def test_infinite_values_of_a_regressor_are_noted_and_others_are_not(executor, make_submission, small_data):
    submission = make_submission(
        regressor="""
import numpy as np
class Regressor:
    def fit(self, X, y): pass
    def predict(self, X): return np.where(np.arange(len(X)) < 4, np.inf, -7.5)
"""
    )
    outcome = executor.run_fold(FoldJob(replace(small_data, workflow_elements=("regressor",)), submission, ALL))
    notes = ["validation: 4 of 30 predictions are infinite", "test: 4 of 10 predictions are infinite"]
    assert (outcome.failure, outcome.notes) == (None, notes)


def test_infinite_values_of_a_custom_data_set_are_noted(executor, make_submission, tmp_path):
    submission = make_submission(classifier=classifier(result="np.full(len(X), np.inf)"))
    outcome = executor.run_fold(FoldJob(write_specific(tmp_path / "data"), submission, ALL))
    notes = ["validation: 30 of 30 predictions are infinite", "test: 10 of 10 predictions are infinite"]
    assert (outcome.failure, outcome.notes) == (None, notes)


@pytest.mark.parametrize("custom", [False, True])
@pytest.mark.parametrize("stage", ["validation", "test"])
def test_predictions_of_no_columns_are_an_error(custom, stage, executor, make_submission, small_data, tmp_path):
    result = "np.zeros((len(X), 0))" if stage == "validation" else "np.zeros((len(X), 0 if TEST else 2))"
    data = write_specific(tmp_path / "data") if custom else small_data
    outcome = executor.run_fold(FoldJob(data, make_submission(classifier=classifier(result=result)), ALL))
    assert_failed(outcome, Reason.USER_CODE, stage, "the predictions have 0 columns")


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (
            "import xgboost",
            "no file xgboost.py. GET /runapp/packages/ lists the packages.",
        ),
        (
            "import torch.nn as nn",
            "no package torch is installed on the runners, and the submission has no file torch.py",
        ),
        ("from tensorflow.keras import layers", "no package tensorflow is installed on the runners"),
        ("import pandas as pd; pd.DataFrame({'a': [1]}).to_hdf('f', key='a')", "no package tables is installed"),
        ("from .helpr import f", "the submission has no file helpr.py. Is helper.py meant?"),
        ("from helpr import f", "and the submission has no file helpr.py. Is helper.py meant?"),
        ("from . import quite_another", ""),
        (
            "from .quite_another import f",
            "no file quite_another.py. It has classifier.py, deep.py, helper.py, random.py",
        ),
        ("from random import mine", "random is a module of Python or of an installed package. random.py is `from ."),
        ("import random; random.mine()", "random is a module of Python or of an installed package. random.py is"),
        ("from .random import others", ""),
        ("import helper; helper.g()", "helper.py defines f, VALUE."),
        ("import sklearn.nothing", ""),
        ("import deep", "no package lightgbm is installed on the runners"),
        (
            "try:\n    import xgboost\nexcept ImportError:\n    raise RuntimeError",
            "no package xgboost is installed",
        ),
        ("1 / 0", ""),
        (
            "open('helper.py')",
            "files are in a folder of their own: Path(__file__).parent / 'helper.py'.",
        ),
        ("open('nothing.txt')", ""),
        ("open(__file__ + '.new', 'w')", "a submission can write below /tmp."),
    ],
)
def test_an_error_that_fails_says_what_would_help(code, says, executor, make_submission, small_data):
    submission = make_submission(
        classifier=classifier(fit=code),
        helper="def f(): pass\nVALUE = 3",
        deep="from .helper import f\nimport lightgbm",
        random="mine = 1",
    )
    outcome = executor.run_fold(FoldJob(small_data, submission, ALL))
    assert_failed(outcome, Reason.USER_CODE, "train", says, "Traceback (most recent call last):")
    assert ("Hint: " in outcome.failure.message) == bool(says)


def test_a_hostile_error_gets_no_hint_and_is_shown_all_the_same(run):
    for body in ("name = property(lambda self: 1 / 0)", "errno = property(lambda self: 1 / 0)", "name = 5"):
        for base in ("ModuleNotFoundError", "AttributeError", "OSError"):
            outcome = run(fit=f"class Bad({base}):\n    {body}\nraise Bad('why')")
            assert_failed(outcome, Reason.USER_CODE, "train", ", in fit", "Bad", "why")


def test_prints_are_kept(run):
    outcome = run(
        top="print('at import')",
        fit="print('to stderr', file=sys.stderr); subprocess.run(['echo', 'from a process'], check=True)",
        predict="print('wörds', 'without', 'end', end='')",
    )
    assert outcome.state == "TESTED"
    for text in ("at import", "to stderr", "from a process", "wörds without end"):
        assert text in outcome.output


@pytest.mark.parametrize("end", ["1 / 0", "sys.exit()", "os._exit(1)", "os.abort()"])
def test_prints_before_the_end_are_kept(end, run):
    assert run(fit=f"print('before'); {end}").output.startswith("before")


def test_many_prints_are_capped_and_stop_nobody(run):
    outcome = run(fit="for number in range(20_000): print('first' if not number else 500 * 'x')")  # 10 MB
    assert outcome.state == "TESTED"
    assert outcome.output.startswith("first\nxxx")
    assert outcome.output.endswith("xxx\n")
    assert "bytes of output left out ...]" in outcome.output
    assert 5_000 < len(outcome.output) < 100_000


def test_prints_that_are_no_text_are_kept_as_far_as_they_are(run):
    assert "a" in run(fit="os.write(1, b'a\\xff\\xfe\\x00b')").output


def test_no_input_is_waited_for(run):
    outcome = run(fit="self.line = sys.stdin.readline()")
    assert outcome.state == "TESTED" or outcome.failure.reason == Reason.USER_CODE
