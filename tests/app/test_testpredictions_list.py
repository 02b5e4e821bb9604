"""POST /runapp/testpredictions/list/."""

import pytest

from runapp import services
from runapp.models import SubmissionFold
from tests.app.helpers import finish, fold, predictions, progress, result

pytestmark = pytest.mark.embedded

RECORD = {
    "databoard_sf_id",
    "databoard_s",
    "test_predictions",
    "full_train_predictions",
    "state",
    "log_messages",
    "train_time",
    "validation_time",
    "test_time",
    "train_cpu_time",
    "test_cpu_time",
    "train_memory",
    "test_memory",
}


@pytest.fixture
def folds(api, iris):
    """Fold 1 is tested, fold 2 failed, fold 3 waits."""
    for key in (1, 2, 3):
        api.new_fold(iris, key, submission=5)
    finish(result(1, log_messages="said"))
    finish(result(2, "ERROR", error_reason="user_code", log_messages="ERROR(train): Traceback"))


def ask(api, ids):
    return api.post("testpredictions/list/", {"list_submission_fold": ids})


def test_it_works(api, folds):
    answer = ask(api, [1])

    assert answer.status == 200
    [record] = answer.body
    assert record.keys() >= RECORD
    expected = {
        "databoard_sf_id": 1,
        "databoard_s": 5,
        "test_predictions": predictions(3),
        "full_train_predictions": predictions(9),
        "test_predictions_shape": [3, 3],
        "full_train_predictions_shape": [9, 3],
        "state": "TESTED",
        "log_messages": "said",
        "train_time": 1.5,
        "validation_time": 0.25,
        "test_time": 0.125,
        "train_cpu_time": 1.25,
        "test_cpu_time": 0.0625,
        "train_memory": 2048.0,
        "test_memory": 1024.0,
    }
    assert record.items() >= expected.items()


def test_it_gives_those_that_exist_in_any_state(api, folds):
    answer = ask(api, [3, 1, 99, 2, 1])
    assert answer.status == 200
    assert sorted(answer.ids) == [1, 2, 3]
    assert {record["state"] for record in answer.body} == {"TESTED", "ERROR", "TODO"}


@pytest.mark.parametrize("state", ["TODO", "TRAINED", "VALIDATED"])
def test_a_fold_in_progress_is_todo(api, folds, state):
    """Databoard of 2016 asks again only while it reads TODO."""
    services.advance(progress(3, state))
    assert [record["state"] for record in ask(api, [1, 2, 3]).body] == ["TESTED", "ERROR", "TODO"]
    # All other calls show how far it is.
    assert api.get("submissionfold/3/").body["state"] == state
    assert api.get("submissionfold-light/").body[2]["state"] == state


def test_there_is_no_shape_without_predictions(api, folds):
    for record in [*ask(api, [2, 3]).body, *api.get("submissionfold/").body[1:]]:
        assert (record["test_predictions_shape"], record["full_train_predictions_shape"]) == (None, None)


def test_they_are_no_longer_new(api, folds):
    ask(api, [1, 2])

    assert list(SubmissionFold.objects.filter(new=True).values_list("pk", flat=True)) == [3]
    assert api.post("testpredictions/new/", {}).body == []
    # Asked for again they come again.
    assert ask(api, [1]).ids == [1]


@pytest.fixture
def answer(api, folds):
    """An answer about all three folds whose last piece is not sent."""
    response = api.client.post("/runapp/testpredictions/list/", {"list_submission_fold": [1, 2, 3]}, format="json")
    next(iter(response.streaming_content))
    yield response
    response.close()


@pytest.fixture
def new(api):
    """The folds that are new, when it is called."""
    return lambda: [fold["databoard_sf_id"] for fold in api.get("submissionfold-light/").body if fold["new"]]


@pytest.mark.django_db(transaction=True)
def test_they_are_new_until_the_answer_is_complete(answer, new):
    assert new() == [1, 2, 3]
    assert list(answer.streaming_content) == []
    assert new() == []


@pytest.mark.django_db(transaction=True)
def test_they_stay_new_where_the_answer_breaks_off(answer, new):
    answer.close()
    assert new() == [1, 2, 3]


@pytest.mark.django_db(transaction=True)
def test_what_changed_while_the_answer_was_sent_is_new(api, answer, new):
    """Fold 3 ended; fold 1 was replaced, and ended as the one before it."""
    finish(result(3))
    api.post("submissionfold/", fold(1, 5, force="submission_fold"))
    finish(result(1))
    assert list(answer.streaming_content) == []
    assert new() == [1, 3]


def test_a_fold_asked_for_while_it_runs_is_new_when_it_is_tested(api, folds):
    ask(api, [3])
    finish(result(3))
    assert api.post("testpredictions/new/", {}).ids == [1, 3]


@pytest.mark.parametrize("ids", [[], [404], [-1, 0, 2**31, 2**40, 2**63 - 1]])
def test_it_gives_nothing_for_unknown_ids(api, folds, ids):
    answer = ask(api, ids)
    assert (answer.status, answer.body) == (200, [])


def test_it_takes_many_ids(api, folds):
    answer = ask(api, list(range(33_000)))
    assert answer.status == 200
    assert answer.ids == [1, 2, 3]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"list_submission_fold": None},
        {"list_submission_fold": 1},
        {"list_submission_fold": "1,2"},
        {"list_submission_fold": {"1": 1}},
    ],
    ids=repr,
)
def test_it_rejects_a_body_without_a_list(api, folds, body):
    answer = api.post("testpredictions/list/", body)
    assert answer.status == 400
    assert list(answer.body) == ["list_submission_fold"]
    assert SubmissionFold.objects.filter(new=True).count() == 3


@pytest.mark.parametrize("bad", ["x", None, 1.5, [1], {}, True, 2**64, 10**400])
def test_it_rejects_what_is_no_id(api, folds, bad):
    answer = ask(api, [1, bad])
    assert answer.status == 400
    [field] = answer.body
    assert field.startswith("list_submission_fold")
    assert SubmissionFold.objects.filter(new=True).count() == 3
