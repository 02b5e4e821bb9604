"""POST /runapp/rawdata/split/, and what becomes of the folds that wait for a split."""

import hashlib
import os

import pytest

from runapp import services
from runapp.models import Call, RawData, SubmissionFold
from runner import digests
from runner.jobs import version_name
from tests.app.helpers import (
    CLASSIFIER,
    IRIS,
    data_set,
    finish,
    finish_split,
    fold,
    indices,
    new_fold,
    result,
    split_result,
)

pytestmark = pytest.mark.embedded


def ask(api, raw_data, **more):
    return api.post("rawdata/split/", {"raw_data_id": raw_data.pk, "held_out_test": 0.25} | more)


def test_it_works(api, raw, queues):
    answer = ask(api, raw, random_state=57)

    assert answer.status == 200
    assert answer.body.keys() == {"task_id"}
    [message] = queues.take("celery")
    assert message.name == "prepare_data"
    assert message.task_id == answer.body["task_id"]
    assert message.content == {
        "raw_data_id": raw.pk,
        "folder": raw.folder,
        "name": "iris",
        "target_column": "species",
        "custom": False,
        "digest": raw.digest,
        "held_out_test": 0.25,
        "random_state": 57,
        "workflow_elements": ["classifier"],
    }
    raw.refresh_from_db()
    assert raw.split_state == "QUEUED"
    assert raw.split_queued_at


def test_its_random_state_is_42_by_default(api, raw, queues):
    ask(api, raw)
    [message] = queues.take("celery")
    assert message.content["random_state"] == 42


def test_it_makes_the_new_version_the_one_that_folds_use(api, raw):
    task_id = ask(api, raw).body["task_id"]

    assert finish_split(raw, (9, 3))

    raw.refresh_from_db()
    assert (raw.split_state, raw.n_train, raw.n_test) == ("DONE", 9, 3)
    assert os.readlink(raw.root / "current") == version_name(task_id)
    [record] = api.get("rawdata/").body
    assert record["files_path"] == str(raw.root / version_name(task_id))
    assert (record["split_state"], record["n_train"], record["n_test"]) == ("DONE", 9, 3)


def test_it_rejects_a_custom_data_set(api, custom, queues):
    answer = ask(api, custom)

    assert answer.status == 400
    assert list(answer.body) == ["raw_data_id"]
    assert "customsplit" in answer.body["raw_data_id"][0]
    assert queues.take("celery") == []


def test_a_fold_without_any_split_is_rejected(api, raw):
    answer = api.new_fold(raw)

    assert answer.status == 400
    assert list(answer.body) == ["raw_data"]
    assert "/runapp/rawdata/split/" in answer.body["raw_data"][0]
    assert not SubmissionFold.objects.exists()


def test_a_fold_sent_before_the_split_has_finished_waits_for_it(api, raw, queues):
    ask(api, raw)
    queues.purge()

    answer = api.new_fold(raw, 7, priority="H")

    assert answer.status == 201
    assert answer.body["state"] == "TODO"
    assert queues.take("H") == []
    assert finish_split(raw)
    [message] = queues.take("H")
    assert message.task_id == answer.body["task_id"]
    assert message.content["databoard_sf_id"] == 7
    assert SubmissionFold.objects.get().queued_at


def test_many_folds_that_wait_are_queued_each_once(api, raw, queues):
    ask(api, raw)
    api.post("submissionfold/bulk/", [new_fold(raw, key) for key in range(250)])

    finish_split(raw)

    assert sorted(queues.folds()) == list(range(250))


def test_a_fold_that_waits_fails_with_the_split(api, raw, queues):
    ask(api, raw)
    api.new_fold(raw)

    assert finish_split(raw, None)

    stored = SubmissionFold.objects.get()
    assert (stored.state, stored.error_reason) == ("ERROR", "user_code")
    assert stored.log_messages == "ERROR(split data): no such column"
    assert stored.finished_at
    assert queues.take("L") == []
    [record] = api.get("rawdata/").body
    assert (record["split_state"], record["split_log"]) == ("ERROR", "ERROR(split data): no such column")


def failed(api, raw):
    """The data set's split has failed, and its message is out of the queue."""
    ask(api, raw)
    finish_split(raw, None)


def check_ended(answer, count=1):
    """Accepted, and ended as a fold does that waited for the split when it failed."""
    assert answer.status == 201, answer.content
    shown = answer.body if isinstance(answer.body, list) else [answer.body]
    rows = SubmissionFold.objects.filter(pk__in=[record["databoard_sf_id"] for record in shown])
    assert len(rows) == len(shown) == count
    for record in [*shown, *rows.values()]:
        assert (record["state"], record["error_reason"]) == ("ERROR", "user_code")
        assert record["log_messages"] == "ERROR(split data): no such column"
        assert record["finished_at"]
        assert record["new"]


def test_a_fold_after_a_failed_split_ends_with_its_log(api, raw, queues):
    """As in 2016: clients read the log of a fold, not a 400."""
    failed(api, raw)
    queues.purge()

    check_ended(api.new_fold(raw))

    assert queues.take("L") == []
    [record] = api.post("testpredictions/list/", {"list_submission_fold": [1]}).body
    assert (record["state"], record["log_messages"]) == ("ERROR", "ERROR(split data): no such column")
    assert services.mend() == 0


def test_many_folds_after_a_failed_split_end_with_its_log(api, raw, iris, queues):
    other = RawData.objects.get(pk=api.post("rawdata/", data_set("other")).body["id"])
    failed(api, other)
    queues.purge()
    bodies = [new_fold(other, 1, submission=9), new_fold(iris, 2), fold(3, 9)]

    answer = api.post("submissionfold/bulk/", bodies)

    assert answer.status == 201
    assert [record["state"] for record in answer.body] == ["ERROR", "TODO", "ERROR"]
    assert queues.folds() == [2]


@pytest.mark.parametrize("force", ["submission_fold", "submission", "submission,submission_fold"])
def test_a_fold_that_is_replaced_after_a_failed_split_ends_with_its_log(api, iris, queues, force):
    api.new_fold(iris)
    finish(result())
    failed(api, iris)
    queues.purge()
    check_ended(api.new_fold(iris, force=force))
    assert queues.take("L") == []


def test_its_end_is_told_to_the_webhook(api, raw):
    failed(api, raw)
    webhook = {"webhook": "http://example.org/", "webhook_secret": "0123456789abcdef"}
    check_ended(api.new_fold(raw, **webhook))
    assert Call.objects.get().databoard_sf_id == 1


def test_it_does_not_count_as_waiting(api, raw, settings):
    settings.MAX_WAITING = 1
    failed(api, raw)
    answer = api.post("submissionfold/bulk/", [new_fold(raw, key) for key in range(3)])
    check_ended(answer, 3)


def test_a_log_of_any_bytes_is_stored(api, raw):
    ask(api, raw)
    assert finish_split(raw, None, log="ERROR(split data): \0 \ud800")
    raw.refresh_from_db()
    assert raw.split_log == "ERROR(split data): \\0 ?"


def test_a_failed_split_can_be_asked_for_again(api, raw, queues):
    ask(api, raw)
    finish_split(raw, None)
    queues.purge()

    answer = ask(api, raw)
    finish_split(raw)

    assert answer.status == 200
    assert api.get("rawdata/").body[0]["split_log"] == ""
    assert api.new_fold(raw).status == 201
    assert queues.folds() == [1]


def test_an_index_past_the_train_set_of_a_split_to_come_is_not_known_yet(api, raw):
    ask(api, raw)
    assert api.new_fold(raw, train_is=indices([20])).status == 201


def test_a_new_fold_waits_for_the_split_that_is_asked_for_again(api, iris, queues):
    ask(api, iris, random_state=1)
    api.new_fold(iris)

    assert queues.folds() == []
    finish_split(iris, (8, 4))

    assert queues.folds() == [1]
    iris.refresh_from_db()
    assert (iris.n_train, iris.n_test) == (8, 4)


def test_splitting_again_leaves_what_ran_before_alone(api, iris):
    api.new_fold(iris)
    finish(result())
    first = iris.files_path

    ask(api, iris)
    task_id = api.get("rawdata/").body[0]["split_state"] and RawData.objects.get().split_task_id
    finish_split(iris)

    assert SubmissionFold.objects.get().state == "TESTED"
    assert os.readlink(iris.root / "current") == version_name(task_id)
    # A fold that runs may still read the version before.
    assert os.path.exists(first)


def test_a_fold_is_sent_with_what_the_master_knows_of_its_files(api, raw, queues):
    ask(api, raw)
    assert finish_split(raw, sums="a" * 64)
    raw.refresh_from_db()
    queues.purge()
    api.new_fold(raw)
    [message] = queues.take("L")
    data, version = message.content["data"], raw.files_path.rpartition("/")[2]
    assert (data["version"], data["sums"]) == (version, "a" * 64)
    content = {"classifier.py": hashlib.sha256(CLASSIFIER).hexdigest()}
    assert message.content["submission_digest"] == digests.of(content)
    assert raw.digest == digests.of({"iris.csv": hashlib.sha256(IRIS).hexdigest()})


def test_old_versions_do_not_pile_up(api, iris):
    for _ in range(4):
        ask(api, iris)
        finish_split(iris)
    iris.refresh_from_db()
    versions = {path.name for path in iris.root.iterdir()}
    assert versions >= {"raw", "current", version_name(iris.split_task_id)}
    sums = {name for name in versions if name.endswith(".sha256")}
    assert len(versions - sums) <= 4
    assert {name.removesuffix(".sha256") for name in sums} <= versions - sums


def test_the_late_result_of_a_superseded_split_is_discarded(api, raw, queues):
    ask(api, raw)
    late = split_result(raw, (5, 5))
    task_id = ask(api, raw).body["task_id"]
    (raw.root / version_name(late["task_id"])).mkdir()
    api.new_fold(raw)
    queues.purge()

    assert not services.finish_split(late)

    raw.refresh_from_db()
    assert (raw.split_state, raw.split_task_id, raw.n_train) == ("QUEUED", task_id, None)
    assert not (raw.root / version_name(late["task_id"])).exists()
    assert not (raw.root / "current").exists()
    assert queues.folds() == []


def test_a_late_result_takes_no_version_away_that_is_in_use(api, iris):
    late = split_result(iris)
    ask(api, iris)
    assert not services.finish_split(late)
    assert os.path.exists(iris.files_path)


def test_nothing_is_removed_behind_a_data_set_that_is_a_link(api, iris, tmp_path):
    """A runner may write to the share, and so make one of its folder."""
    ask(api, iris)
    late = split_result(iris)
    ask(api, iris)
    elsewhere = tmp_path / "elsewhere"
    iris.root.rename(tmp_path / "away")
    (elsewhere / version_name(late["task_id"])).mkdir(parents=True)
    (elsewhere / "precious").mkdir()
    iris.root.symlink_to(elsewhere)
    before = {path.name for path in elsewhere.iterdir()}
    assert not services.finish_split(late)
    with pytest.raises(OSError):
        services.finish_split(split_result(iris))
    assert {path.name for path in elsewhere.iterdir()} == before


def test_the_late_failure_of_a_superseded_split_is_discarded(api, raw):
    ask(api, raw)
    late = split_result(raw, None)
    ask(api, raw)
    api.new_fold(raw)

    assert not services.finish_split(late)

    raw.refresh_from_db()
    assert raw.split_state == "QUEUED"
    assert SubmissionFold.objects.get().state == "TODO"


def test_a_result_that_is_delivered_twice_is_taken_once(api, raw, queues):
    ask(api, raw)
    api.new_fold(raw)
    message = split_result(raw)

    assert finish_split(raw)
    assert not services.finish_split(message)

    assert queues.folds() == [1]
    assert (raw.root / version_name(message["task_id"])).is_dir()


def test_the_result_for_a_deleted_data_set_is_discarded(api, raw):
    ask(api, raw)
    message = split_result(raw)
    raw.delete()
    assert not services.finish_split(message)


@pytest.mark.parametrize("ratio", [0, 1, -0.5, 1.5, "nan", "inf", "half", None, [0.5], 10**400])
def test_it_rejects_a_ratio_outside_0_and_1(api, raw, queues, ratio):
    answer = ask(api, raw, held_out_test=ratio)

    assert answer.status == 400
    assert list(answer.body) == ["held_out_test"]
    assert queues.take("celery") == []
    raw.refresh_from_db()
    assert raw.split_state == ""


@pytest.mark.parametrize("state", [-1, 2**32, "x", 1.5, None])
def test_it_rejects_a_random_state_that_scikit_learn_would_not_take(api, raw, state):
    answer = ask(api, raw, random_state=state)
    assert answer.status == 400
    assert list(answer.body) == ["random_state"]


def test_a_fold_of_another_data_set_does_not_wait(api, iris, custom, queues):
    api.post("rawdata/customsplit/", {"raw_data_id": custom.pk})
    api.new_fold(iris)
    assert queues.folds() == [1]
    assert api.post("submissionfold/", fold(2)).status == 201


def test_the_runner_of_the_split_is_shown(api, raw):
    api.post("rawdata/split/", {"raw_data_id": raw.pk, "held_out_test": 0.25})
    assert api.get("rawdata/").body[0]["split_runner"] == ""
    assert finish_split(raw)
    assert api.get("rawdata/").body[0]["split_runner"] == "runner@here"
    api.post("rawdata/split/", {"raw_data_id": raw.pk, "held_out_test": 0.25})
    assert api.get("rawdata/").body[0]["split_runner"] == ""


def test_a_runner_that_does_not_name_itself_is_understood(api, raw):
    api.post("rawdata/split/", {"raw_data_id": raw.pk, "held_out_test": 0.25})
    message = split_result(raw)
    del message["runner"]
    (raw.root / version_name(message["task_id"])).mkdir()
    assert services.finish_split(message)
    assert api.get("rawdata/").body[0]["split_runner"] == ""
