"""`force` of POST /runapp/submissionfold/: what is replaced, and what becomes of it."""

import shutil
from pathlib import Path

import pytest

from runapp import services
from runapp.models import Submission, SubmissionFold
from runapp.services import folds
from tests.app.helpers import (
    CLASSIFIER,
    OTHER_CLASSIFIER,
    committed,
    data_set,
    files_below,
    finish,
    fold,
    indices,
    pack,
    progress,
    result,
)

pytestmark = pytest.mark.embedded

OTHER = {"classifier.py": pack(OTHER_CLASSIFIER)}


@pytest.fixture
def sent(api, iris, queues):
    """Fold 1, tested and fetched, and fold 2, both of submission 1; fold 3 of submission 2."""
    api.new_fold(iris, 1)
    api.new_fold(iris, 2)
    api.new_fold(iris, 3, submission=2)
    queues.purge()
    finish(result(1))
    api.post("testpredictions/new/", {})
    return iris


@pytest.mark.parametrize("force", ["submission_fold", " submission_fold ", "submission_fold,submission_fold"])
def test_it_works_for_a_fold(api, sent, queues, force):
    old = SubmissionFold.objects.get(pk=1).task_id

    answer = api.post("submissionfold/", fold(1, force=force, train_is=indices([1]), priority="H"))

    assert answer.status == 201
    assert answer.body["task_id"] != old
    stored = SubmissionFold.objects.get(pk=1)
    assert (stored.state, stored.new, stored.priority) == ("TODO", True, "H")
    assert (stored.test_predictions, stored.train_time, stored.train_is) == ("", 0, indices([1]))
    [message] = queues.take("H")
    assert message.task_id == answer.body["task_id"]
    assert queues.folds("L") == []
    assert sorted(api.get("submissionfold-light/").ids) == [1, 2, 3]


def test_the_result_of_a_replaced_fold_is_discarded(api, sent):
    late = result(2)
    late_progress = progress(2)
    api.post("submissionfold/", fold(2, force="submission_fold"))

    assert not finish(late)
    assert not services.advance(late_progress)

    stored = SubmissionFold.objects.get(pk=2)
    assert (stored.state, stored.test_predictions, stored.runner) == ("TODO", "", "")
    assert finish(result(2))


def test_the_infrastructure_failure_of_a_replaced_fold_is_discarded(api, sent, queues):
    late = result(2, "ERROR", error_reason="infrastructure", log_messages="ERROR(train): gone")
    api.post("submissionfold/", fold(2, force="submission_fold"))
    queues.purge()
    assert not finish(late)
    assert SubmissionFold.objects.get(pk=2).attempts == 1
    assert queues.folds() == []


@pytest.mark.parametrize("force", ["submission", "submission,submission_fold", "submission_fold, submission"])
def test_it_works_for_a_submission(api, sent, queues, force):
    old = Path(Submission.objects.get(pk=1).files_path)
    late = result(2)

    answer = api.new_fold(sent, 1, files=OTHER, force=force)

    assert answer.status == 201
    new = Path(Submission.objects.get(pk=1).files_path)
    assert {path.name: path.read_bytes() for path in new.iterdir()} == {"classifier.py": OTHER_CLASSIFIER}
    assert not old.exists()
    # Its earlier folds go with it, and no other.
    assert api.get("submissionfold-light/").ids == [1, 3]
    assert not finish(late)
    [message] = queues.take("L")
    assert message.content["submission"] == new.name
    assert message.task_id == answer.body["task_id"]


def test_a_submission_can_be_forced_with_the_files_it_has(api, sent):
    answer = api.new_fold(sent, 4, force="submission")
    assert answer.status == 201
    assert (Path(Submission.objects.get(pk=1).files_path) / "classifier.py").exists()
    assert api.get("submissionfold-light/").ids == [3, 4]


def test_a_submission_can_be_forced_to_another_data_set(api, sent):
    other = api.post("rawdata/", data_set("other")).body["id"]
    api.post("rawdata/split/", {"raw_data_id": other, "held_out_test": 0.5})

    answer = api.new_fold(sent, 1, raw_data=other, force="submission")

    assert answer.status == 201
    assert Submission.objects.get(pk=1).raw_data_id == other


@pytest.mark.parametrize("force", ["submission", "submission_fold", "submission, submission_fold"])
def test_it_does_nothing_where_nothing_is_replaced(api, iris, queues, force):
    assert api.new_fold(iris, 9, submission=9, force=force).status == 201
    assert queues.folds() == [9]


def test_forcing_the_submission_leaves_a_fold_of_another_alone(api, sent):
    answer = api.new_fold(sent, 3, files=OTHER, force="submission")

    assert answer.status == 400
    assert list(answer.body) == ["databoard_sf_id"]
    # Refused as a whole: submission 1 has its files and folds still.
    assert api.get("submissionfold-light/").ids == [1, 2, 3]
    assert api.post("submissionfold/", fold(4)).status == 201


def test_a_refused_force_leaves_the_files_as_they_were(api, sent, disk):
    before = disk()
    assert api.new_fold(sent, 3, files=OTHER, force="submission").status == 400
    assert disk() == before
    assert api.new_fold(sent, 1, files=OTHER, force="submission", train_is=indices([99])).status == 400
    assert disk() == before


def test_forcing_the_fold_does_not_replace_the_files(api, sent):
    answer = api.new_fold(sent, 1, files=OTHER, force="submission_fold")
    assert answer.status == 400
    assert list(answer.body) == ["files"]
    assert SubmissionFold.objects.get(pk=1).state == "TESTED"


def test_forcing_the_submission_needs_its_files(api, sent):
    answer = api.post("submissionfold/", fold(1, force="submission"))
    assert answer.status == 400
    assert list(answer.body) == ["files"]


@pytest.mark.parametrize("force", ["all", "submission;submission_fold", "SUBMISSION", 1, ["submission"], "a\0b"])
def test_it_rejects_other_words(api, sent, force):
    answer = api.new_fold(sent, 1, force=force)
    assert answer.status == 400
    assert list(answer.body) == ["force"]
    assert SubmissionFold.objects.get(pk=1).state == "TESTED"


# --- another request sends the same files, at the worst moment


@pytest.fixture
def before_removal(monkeypatch):
    """`before_removal(work)`: do it once, when a folder has been found to be of no use and is about to be removed."""
    remove, waiting = shutil.rmtree, []

    def removing(*how, **more):
        if waiting:
            waiting.pop()()
        remove(*how, **more)

    monkeypatch.setattr(shutil, "rmtree", removing)
    return waiting.append


def files_of(key):
    return files_below(Path(Submission.objects.get(pk=key).files_path))


def test_files_that_are_removed_are_nobody_elses(api, sent, before_removal):
    """Submission 1 is deleted, and sent again with its files before they are gone."""
    again = []
    before_removal(lambda: again.append(api.new_fold(sent, 5)))
    with committed():
        Submission.objects.get(pk=1).delete()
    assert [answer.status for answer in again] == [201]
    assert files_of(1) == {"classifier.py": CLASSIFIER}
    assert len([*Path(Submission.objects.get(pk=1).files_path).parent.glob("submission_1_*")]) == 1


def test_files_that_are_replaced_are_nobody_elses(api, sent, before_removal):
    """Submission 1 gets other files, and its first ones back before these are gone."""
    again = []
    before_removal(lambda: again.append(api.new_fold(sent, 5, force="submission")))
    assert api.new_fold(sent, 4, files=OTHER, force="submission").status == 201
    assert [answer.status for answer in again] == [201]
    assert files_of(1) == {"classifier.py": CLASSIFIER}
    assert len([*Path(Submission.objects.get(pk=1).files_path).parent.glob("submission_1_*")]) == 1


def test_a_data_set_that_is_removed_takes_nothing_from_the_next_of_its_name(api, raw, before_removal):
    again = []
    before_removal(lambda: again.append(api.post("rawdata/", data_set())))
    with committed():
        raw.delete()
    assert [answer.status for answer in again] == [201]
    assert [*files_below(Path(again[0].body["files_path"]))] == ["iris.csv"]
    assert not raw.root.exists()


@pytest.mark.django_db(transaction=True)
def test_what_fails_after_the_commit_takes_no_files_back(api, sent, monkeypatch):
    """The removal of replaced files, here: the fold and its submission are stored."""

    def fails(*_, **__):
        raise OSError("the disk is away")

    with monkeypatch.context() as patch:
        patch.setattr(folds, "remove_files", fails)
        with pytest.raises(OSError, match="the disk is away"):
            api.new_fold(sent, 4, files=OTHER, force="submission")
    assert files_of(1) == {"classifier.py": OTHER_CLASSIFIER}
