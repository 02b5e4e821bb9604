"""A fold past its limits: told, then killed."""

import contextlib
import os
import signal
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from runner.jobs import Reason
from tests.runner.conftest import HASTY
from tests.runner.folds import assert_failed, descendants, processes_with
from tests.runner.helpers import wait_until


@pytest.mark.parametrize("stage", ["train", "validation", "test"])
def test_past_the_soft_limit_an_exception_shows_where(stage, run, hasty_executor):
    code = {"train": {"fit": "time.sleep(600)"}, "validation": {"predict": "time.sleep(600)"}}
    started = time.monotonic()
    outcome = run(by=hasty_executor, **code.get(stage, {"predict": "if TEST: time.sleep(600)"}))
    assert time.monotonic() - started >= HASTY.soft_time
    assert_failed(outcome, Reason.TIME_LIMIT, stage, "time.sleep(600)", "Soft Time Limit Exceeded")
    assert 'File "classifier.py"' in outcome.failure.message


@pytest.mark.parametrize(
    "handler",
    [
        "except Exception: pass",
        "except BaseException: pass",
        "except Exception: raise KeyError('own')",
        "finally: sys.exit()",
    ],
)
def test_a_soft_limit_can_not_be_swallowed(handler, run, hasty_executor):
    outcome = run(by=hasty_executor, fit=f"try: time.sleep(600)\n{handler}")
    assert outcome.failure.reason == Reason.TIME_LIMIT
    assert "Soft Time Limit Exceeded" in outcome.failure.log


@pytest.mark.parametrize(
    "fit",
    [
        "while True:\n    try: time.sleep(600)\n    except BaseException: pass",
        "sum(range(10**15))",
        "for number in {*range(1, 32)} - {9, 19}: signal.signal(number, signal.SIG_IGN)\ntime.sleep(600)",
    ],
    ids=["swallowed again and again", "in C", "signals ignored"],
)
def test_past_the_hard_limit_it_is_killed_with_all_it_started(fit, run, hasty_executor):
    mark = uuid.uuid4().hex
    start = (
        f"subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(600)', {mark!r}]); print('started')\n"
    )
    started = time.monotonic()
    outcome = run(by=hasty_executor, fit=start + fit)
    assert HASTY.hard_time <= time.monotonic() - started < 60  # ended by itself it would take ten minutes
    assert_failed(outcome, Reason.TIME_LIMIT, "train", "Hard Time Limit Exceeded")
    assert outcome.output.startswith("started")
    wait_until(lambda: not processes_with(mark))


def test_a_machine_that_stands_still_past_both_limits_leaves_the_fold_its_time_to_speak(run, hasty_executor):
    mark = uuid.uuid4().hex
    start = f"subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(600)', {mark!r}])\n"
    with ThreadPoolExecutor(1) as pool:
        outcome = pool.submit(run, by=hasty_executor, fit=start + "time.sleep(600)")
        wait_until(lambda: processes_with(mark))
        past_both = time.monotonic() + HASTY.hard_time + 0.2
        stopped = descendants()
        try:
            for pid in stopped:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
            wait_until(lambda: time.monotonic() > past_both)
        finally:
            for pid in stopped:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
    assert_failed(outcome.result(), Reason.TIME_LIMIT, "train", "time.sleep(600)", "Soft Time Limit Exceeded")


def test_after_a_limit_the_next_fold_runs(run, hasty_executor):
    run(by=hasty_executor, fit="time.sleep(600)")
    assert run(by=hasty_executor).state == "TESTED"


def test_the_clock_of_each_fold_is_its_own(run, hasty_executor):
    """Ten folds of six tenths of a second, two at once: the limit of four is none for all of them together."""
    with ThreadPoolExecutor(2) as pool:
        outcomes = [pool.submit(run, by=hasty_executor, fit="time.sleep(0.6)") for _ in range(10)]
    assert [outcome.result().state for outcome in outcomes] == 10 * ["TESTED"]
