"""A field or query parameter that a call does not know is a 400 that names it, and nothing is done."""

import pytest
from django.urls import URLPattern, get_resolver

from runapp.models import RawData, SubmissionFold
from tests.app.helpers import custom_data_set, data_set, finish, fold, new_fold, result

pytestmark = pytest.mark.embedded


def calls(method: str) -> list[str]:
    """The addresses below /runapp/ that take this method."""
    [api] = [found for found in get_resolver().url_patterns if str(found.pattern) == "runapp/"]
    assert not isinstance(api, URLPattern)
    return [
        str(found.pattern).replace("<int:pk>", "1")
        for found in api.url_patterns
        if hasattr(found.callback.view_class, method)  # type: ignore[union-attr]  # each has one
    ]


@pytest.fixture
def tested(api, iris, queues):
    """Fold 1, tested and not fetched."""
    api.new_fold(iris)
    finish(result())
    queues.purge()


def bodies(raw_data: RawData) -> dict[str, dict]:
    """A good body for each POST that takes an object."""
    return {
        "rawdata/": data_set("other"),
        "rawdata/split/": {"raw_data_id": raw_data.pk, "held_out_test": 0.5},
        "rawdata/customsplit/": {"raw_data_id": raw_data.pk},
        "submissionfold/": new_fold(raw_data, 2),
        "testpredictions/list/": {"list_submission_fold": [1]},
        "testpredictions/new/": {},
    }


POSTS = list(bodies(RawData(pk=1)))


def test_it_names_the_field_and_the_one_that_was_meant(api, tested):
    answer = api.post("testpredictions/new/", {"raw_data": 1})

    assert answer.status == 400
    assert list(answer.body) == ["raw_data"]
    assert "'raw_data'" in answer.body["raw_data"][0]
    assert "Did you mean 'raw_data_id'?" in answer.body["raw_data"][0]
    assert SubmissionFold.objects.get().new


def test_it_lists_what_it_knows(api, raw):
    answer = api.post("rawdata/split/", {"raw_data_id": raw.pk, "held_out_test": 0.5, "xyz": None})
    assert list(answer.body) == ["xyz"]
    assert "It knows raw_data_id, held_out_test, random_state." in answer.body["xyz"][0]
    assert "mean" not in answer.body["xyz"][0]


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("name", ["comment", "", "Files", "limit"])
def test_no_post_takes_an_unknown_field(api, iris, tested, disk, queues, path, name):
    before = disk()

    answer = api.post(path, bodies(iris)[path] | {name: 1})

    assert answer.status == 400
    assert list(answer.body) == [name or "detail"]
    assert disk() == before
    assert SubmissionFold.objects.get().new
    assert all(queues.take(queue) == [] for queue in ("L", "celery"))


def test_all_posts_are_tried_here(db):
    assert {*calls("post")} == {*POSTS, "submissionfold/bulk/"}


def test_an_item_of_a_list_is_named(api, iris):
    answer = api.post("submissionfold/bulk/", [new_fold(iris, 1), fold(2, file={}), fold(3, prority="H")])
    assert answer.status == 400
    assert list(answer.body) == ["[1].file", "[2].prority"]
    assert "'files'" in answer.body["[1].file"][0]
    assert not SubmissionFold.objects.exists()


@pytest.mark.parametrize("name", ["id", "split_state", "split_log", "n_train", "custom", "created_at", "files_path"])
def test_a_field_that_the_server_sets_is_refused(api, name):
    answer = api.post("rawdata/", custom_data_set() | {name: 1})
    assert answer.status == 400
    assert answer.body == {name: [f"The server sets {name!r}: leave it out."]}
    assert not RawData.objects.exists()


def test_it_is_named_with_what_else_is_wrong(api):
    answer = api.post("rawdata/split/", {"raw_data": 1, "held_out_test": 7})
    assert answer.body.keys() == {"raw_data", "raw_data_id", "held_out_test"}


def test_many_unknown_fields_make_a_short_answer(api):
    answer = api.post("testpredictions/new/", {f"{number}{'x' * 10_000}": 1 for number in range(100)})
    assert answer.status == 400
    assert len(answer.content) < 10_000


@pytest.mark.parametrize("path", calls("get"))
@pytest.mark.parametrize("name", ["raw_data_id", "", "State", "username"])
def test_no_get_takes_an_unknown_parameter(api, tested, path, name):
    assert api.get(path).status == 200
    answer = api.get(path, **{name: "1"})
    assert answer.status == 400
    assert list(answer.body) == [name or "detail"]


def test_a_misspelt_parameter_is_guessed(api):
    [text] = api.get("submissionfold-light/", databord_s=1).body["databord_s"]
    assert "Did you mean 'databoard_s'?" in text


def test_a_parameter_that_is_given_twice_is_refused(api, tested):
    answer = api.answer(lambda: api.client.get("/runapp/submissionfold/?databoard_s=1&databoard_s=2"))
    assert answer.status == 400
    assert list(answer.body) == ["databoard_s"]


@pytest.mark.parametrize("path", [*POSTS, "submissionfold/bulk/"])
def test_no_post_takes_a_field_in_its_address(api, iris, tested, path):
    body = bodies(iris).get(path, [new_fold(iris, 2)])
    answer = api.post(f"{path}?raw_data_id={iris.pk}", body)
    assert answer.status == 400
    assert answer.body.keys() == {"raw_data_id", "detail"}
    assert "in the body" in answer.body["detail"][0]
    assert SubmissionFold.objects.get().new


@pytest.mark.parametrize("path", calls("get"))
def test_no_get_takes_a_body(api, tested, path):
    answer = api.answer(
        lambda: api.client.generic("GET", f"/runapp/{path}", b'{"limit": 1}', content_type="application/json")
    )
    assert answer.status == 400
    assert "in the address" in answer.body["detail"][0]


@pytest.mark.parametrize("path", ["rawdata/", "submissionfold/"])
def test_the_frameworks_own_parameter_is_known(api, tested, path):
    assert api.get(path, format="json").status == 200
    assert b"<html" in api.get("rawdata/", format="api").content


def test_credentials_are_asked_for_first(db, api):
    api.client.credentials()
    assert api.get("rawdata/", nonsense=1).status == 401
