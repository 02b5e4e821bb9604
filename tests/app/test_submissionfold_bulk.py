"""POST /runapp/submissionfold/bulk/: many folds, all or nothing."""

import pytest

from runapp.models import Submission, SubmissionFold
from tests.app.helpers import OTHER_CLASSIFIER, fold, indices, new_fold, pack

pytestmark = pytest.mark.embedded


def test_it_works(api, iris, queues):
    bodies = [new_fold(iris, 1), fold(2), new_fold(iris, 3, priority="H"), new_fold(iris, 4, submission=2)]

    answer = api.post("submissionfold/bulk/", bodies)

    assert answer.status == 201
    assert answer.ids == [1, 2, 3, 4]
    assert [record["databoard_s"] for record in answer.body] == [1, 1, 1, 2]
    tasks = {record["task_id"] for record in answer.body}
    assert len(tasks) == 4
    messages = queues.take("L") + queues.take("H")
    assert {message.task_id for message in messages} == tasks
    assert messages[-1].content["databoard_sf_id"] == 3
    assert Submission.objects.count() == 2


def test_each_message_carries_its_own_rows(api, iris, queues):
    bodies = [new_fold(iris, key, train_is=indices([key])) for key in (1, 2, 3)]
    api.post("submissionfold/bulk/", bodies)
    assert [message.content["train_is"] for message in queues.take("L")] == [body["train_is"] for body in bodies]


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        ({"databoard_sf_id": 1}, "databoard_sf_id"),
        ({"databoard_sf_id": 7}, "databoard_sf_id"),
        ({"priority": "X"}, "priority"),
        ({"train_is": "nonsense"}, "train_is"),
        ({"test_is": indices([9])}, "test_is"),
        ({"raw_data": 12345}, "raw_data"),
        ({"files": {"classifier.py": pack(OTHER_CLASSIFIER)}}, "files"),
        ({"files": {"../classifier.py": pack(b"")}}, "files.../classifier.py"),
    ],
    ids=str,
)
def test_it_rejects_all_where_one_is_wrong(api, iris, queues, disk, bad, field):
    api.new_fold(iris, 7, submission=7)
    queues.purge()
    before = disk()

    answer = api.post("submissionfold/bulk/", [new_fold(iris, 1), new_fold(iris, 2), new_fold(iris, 3) | bad])

    assert answer.status == 400
    assert list(answer.body) == [f"[2].{field}"]
    assert list(SubmissionFold.objects.values_list("pk", flat=True)) == [7]
    assert list(Submission.objects.values_list("pk", flat=True)) == [7]
    assert queues.folds() == []
    assert disk() == before
    # The ids are free.
    assert api.post("submissionfold/bulk/", [new_fold(iris, key) for key in (1, 2, 3)]).status == 201


@pytest.mark.parametrize("body", [[], {}, {"databoard_sf_id": 1}, None, "folds", 7, [[]], [None], [1]], ids=repr)
def test_it_rejects_what_is_no_list_of_folds(api, body):
    answer = api.post("submissionfold/bulk/", body)
    assert answer.status == 400
    for texts in answer.body.values():
        assert texts
        assert all(isinstance(text, str) for text in texts)


def test_it_rejects_more_than_it_can_hold(api):
    assert api.post("submissionfold/bulk/", [{}] * 10_001).status == 400


def test_force_replaces_the_submission_once(api, iris, queues):
    api.post("submissionfold/bulk/", [new_fold(iris, key) for key in (1, 2, 3)])
    queues.purge()
    other = {"classifier.py": pack(OTHER_CLASSIFIER)}

    answer = api.post("submissionfold/bulk/", [new_fold(iris, key, files=other, force="submission") for key in (1, 2)])

    assert answer.status == 201
    assert queues.folds() == [1, 2]
    assert list(SubmissionFold.objects.values_list("pk", flat=True)) == [1, 2]


def test_one_forced_submission_cant_have_two_contents(api, iris):
    other = {"classifier.py": pack(OTHER_CLASSIFIER)}
    bodies = [new_fold(iris, 1, force="submission"), new_fold(iris, 2, force="submission", files=other)]
    answer = api.post("submissionfold/bulk/", bodies)
    assert answer.status == 400
    assert list(answer.body) == ["[1].files"]
