"""GET /runapp/submissionfold/<databoard_sf_id>/."""

import pytest

from tests.app.helpers import finish, predictions, result


def test_it_works(api, iris):
    api.new_fold(iris)
    api.new_fold(iris, 2)
    finish(result(2))

    answer = api.get("submissionfold/2/")

    assert answer.status == 200
    [listed] = [record for record in api.get("submissionfold/").body if record["databoard_sf_id"] == 2]
    assert {name: answer.body[name] for name in listed} == listed
    assert {*answer.body} - {*listed} == {"history"}
    assert answer.body["test_predictions"] == predictions(3)


@pytest.mark.parametrize("key", ["7", "0", str(2**31), str(2**64), "9" * 5000])
def test_it_rejects_an_unknown_id(api, iris, key):
    api.new_fold(iris)
    answer = api.get(f"submissionfold/{key}/")
    assert answer.status == 404
    assert list(answer.body) == ["detail"]


@pytest.mark.parametrize("key", ["-1", "one", "1.0", "%00"])
def test_it_rejects_what_is_no_id(api, key):
    answer = api.get(f"submissionfold/{key}/")
    assert answer.status == 404
    assert list(answer.body) == ["detail"]
