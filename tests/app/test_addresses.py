"""The addresses that clients of both manuals send."""

import pytest

from tests.app.helpers import Api, basic, data_set


@pytest.mark.parametrize(
    "path", ["/runapp/rawdata/", "//runapp/rawdata/", "/runapp//rawdata//", "/runapp/rawdata", "/runapp/raw_data/"]
)
def test_it_works(api, raw, path):
    answer = api.get(path)
    assert answer.status == 200
    assert [record["name"] for record in answer.body] == ["iris"]


@pytest.mark.parametrize("path", ["//runapp/rawdata/", "/runapp/rawdata", "/runapp/raw_data/", "//runapp/raw_data"])
def test_a_post_arrives_with_its_body(api, path):
    assert api.post(path, data_set()).status == 201


@pytest.mark.parametrize("path", ["/runapp/raw_data/split/", "//runapp/rawdata/split", "/runapp/raw_data/split"])
def test_a_split_arrives(api, raw, path):
    assert api.post(path, {"raw_data_id": raw.pk, "held_out_test": 0.3}).status == 200


def test_a_custom_split_arrives(api, custom):
    assert api.post("/runapp/raw_data/customsplit/", {"raw_data_id": custom.pk}).status == 200


@pytest.mark.parametrize("path", ["/runapp/submissionfold/1", "//runapp//submissionfold/1/"])
def test_a_fold_is_found(api, iris, path):
    api.new_fold(iris)
    assert api.get(path).status == 200


@pytest.mark.parametrize("path", ["/runapp/", "/runapp/nothing/", "/nothing", "/runapp/rawdata/1/"])
def test_it_rejects_other_addresses(api, path):
    answer = api.get(path)
    assert answer.status == 404
    assert list(answer.body) == ["detail"]
    assert "/docs/" in answer.body["detail"][0]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("put", "rawdata/"),
        ("delete", "rawdata/"),
        ("patch", "submissionfold/1/"),
        ("delete", "submissionfold/1/"),
        ("get", "rawdata/split/"),
        ("get", "submissionfold/bulk/"),
        ("get", "testpredictions/new/"),
        ("post", "submissionfold-light/"),
    ],
)
def test_it_rejects_other_methods(user, method, path):
    api = Api()
    response = getattr(api.client, method)(f"/runapp/{path}", HTTP_AUTHORIZATION=basic("ada", "correct horse: battery"))
    assert response.status_code == 405
    assert list(response.json()) == ["detail"]
    assert isinstance(response.json()["detail"], list)


def test_the_root_leads_to_the_documentation(db):
    response = Api(None).client.get("/")
    assert (response.status_code, response.headers["Location"]) == (302, "/docs/")
