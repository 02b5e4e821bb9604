"""A challenge from the data to the fetched predictions, through the documented client."""

import subprocess
import sys

import numpy as np
import pytest

from test_files import kits, post_api
from tests import reference
from tests.e2e.live import APP, Live, Organiser, until
from tests.e2e.submissions import HONEST, RAISES

pytestmark = pytest.mark.embedded

CASES = [(kit, submission) for kit in kits.KITS for submission in kit.submissions]


@pytest.mark.parametrize(("kit", "submission"), CASES, ids=lambda case: getattr(case, "name", case))
def test_predictions_are_bit_for_bit_those_of_one_process(organiser: Organiser, kit: kits.Kit, submission: str) -> None:
    number = organiser.data(kit.data_files[0], kit.data_files[1:], kit.target_column, kit.workflow_elements)
    organiser.split(number, kit.custom, kit.held_out_test, kit.random_state)
    y_train, y_test = kit.truth()
    folds = kit.folds(y_train, 2)
    files, submission_id = kit.submission_files(submission), organiser.new_id()
    ids = [organiser.fold(number, files, fold.train_is, fold.priority, submission_id=submission_id) for fold in folds]
    organiser.ended(*ids)
    records = {r["databoard_sf_id"]: r for r in post_api.get_prediction_new(*organiser.who, number).json()}
    assert set(records) == {*ids}
    for fold_id, fold in zip(ids, folds, strict=True):
        record = records[fold_id]
        assert record["state"] == "TESTED", record["log_messages"]
        expected_train, expected_test = reference.predict(kit, kit.submission_folder(submission), fold.train_is)
        got_train = post_api.decode_predictions(record["full_train_predictions"], len(y_train))
        got_test = post_api.decode_predictions(record["test_predictions"], len(y_test))
        assert np.array_equal(got_train, expected_train)
        assert np.array_equal(got_test, expected_test)
        assert record["train_time"] > 0
        assert record["train_cpu_time"] > 0
        assert record["train_memory"] > 0


def test_predictions_are_new_once(organiser: Organiser, iris: int, write) -> None:
    fold_id = organiser.fold(iris, write(HONEST), range(50))
    organiser.tested(fold_id)
    first = [r["databoard_sf_id"] for r in post_api.get_prediction_new(*organiser.who, iris).json()]
    second = [r["databoard_sf_id"] for r in post_api.get_prediction_new(*organiser.who, iris).json()]
    listed = [r["databoard_sf_id"] for r in post_api.get_prediction_list(*organiser.who, [fold_id]).json()]
    assert fold_id in first
    assert fold_id not in second
    assert listed == [fold_id]


def test_a_fold_sent_before_the_split_waits_for_it(organiser: Organiser, write) -> None:
    number = organiser.data(kits.IRIS.data_files[0], target="species", elements="classifier")
    organiser.split(number)
    fold_id = organiser.fold(number, write(HONEST), range(50))
    assert organiser.tested(fold_id)["attempts"] == 1


def test_folds_after_a_new_split_use_it(organiser: Organiser, write) -> None:
    number = organiser.data(kits.IRIS.data_files[0], target="species", elements="classifier")
    organiser.split(number, ratio=0.2)
    before = organiser.tested(organiser.fold(number, write(HONEST), range(50)))
    organiser.split(number, ratio=0.4)
    after = organiser.tested(organiser.fold(number, write(HONEST), range(50)))
    assert len(post_api.decode_predictions(before["test_predictions"], 30)) == 30
    assert len(post_api.decode_predictions(after["test_predictions"], 60)) == 60


def test_a_forced_submission_is_trained_with_its_new_files(organiser: Organiser, iris: int, write) -> None:
    submission_id = organiser.new_id()
    fold_id = organiser.fold(iris, write(RAISES), range(50), submission_id=submission_id)
    [failed] = organiser.ended(fold_id)
    assert failed["state"] == "ERROR"
    organiser.fold(
        iris,
        write(HONEST),
        range(50),
        submission_id=submission_id,
        fold_id=fold_id,
        force="submission, submission_fold",
    )
    assert organiser.tested(fold_id)["log_messages"] == ""


def test_the_state_of_a_task_can_be_asked_for_on_the_master(live: Live, organiser: Organiser, write) -> None:
    number = organiser.data(kits.IRIS.data_files[0], target="species", elements="classifier")
    task_id = organiser.split(number)
    fold_id = organiser.fold(number, write(HONEST), range(50))
    fold_task = organiser.tested(fold_id)["task_id"]
    script = f"""
from runapp import tasks
print(tasks.prepare_data.AsyncResult("{task_id}").get(timeout=60))
print(tasks.prepare_data.AsyncResult("{task_id}").state)
print(tasks.train_test_submission_fold.AsyncResult("{fold_task}").get(timeout=60)["state"])
"""
    printed = live.manage("shell", "--no-imports", "-c", script).split("\n")
    assert printed[:3] == ["{'train_rows': 120, 'test_rows': 30}", "SUCCESS", "TESTED"]


def test_celery_status_names_the_workers(live: Live) -> None:
    def named() -> bool:
        status = subprocess.run(
            [sys.executable, "-m", "celery", "-A", "datarun", "status", "--timeout", "5"],
            cwd=APP,
            env=live.environment,
            capture_output=True,
            text=True,
        )
        return "runner@" in status.stdout and "master@" in status.stdout

    until(named, 120, live.evidence)  # one that is not asked in time is missing
