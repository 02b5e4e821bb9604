"""GET /runapp/submissionfold-light/; its filters and pages are tested with the full list's."""

from tests.app.helpers import finish, result


def test_it_works(api, iris):
    api.new_fold(iris, 5, submission=3)
    api.new_fold(iris, 2, submission=3)
    finish(result(2))
    api.post("testpredictions/new/", {})

    answer = api.get("submissionfold-light/")

    assert answer.status == 200
    assert answer.body == [
        {"databoard_sf_id": 2, "databoard_s": 3, "state": "TESTED", "new": False},
        {"databoard_sf_id": 5, "databoard_s": 3, "state": "TODO", "new": True},
    ]


def test_it_lists_nothing(api):
    answer = api.get("submissionfold-light/")
    assert (answer.status, answer.body) == (200, [])
