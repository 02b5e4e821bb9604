"""Folds in processes of their own, through the interface of `Executor` alone: what they give, one beside the other.

A submission under test can only speak through its predictions, its prints and its end: nothing here knows how
it is kept apart.
"""

import os
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from runner.jobs import FoldJob, Reason
from test_files.kits import DIGITS, KITS
from tests import reference
from tests.runner.folds import (
    ALL,
    MEASURES,
    assert_failed,
    classifier,
    descendants,
    listing,
    names,
    processes_with,
    state_of,
    write_specific,
)
from tests.runner.helpers import wait_until


@pytest.mark.parametrize(
    ("kit", "submission"),
    [pytest.param(kit, name, id=f"{kit.name}-{name}") for kit in KITS for name in kit.submissions],
)
def test_a_fold_predicts_bit_for_bit_what_one_process_does(kit, submission, executor, split_kit):
    data = split_kit(kit)
    for fold in kit.folds(kit.truth()[0], n_folds=2):
        stages = []
        job = FoldJob(data, kit.submission_folder(submission), fold.train_is)
        outcome = executor.run_fold(job, lambda stage, measures, stages=stages: stages.append((stage, measures)))

        assert outcome.failure is None
        assert outcome.state == "TESTED"
        assert outcome.notes == []
        expected = reference.predict(kit, kit.submission_folder(submission), fold.train_is)
        for mine, by_hand in zip((outcome.full_train_predictions, outcome.test_predictions), expected, strict=True):
            assert mine.dtype == np.float64
            assert mine.reshape(len(mine), -1).shape == by_hand.shape
            assert mine.tobytes() == by_hand.tobytes()

        assert [stage for stage, _ in stages] == ["train", "validation", "test"]
        assert {name for _, measures in stages for name in measures} == set(outcome.measures) == MEASURES
        assert all(value >= 0 for value in outcome.measures.values())


def test_a_stage_is_reported_while_the_next_one_waits(executor, make_submission, small_data):
    """The states are seen to advance: the report of a stage comes before the next one is done."""
    seen = []
    submission = make_submission(classifier=classifier(predict="time.sleep(3)"))
    started = time.monotonic()
    outcome = executor.run_fold(
        FoldJob(small_data, submission, ALL), lambda stage, measures: seen.append((stage, time.monotonic() - started))
    )
    (train, at_train), (validation, at_validation), (test, at_test) = seen
    assert (train, validation, test) == ("train", "validation", "test")
    assert at_train + 0.25 < at_validation
    assert at_validation + 0.25 < at_test
    assert outcome.measures["validation_time"] >= 3


def test_the_job_is_not_changed_by_the_run(run):
    train_is = np.array([5, 3, 3, 29])
    assert run(train_is=train_is, fit="assert len(X) == 4; X[:] = 0; y[:] = 9").state == "TESTED"
    assert train_is.tolist() == [5, 3, 3, 29]


def test_the_rows_of_train_is_are_the_training_rows_in_that_order(run, small_data):
    labels = pd.read_csv(small_data.folder / "train.csv")
    train_is = np.array([7, 2, 2, 20])
    outcome = run(
        train_is=train_is, fit="self.seen = np.append(X[:, 0], y)", result="np.resize(self.seen, (len(X), 8))"
    )
    expected = np.concatenate([labels["a"].to_numpy()[train_is], labels["label"].to_numpy()[train_is]])
    assert outcome.full_train_predictions[0].tolist() == expected.tolist()


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 2)], ids=str)
def test_each_shape_of_predictions_arrives(shape, run):
    outcome = run(result=f"np.arange(len(X) * {int(np.prod(shape))}).reshape(len(X), *{shape})")
    assert outcome.full_train_predictions.shape == (30, *shape)
    assert outcome.test_predictions.shape == (10, *shape)
    assert outcome.test_predictions.ravel().tolist() == list(range(10 * int(np.prod(shape))))


def test_many_predictions_arrive(run):
    """13 MB: far more than a pipe holds."""
    outcome = run(result="np.random.default_rng(1).random((len(X), 40_000))")
    assert outcome.state == "TESTED"
    assert outcome.full_train_predictions.tobytes() == np.random.default_rng(1).random((30, 40_000)).tobytes()


def test_files_beside_the_submission_are_read_and_imported(executor, make_submission, small_data):
    submission = make_submission(
        helper="VALUE = 3",
        classifier=classifier(
            top="from .helper import VALUE\nfrom pathlib import Path",
            result="np.full((len(X), 2), VALUE + float(Path(__file__).with_name('value.txt').read_text()))",
        ),
    )
    (submission / "value.txt").write_text("0.25")
    outcome = executor.run_fold(FoldJob(small_data, submission, ALL))
    assert outcome.test_predictions[0].tolist() == [3.25, 3.25]


def test_folds_at_once_do_not_mix(executor, make_submission, small_data):
    def job(number):
        submission = make_submission(
            classifier=classifier(
                top="NUMBER = " + str(number),
                fit="print('fold', NUMBER); time.sleep(0.02 * (NUMBER % 3)); self.rows = len(X)",
                predict="if TEST and NUMBER % 4 == 3: raise ValueError(NUMBER)",
                result="np.full((len(X), 2), (NUMBER, self.rows))",
            )
        )
        return FoldJob(small_data, submission, np.arange(number + 1))

    stages = {number: [] for number in range(12)}
    threads = set()

    def one(number):
        threads.add(threading.current_thread().name)
        return executor.run_fold(job(number), lambda stage, measures: stages[number].append(stage))

    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(one, range(12)))
    assert len(threads) == 2
    for number, outcome in enumerate(outcomes):
        assert outcome.output == f"fold {number}\n"
        assert outcome.full_train_predictions.tolist() == [[number, number + 1]] * 30
        if number % 4 == 3:
            assert_failed(outcome, Reason.USER_CODE, "test", f"ValueError: {number}")
            assert stages[number] == ["train", "validation"]
        else:
            assert outcome.test_predictions.tolist() == [[number, number + 1]] * 10
            assert stages[number] == ["train", "validation", "test"]


def test_old_code_is_never_imported(executor, make_submission, small_data, tmp_path):
    def make(number):
        submission = make_submission(
            classifier=classifier(top="from .helper import VALUE", result="np.full((len(X), 2), VALUE)"),
            helper=f"VALUE = {number}",
        )
        data = write_specific(
            tmp_path / f"data_{number}", test_submission=f"return model.predict_proba(X[test_indices]) + {number} / 4"
        )
        return submission, data

    pairs = {number: make(number) for number in (1, 2)}
    for number in (1, 2, 1, 2):
        submission, data = pairs[number]
        outcome = executor.run_fold(FoldJob(small_data, submission, ALL))
        assert outcome.test_predictions[0, 0] == number
        outcome = executor.run_fold(FoldJob(data, submission, ALL))
        assert outcome.test_predictions[0, 0] == number * 1.25


def test_what_a_fold_changes_in_its_process_is_gone_with_it(run):
    spoil = """
    import json, builtins, random
    np.zeros = np.full = None
    builtins.len = lambda x: 3
    os.environ["OMP_NUM_THREADS"] = "7"
    os.environ["SPOILT"] = "yes"
    os.chdir("/")
    sys.path.clear()
    1 / 0
    """
    where = os.getcwd()
    before = run(fit="print(os.environ.get('OMP_NUM_THREADS'), os.getcwd())").output
    assert run(fit=spoil).failure is not None
    assert run(fit="print(os.environ.get('OMP_NUM_THREADS'), os.getcwd())").output == before
    assert run(fit="print(os.environ.get('SPOILT'))").output == "None\n"
    assert os.getcwd() == where


def test_no_process_is_left(run):
    run()
    before = len(descendants(waiting=False))
    mark = uuid.uuid4().hex
    start = f"subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(600)', {mark!r}])"
    for code in ({}, {"fit": start}, {"fit": f"{start}; 1 / 0"}, {"fit": f"{start}; os._exit(1)"}):
        run(**code)
    wait_until(lambda: not processes_with(mark))
    wait_until(lambda: len(descendants(waiting=False)) <= before)
    wait_until(lambda: not [pid for pid in descendants() if state_of(pid) == "Z"])


def test_no_file_is_left(executor, make_submission, small_data, split_kit, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where nobody else leaves any
    submission = make_submission(
        helper="VALUE = 1", classifier=classifier(top="from .helper import VALUE", fit="1 / 0")
    )
    jobs = [
        FoldJob(small_data, submission, ALL),
        FoldJob(split_kit(DIGITS), DIGITS.submission_folder("trees"), np.arange(100)),
    ]
    folders = [*(job.data.folder for job in jobs), *(job.submission for job in jobs), submission.parent, Path.cwd()]
    before = [listing(folder) for folder in folders[:-1]] + [names(folders[-1])]
    for job in jobs:
        executor.run_fold(job)
    assert [listing(folder) for folder in folders[:-1]] + [names(folders[-1])] == before
    assert not list(submission.rglob("__pycache__"))


def test_no_file_descriptor_is_left(run):
    run()
    before = len(os.listdir("/proc/self/fd"))
    for code in ({}, {"fit": "1 / 0"}, {"fit": "os._exit(1)"}):
        run(**code)
    assert len(os.listdir("/proc/self/fd")) <= before
