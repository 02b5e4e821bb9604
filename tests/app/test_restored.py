"""services.restored: what a backup held goes on, and what its files lack is mended or told."""

import shutil

import pytest
from django.core.management import CommandError, call_command

from runapp import services
from runapp.models import Call, RawData, Submission, SubmissionFold
from runner import config, copies, payloads
from tests.app.helpers import committed, failure, finish, finish_split, progress, result, stored

pytestmark = pytest.mark.embedded


def restore() -> list[str]:
    with committed():
        return services.restored()


@pytest.fixture
def whole(iris):
    """A data set whose version has its sums, as a runner writes them."""
    copies.write_sums(iris.root / iris.files_path.rpartition("/")[2])
    return iris


@pytest.fixture
def large(monkeypatch):
    """What every fold sends and gets goes into files."""
    monkeypatch.setattr(payloads, "INLINE_BYTES", 10)


def test_it_works(api, whole, queues):
    """What waited and what ran is queued under its own task, what has ended stays as it is."""
    for key in (1, 2, 3):
        api.new_fold(whole, key)
    services.advance(progress(2))
    finish(result(3))
    ended = SubmissionFold.objects.values().get(pk=3)
    tasks = dict(SubmissionFold.objects.values_list("pk", "task_id"))
    queues.purge()

    for _ in range(2):
        assert restore() == ["2 folds are queued; 0 will be, after the split of their data set"]
        messages = {message.content["databoard_sf_id"]: message.task_id for message in queues.take("L")}
        assert messages == {1: tasks[1], 2: tasks[2]}

    assert SubmissionFold.objects.values().get(pk=3) == ended
    assert not queues.take("celery")
    assert set(SubmissionFold.objects.filter(pk__in=(1, 2)).values_list("state", "started_at", "attempts")) == {
        ("TODO", None, 1)
    }


def test_a_result_that_a_runner_still_has_counts(api, whole):
    api.new_fold(whole)
    services.advance(progress())
    message = result()
    restore()
    assert finish(message)
    assert stored().state == "TESTED"


def test_a_split_that_was_under_way_is_made_anew(api, raw, queues, settings):
    assert api.post("rawdata/split/", {"raw_data_id": raw.pk, "held_out_test": 0.3}).status == 200
    api.new_fold(raw)
    old = queues.take("celery")[0]

    lines = restore()

    assert lines == [
        f"data set {raw.pk} (iris) is split again: its split was under way",
        "0 folds are queued; 1 will be, after the split of their data set",
    ]
    [message] = queues.take("celery")
    assert message.content == old.content
    assert message.task_id != old.task_id
    assert finish_split(raw)
    assert queues.folds() == [1]


@pytest.mark.parametrize("lost", ["the version", "a file of it"])
def test_a_version_that_is_not_whole_is_split_again_as_it_was(api, whole, queues, lost):
    """It was split again after the dump, which removed the version that the dump names."""
    RawData.objects.update(split_request={"held_out_test": 0.3, "random_state": 7})
    api.new_fold(whole)
    queues.purge()
    version = whole.root / whole.files_path.rpartition("/")[2]
    shutil.rmtree(version) if lost == "the version" else (version / "train.csv").unlink()

    lines = restore()

    assert f"data set {whole.pk} (iris) is split again: its split is not whole" in lines
    [message] = queues.take("celery")
    assert (message.content["held_out_test"], message.content["random_state"]) == (0.3, 7)
    assert not queues.folds()
    assert finish_split(whole)
    assert queues.folds() == [1]


def test_folds_use_the_version_that_the_rows_name(whole):
    current = whole.root / "current"
    before = current.readlink()
    current.unlink()
    current.symlink_to("newer")
    restore()
    assert current.readlink() == before


def test_a_data_set_without_its_files_is_told_and_its_open_folds_end(api, whole, queues):
    for key in (1, 2):
        api.new_fold(whole, key)
    finish(result(1))
    queues.purge()
    shutil.rmtree(whole.root)

    lines = restore()

    assert f"data set {whole.pk} (iris) is lost with its open folds" in lines[0]
    one, two = SubmissionFold.objects.order_by("pk")
    assert (one.state, two.state, two.error_reason) == ("TESTED", "ERROR", "infrastructure")
    assert "its files are not in the backup: delete it in /admin/, and send it again" in two.log_messages
    answer = api.new_fold(whole, 3)
    assert answer.body["state"] == "ERROR"
    assert "not in the backup" in answer.body["log_messages"]
    assert not queues.folds()


def test_a_submission_without_its_files_is_told_and_its_open_folds_end(api, whole, queues):
    for key, submission in ((1, 1), (2, 2), (3, 2)):
        api.new_fold(whole, key, submission=submission)
    finish(result(3))
    queues.purge()
    Submission.objects.update(webhook="https://example.org/")
    shutil.rmtree(Submission.objects.get(pk=2).files_path)

    lines = restore()

    why = "submission 2: its files are not in the backup: send it again with force='submission'"
    assert f"{why}; 1 open folds end" in lines
    assert queues.folds() == [1]
    assert dict(SubmissionFold.objects.values_list("pk", "state")) == {1: "TODO", 2: "ERROR", 3: "TESTED"}
    two = SubmissionFold.objects.get(pk=2)
    assert (two.error_reason, two.log_messages) == ("infrastructure", f"ERROR(train): {why}")
    assert [call.databoard_sf_id for call in Call.objects.all()] == [2], "who waits for it is told"


def test_a_fold_without_its_training_rows_ends(large, api, whole, queues):
    api.new_fold(whole)
    queues.purge()
    shutil.rmtree(config.dir_large())

    lines = restore()

    assert "fold 1: train_is, test_is of it are not in the backup: it ends" in lines
    assert (stored().state, stored().error_reason) == ("ERROR", "infrastructure")
    assert "force='submission_fold'" in stored().log_messages
    assert not queues.folds()


def test_a_fold_without_its_predictions_is_run_again(large, api, whole, queues):
    """It was replaced after the dump."""
    api.new_fold(whole)
    finish(failure())
    kept = payloads.keep([b"A" * 20], "kept")
    finish(result(full_train_predictions=kept, test_predictions=kept))
    old = stored().task_id
    (config.dir_large() / "kept").unlink()
    queues.purge()

    lines = restore()

    assert lines[0].endswith("test_predictions of it are not in the backup: it is run again")
    [message] = queues.take("L")
    assert message.task_id == stored().task_id != old
    assert (stored().state, stored().attempts, stored().new) == ("TODO", 1, True)
    assert finish(failure())


def test_a_fold_whose_predictions_cant_be_made_again_is_told(large, api, whole, queues):
    api.new_fold(whole)
    kept = payloads.keep([b"A" * 20], "kept")
    finish(result(full_train_predictions=kept, test_predictions=kept))
    shutil.rmtree(config.dir_large())
    queues.purge()

    lines = restore()

    assert "nor can they be made again" in lines[0]
    assert stored().state == "TESTED"
    assert not queues.folds()


def test_the_command_prints_the_lines(api, whole, queues, capsys):
    api.new_fold(whole)
    call_command("restored")
    assert capsys.readouterr().out == "1 folds are queued; 0 will be, after the split of their data set\n"


def test_without_room_for_a_split_nothing_changes_and_the_command_says_so(api, raw, settings):
    assert api.post("rawdata/split/", {"raw_data_id": raw.pk, "held_out_test": 0.3}).status == 200
    before = list(RawData.objects.values())
    settings.MIN_FREE_BYTES = 1 << 60
    with pytest.raises(CommandError, match="nearly full"):
        call_command("restored")
    assert list(RawData.objects.values()) == before
