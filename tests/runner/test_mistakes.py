"""What the author of a submission is shown of its mistakes and its prints."""

import time

import numpy as np
import pytest

from runner.jobs import FoldJob, Reason
from tests.runner.folds import ALL, assert_failed, classifier


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
    assert_failed(outcome, Reason.USER_CODE, "train", "ModuleNotFoundError", "classifier")
    outcome = executor.run_fold(FoldJob(small_data, make_submission(classifier="x = 1"), ALL))
    assert_failed(outcome, Reason.USER_CODE, "train", "AttributeError", "'Classifier'")


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
    outcome = run(result="np.where(np.arange(len(X)) < 3, np.nan, 0.5)")
    assert (outcome.state, outcome.failure) == ("TESTED", None)
    assert np.isnan(outcome.full_train_predictions).sum() == np.isnan(outcome.test_predictions).sum() == 3
    validation, test = outcome.notes
    assert "validation" in validation
    assert "3 of 30 predictions are not a number" in validation
    assert "test" in test
    assert "3 of 10 predictions are not a number" in test
    assert run(result="np.full(len(X), np.inf)").notes == []


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
    assert 5_000 < len(outcome.output) < 100_000


def test_prints_that_are_no_text_are_kept_as_far_as_they_are(run):
    assert "a" in run(fit="os.write(1, b'a\\xff\\xfe\\x00b')").output


def test_no_input_is_waited_for(run):
    outcome = run(fit="self.line = sys.stdin.readline()")
    assert outcome.state == "TESTED" or outcome.failure.reason == Reason.USER_CODE
