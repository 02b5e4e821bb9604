"""The requests of the client of 2016, as they are: no priority, nulls for what is not given, doubled slashes."""

from runapp.models import RawData, SubmissionFold
from tests.app.helpers import CLASSIFIER, IRIS, finish, finish_split, indices, pack, result


def test_it_works(api, queues):
    """A whole challenge."""
    body = {"name": "iris", "target_column": "species", "workflow_elements": "classifier"}
    sent = api.post("//runapp/rawdata/", body | {"files": {"iris.csv": pack(IRIS)}})
    assert sent.status == 201
    data_id = sent.body["id"]
    split = api.post("//runapp/rawdata/split/", {"random_state": 42, "held_out_test": 0.7, "raw_data_id": data_id})
    assert split.status == 200
    finish_split(RawData.objects.get())
    fold = {
        "databoard_sf_id": 10,
        "databoard_s_id": 24,
        "raw_data": data_id,
        "train_is": indices([0, 1]),
        "test_is": indices([2]),
        "files": {"classifier.py": pack(CLASSIFIER)},
        "force": None,
    }
    answer = api.post("//runapp/submissionfold/", fold)
    assert answer.status == 201
    assert answer.body["priority"] == "L"
    again = fold | {"databoard_sf_id": 11, "raw_data": None, "files": None}
    assert api.post("//runapp/submissionfold/", again).status == 201
    assert queues.folds() == [10, 11]
    finish(result(10))
    assert api.post("//runapp/testpredictions/new/", {"raw_data_id": data_id}).ids == [10]
    assert api.post("//runapp/testpredictions/list/", {"list_submission_fold": [10, 11]}).ids == [10, 11]
    assert api.get("//runapp/submissionfold/10/").body["state"] == "TESTED"


def test_a_fold_without_priority_goes_to_the_low_queue(api, iris, queues):
    api.new_fold(iris)
    assert queues.folds("L") == [1]


def test_a_null_priority_is_none(api, iris, queues):
    assert api.new_fold(iris, priority=None).status == 201
    assert SubmissionFold.objects.get().priority == "L"
    assert queues.folds("L") == [1]


def test_an_empty_force_is_none(api, iris):
    assert api.new_fold(iris, force="").status == 201
    assert api.new_fold(iris, force="").status == 400


def test_predictions_of_all_data_sets_are_asked_for_with_null(api, iris):
    api.new_fold(iris)
    finish(result())
    assert api.post("testpredictions/new/", {"raw_data_id": None}).ids == [1]


def test_the_manuals_spelling_of_force_works(api, iris):
    api.new_fold(iris)
    assert api.new_fold(iris, force="submission, submission_fold").status == 201
