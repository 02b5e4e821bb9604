"""GET and POST /runapp/submissionfold/."""

import base64
import zlib
from pathlib import Path

import pytest

from runapp import services
from runapp.models import RawData, Submission, SubmissionFold
from tests.app.helpers import (
    CLASSIFIER,
    OTHER_CLASSIFIER,
    Api,
    data_set,
    finish,
    finish_split,
    fold,
    indices,
    new_fold,
    pack,
    predictions,
    progress,
    result,
)

pytestmark = pytest.mark.embedded

DOCUMENTED = {
    "databoard_sf_id",
    "databoard_s",
    "train_is",
    "test_is",
    "priority",
    "full_train_predictions",
    "test_predictions",
    "state",
    "log_messages",
    "train_time",
    "validation_time",
    "test_time",
    "train_cpu_time",
    "train_memory",
    "test_cpu_time",
    "test_memory",
    "new",
}


def test_it_works(api, iris, user):
    body = new_fold(iris, 11, 3)

    answer = api.post("submissionfold/", body)

    assert answer.status == 201
    stored = SubmissionFold.objects.get()
    assert answer.body.keys() >= DOCUMENTED
    expected = {
        "databoard_sf_id": 11,
        "databoard_s": 3,
        "train_is": body["train_is"],
        "test_is": body["test_is"],
        "priority": "L",
        "full_train_predictions": "",
        "test_predictions": "",
        "state": "TODO",
        "log_messages": "",
        "new": True,
        "task_id": stored.task_id,
        "sent_by": user.username,
        "attempts": 1,
    }
    assert answer.body.items() >= expected.items()
    assert (stored.databoard_s.databoard_s_id, stored.databoard_s.raw_data) == (3, iris)
    assert stored.created_by == stored.databoard_s.created_by == user


def test_its_answer_is_the_fold_as_the_lists_show_it(api, iris):
    sent = api.new_fold(iris).body
    [listed] = api.get("submissionfold/").body
    assert sent.keys() == listed.keys()
    # Queued after the answer was made.
    assert listed.pop("queued_at") is not None
    assert sent.pop("queued_at") is None
    assert sent == listed


@pytest.mark.parametrize(("more", "queue"), [({}, "L"), ({"priority": "L"}, "L"), ({"priority": "H"}, "H")])
def test_it_queues_the_fold_by_its_priority(api, iris, queues, more, queue):
    body = new_fold(iris, 11, 3, **more)

    answer = api.post("submissionfold/", body)

    assert answer.body["priority"] == queue
    [message] = queues.take(queue)
    assert message.name == "train_test_submission_fold"
    assert message.task_id == answer.body["task_id"]
    assert message.content == {
        "databoard_sf_id": 11,
        "data": {
            "folder": iris.folder,
            "target_column": "species",
            "workflow_elements": ["classifier"],
            "custom": False,
            "version": Path(iris.files_path).name,
            "sums": "",
        },
        "submission": Path(Submission.objects.get().files_path).name,
        "submission_digest": Submission.objects.get().digest,
        "train_is": body["train_is"],
        "highest_test_row": 8,
        "attempt": 1,
        "returns": 0,
    }
    for other in {"L", "H", "celery", "master_periodic"} - {queue}:
        assert queues.take(other) == []


def test_it_stores_the_files_of_the_submission(api, iris):
    api.new_fold(iris)
    folder = Path(Submission.objects.get().files_path)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"classifier.py": CLASSIFIER}


def test_it_stores_the_files_beside_those_of_the_workflow(api, iris):
    """The test workflow of 2016 sends three to a data set of `classifier`."""
    files = {"classifier.py": CLASSIFIER, "feature_extractor.py": b"x = 1", "weights.bin": b"\0\xff", "a b.txt": b""}
    assert api.new_fold(iris, files={name: pack(content) for name, content in files.items()}).status == 201
    folder = Path(Submission.objects.get().files_path)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files


def test_a_second_fold_needs_no_files(api, iris, queues):
    api.new_fold(iris)

    answer = api.post("submissionfold/", fold(2))

    assert answer.status == 201
    assert queues.folds() == [1, 2]
    assert Submission.objects.count() == 1


def test_the_same_files_again_are_fine(api, iris):
    api.new_fold(iris)
    assert api.new_fold(iris, 2).status == 201
    # Packed in another way they are still the same.
    other_packing = {"classifier.py": base64.b64encode(zlib.compress(CLASSIFIER, 0)).decode()}
    assert api.new_fold(iris, 3, files=other_packing).status == 201
    assert Submission.objects.count() == 1


def test_other_files_without_force_are_rejected(api, iris, disk):
    api.new_fold(iris)
    before = disk()

    answer = api.new_fold(iris, 2, files={"classifier.py": pack(OTHER_CLASSIFIER)})

    assert answer.status == 400
    assert list(answer.body) == ["files"]
    assert "force='submission'" in answer.body["files"][0]
    assert disk() == before
    assert SubmissionFold.objects.count() == 1


def test_a_taken_id_is_rejected(api, iris, queues):
    task_id = api.new_fold(iris).body["task_id"]
    queues.purge()

    answer = api.new_fold(iris)

    assert answer.status == 400
    assert list(answer.body) == ["databoard_sf_id"]
    assert "force='submission_fold'" in answer.body["databoard_sf_id"][0]
    assert SubmissionFold.objects.get().task_id == task_id
    assert queues.folds() == []


def test_a_taken_id_leaves_no_files_of_a_new_submission(api, iris, disk):
    api.new_fold(iris)
    before = disk()

    answer = api.new_fold(iris, 1, submission=2)

    assert answer.status == 400
    assert disk() == before
    assert not Submission.objects.filter(pk=2).exists()


@pytest.mark.parametrize("missing", ["raw_data", "files"])
def test_a_new_submission_needs_data_and_files(api, iris, missing):
    body = new_fold(iris)
    del body[missing]

    answer = api.post("submissionfold/", body)

    assert answer.status == 400
    assert list(answer.body) == [missing]
    assert not Submission.objects.exists()


def test_a_submission_stays_with_its_data_set(api, iris):
    api.new_fold(iris)
    other = api.post("rawdata/", data_set("other")).body["id"]

    answer = api.new_fold(iris, 2, raw_data=other)

    assert answer.status == 400
    assert list(answer.body) == ["raw_data"]


@pytest.mark.parametrize("name", ["train_is", "test_is"])
def test_a_row_past_the_train_set_is_rejected(api, iris, disk, name):
    before = disk()

    answer = api.new_fold(iris, **{name: indices([0, 9])})

    assert answer.status == 400
    assert list(answer.body) == [name]
    assert "0 to 8" in answer.body[name][0]
    assert not Submission.objects.exists()
    assert disk() == before


def test_the_last_row_is_fine(api, iris):
    assert api.new_fold(iris, train_is=indices([8])).status == 201


def test_it_shows_how_far_a_fold_is(api, iris):
    api.new_fold(iris)
    for state in ("TODO", "TRAINED", "VALIDATED"):
        assert services.advance(progress(state=state))
        [record] = api.get("submissionfold/").body
        assert (record["state"], record["runner"]) == (state, "runner@here")
        assert record["started_at"]
    finish(result())
    assert api.get("submissionfold/").body[0]["state"] == "TESTED"


# --- the list


@pytest.fixture
def folds(api, iris):
    """Folds 1 to 4, the last one of another submission and data set; the second is tested, the third failed."""
    for key in (1, 2, 3):
        api.new_fold(iris, key)
    api.post("rawdata/", data_set("more"))
    more = RawData.objects.get(name="more")
    api.post("rawdata/split/", {"raw_data_id": more.pk, "held_out_test": 0.25})
    finish_split(more)
    api.new_fold(more, 4, submission=2)
    finish(result(2))
    finish(result(3, "ERROR", error_reason="user_code", log_messages="ERROR(train): é"))
    return more


def test_it_lists(api, folds):
    answer = api.get("submissionfold/")

    assert answer.status == 200
    assert isinstance(answer.body, list)
    assert answer.ids == [1, 2, 3, 4]
    for record in answer.body:
        assert record.keys() >= DOCUMENTED
    tested, failed = answer.body[1:3]
    assert tested["test_predictions"] == predictions(3)
    assert tested["full_train_predictions"] == predictions(9)
    assert (tested["state"], tested["new"], tested["train_time"]) == ("TESTED", True, 1.5)
    assert (failed["state"], failed["log_messages"]) == ("ERROR", "ERROR(train): é")
    assert failed["error_reason"] == "user_code"


def test_looking_leaves_folds_new(api, folds):
    api.get("submissionfold/")
    api.get("submissionfold/2/")
    api.get("submissionfold-light/")
    assert SubmissionFold.objects.filter(new=True).count() == 4


def test_it_lists_nothing(api):
    answer = api.get("submissionfold/")
    assert (answer.status, answer.body) == (200, [])


def test_everybody_sees_all_folds(api, folds, django_user_model):
    django_user_model.objects.create_user("bob", password="another one")
    assert Api(("bob", "another one")).get("submissionfold/").ids == [1, 2, 3, 4]


@pytest.mark.parametrize("path", ["submissionfold/", "submissionfold-light/"])
@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"state": "TESTED"}, [2]),
        ({"state": "TODO"}, [1, 4]),
        ({"databoard_s": 2}, [4]),
        ({"databoard_s": 99}, []),
        ({"raw_data": "iris"}, [1, 2, 3]),
        ({"raw_data": "more", "state": "TESTED"}, []),
    ],
)
def test_it_filters(api, folds, iris, path, query, expected):
    if "raw_data" in query:
        query = query | {"raw_data": RawData.objects.get(name=query["raw_data"]).pk}
    answer = api.get(path, **query)
    assert answer.status == 200
    assert answer.ids == expected


@pytest.mark.parametrize("path", ["submissionfold/", "submissionfold-light/"])
@pytest.mark.parametrize(
    ("query", "count", "expected"),
    [
        ({"limit": 2}, 4, [1, 2]),
        ({"limit": 2, "offset": 1}, 4, [2, 3]),
        ({"offset": 3}, 4, [4]),
        ({"limit": 10, "offset": 10}, 4, []),
        ({"limit": 1, "state": "TODO"}, 2, [1]),
    ],
)
def test_it_pages(api, folds, path, query, count, expected):
    answer = api.get(path, **query)
    assert answer.status == 200
    assert answer.body.keys() == {"count", "results"}
    assert answer.body["count"] == count
    assert [record["databoard_sf_id"] for record in answer.body["results"]] == expected


@pytest.mark.parametrize("path", ["submissionfold/", "submissionfold-light/"])
@pytest.mark.parametrize(
    "query",
    [
        {"limit": 0},
        {"limit": -1},
        {"limit": "many"},
        {"limit": 10**6},
        {"offset": -1},
        {"offset": 2**80},
        {"state": "DONE"},
        {"state": "tested"},
        {"raw_data": "iris"},
        {"raw_data": 2**64},
        {"databoard_s": -1},
        {"databoard_s": "\0"},
    ],
    ids=str,
)
def test_it_rejects_other_queries(api, path, query):
    answer = api.get(path, **query)
    assert answer.status == 400
    assert answer.body.keys() == query.keys()
