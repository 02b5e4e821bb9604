"""GET /runapp/submissionfold/<id>/queue/: why a fold is waiting, and for how long."""

from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from runapp import services
from runapp.models import Runner, SubmissionFold
from runapp.services.waiting import _ordinal
from tests.app.helpers import Api, busy, failure, finish, fold, new_fold, progress, report, result

pytestmark = pytest.mark.embedded


def why(api, key: int = 1):
    answer = api.get(f"submissionfold/{key}/queue/")
    assert answer.status == 200, answer.content
    return answer.body


@pytest.fixture
def up(db):
    services.save_runner(report())


@pytest.fixture
def waiting(api, iris):
    """Folds 1 to 3, queued in this order."""
    for key in (1, 2, 3):
        api.new_fold(iris, key)


def test_it_works(api, waiting, up):
    said = why(api, 3)
    [runner] = said.pop("runners")
    assert (runner["name"], runner["state"]) == ("runner@here", "up")
    assert said == {
        "databoard_sf_id": 3,
        "state": "waiting: 3rd in queue L",
        "position": 3,
        "ahead": 2,
        "estimate": None,
        "estimate_reason": "no fold of priority L has run yet",
    }


def test_the_first_is_the_first(api, waiting, up):
    said = why(api, 1)
    assert (said["state"], said["position"], said["ahead"]) == ("waiting: 1st in queue L", 1, 0)


def test_folds_queued_in_one_moment_have_places_of_their_own(api, iris, up):
    api.post("submissionfold/bulk/", [new_fold(iris, key) for key in range(1, 6)])
    assert [why(api, key)["position"] for key in range(1, 6)] == [1, 2, 3, 4, 5]


def test_what_runs_or_has_ended_is_not_ahead(api, waiting, up):
    services.advance(progress(1, "TODO"))
    assert why(api, 3)["position"] == 2
    finish(result(2))
    assert why(api, 3)["position"] == 1


def test_each_priority_has_a_queue_of_its_own(api, waiting, up):
    api.post("submissionfold/", fold(4, priority="H"))
    assert why(api, 4)["state"] == "waiting: 1st in queue H"


def test_a_fold_that_is_tried_again_stands_at_the_end(api, waiting, up):
    services.advance(progress(1))
    finish(failure(1))
    assert why(api, 1)["position"] == 3


def test_it_says_that_no_runner_serves_the_queue(api, waiting):
    services.save_runner(report(configured=["H"], queues=["H"]))
    said = why(api)
    assert said["state"] == "waiting: 1st in queue L, but no runner serves L"
    assert said["runners"] == []
    assert said["estimate_reason"] == "no runner that serves L is up"


def test_it_says_why_the_runners_of_the_queue_do_not_take_it(api, waiting):
    services.save_runner(report("one"))
    Runner.objects.update(heartbeat_at=timezone.now() - timedelta(minutes=5))
    services.save_runner(report("two", share=False, queues=[]))
    services.save_runner(report("three", state="stopped", queues=[]))
    services.save_runner(report("zoo", state="stopped", queues=[]))
    since = f"{Runner.objects.get(pk='one').heartbeat_at:%Y-%m-%dT%H:%M:%SZ}"
    said = why(api)
    assert said["state"] == (
        "waiting: 1st in queue L, but no runner that serves L is up: "
        f"one is silent since {since}, three is stopped, two is without the shared disk and 1 more are not up either"
    )
    assert {runner["name"]: runner["state"] for runner in said["runners"]} == {
        "one": "silent",
        "two": "no share",
        "three": "stopped",
        "zoo": "stopped",
    }


def test_it_says_where_it_runs_and_until_when(api, waiting, up):
    services.advance(progress())
    said = why(api)
    row = SubmissionFold.objects.get(pk=1)
    began, ends = (f"{when:%Y-%m-%dT%H:%M:%SZ}" for when in (row.started_at, row.deadline))
    assert said["state"] == f"runs on runner@here since {began}, ends by {ends} at the latest"
    assert (said["position"], said["ahead"], said["estimate"]) == (None, None, None)


def test_it_says_that_the_runner_of_a_fold_is_silent(api, waiting, up):
    services.advance(progress())
    Runner.objects.update(heartbeat_at=timezone.now() - timedelta(minutes=5))
    assert "at the latest; but its runner is silent since 2" in why(api)["state"]


def test_it_says_that_a_result_is_late(api, waiting, up):
    services.advance(progress())
    SubmissionFold.objects.update(deadline=timezone.now() - timedelta(seconds=5))
    assert "should have ended by" in why(api)["state"]


def test_it_says_that_it_waits_for_the_split(api, raw, queues):
    api.post("rawdata/split/", {"raw_data_id": raw.pk, "held_out_test": 0.25})
    api.new_fold(raw)
    services.save_runner(report())
    assert why(api)["state"] == f"waits for the split of data set {raw.pk}, but no runner serves celery"
    services.save_runner(report("splitter", configured=["celery"], queues=["celery"]))
    said = why(api)
    assert said["state"] == f"waits for the split of data set {raw.pk}"
    assert [runner["name"] for runner in said["runners"]] == ["splitter"]
    assert (said["position"], said["estimate_reason"]) == (None, "the split has to end first")


def test_a_fold_of_the_split_before_waits_in_its_queue(api, iris, waiting, up):
    api.post("rawdata/split/", {"raw_data_id": iris.pk, "held_out_test": 0.25})
    assert why(api)["state"] == "waiting: 1st in queue L"


def test_it_says_that_the_broker_is_away(api, iris, up, broker_down):
    broker_down()
    api.new_fold(iris)
    said = why(api)
    assert said["state"].startswith("not in the queue yet: the broker is away")
    assert said["position"] is None


@pytest.mark.parametrize(
    ("message", "words"), [(result, "ended: TESTED"), (failure, "ended: ERROR (user_code)")], ids=["tested", "error"]
)
def test_it_says_how_it_ended(api, waiting, message, words):
    finish(message(1) if message is result else message(1, "user_code"))
    said = why(api)
    assert (said["state"], said["estimate_reason"]) == (words, words)


def test_the_estimate_is_made_of_the_last_folds_and_the_free_slots(api, iris, queues):
    """Folds took 2 s; of 4 slots 3 are busy, so that one of 5 begins at once, and one each half second then."""
    now = timezone.now()
    for key in range(1, 11):
        api.new_fold(iris, key)
    for key in (1, 2, 3):
        finish(result(key, started_at=now.timestamp() - 2, finished_at=now.timestamp()))
    services.save_runner(report(slots=4, busy=[busy(20), busy(21), busy(22)]))
    assert why(api, 4)["estimate"] == 0.0
    assert [why(api, key)["estimate"] for key in (5, 6, 7)] == [0.5, 1.0, 1.5]
    services.save_runner(report("two", slots=4))
    assert why(api, 7)["estimate"] == 0.0
    assert why(api, 7)["estimate_reason"] == ""


def test_the_estimate_leaves_out_runners_that_are_not_up(api, waiting):
    finish(result(1))
    services.save_runner(report(share=False))
    assert why(api, 2)["estimate"] is None


@pytest.mark.parametrize("number", [1, 2, 3, 4, 10, 11, 12, 13, 21, 22, 101, 111, 113])
def test_numbers_are_spelt_as_in_english(number):
    ends = {1: "st", 2: "nd", 3: "rd", 4: "th", 10: "th", 11: "th", 12: "th", 13: "th", 21: "st", 22: "nd", 101: "st"}
    assert _ordinal(number) == f"{number}{ends.get(number, 'th')}"


@pytest.mark.django_db(transaction=True)
def test_it_reads_indices(api, waiting, up):
    """The rows are large, and there may be a hundred thousand before this one."""
    now = timezone.now()
    many = [SubmissionFold.objects.get(pk=3) for _ in range(2_000)]
    for key, row in enumerate(many, start=100):
        row.pk, row.queued_at = key, now + timedelta(seconds=key)
        if key % 2:
            row.state, row.started_at, row.finished_at = SubmissionFold.State.TESTED, now, now + timedelta(seconds=key)
    SubmissionFold.objects.bulk_create(many)
    with CaptureQueriesContext(connection) as asked:
        why(api, 2_098)
    plans = ""
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("VACUUM ANALYZE")  # its plan depends on when it last looked at the rows
        for query in [query["sql"] for query in asked.captured_queries]:
            if "COUNT(*)" in query or "finished_at" in query:
                cursor.execute(f"EXPLAIN {'QUERY PLAN ' if connection.vendor == 'sqlite' else ''}{query}")
                plans += "\n".join(row[-1] for row in cursor.fetchall())
    words = "Index Only Scan using" if connection.vendor == "postgresql" else "USING COVERING INDEX"
    assert f"{words} fold_waiting" in plans
    assert f"{words} fold_finished" in plans


def test_it_takes_few_queries(api, waiting, up, django_assert_max_num_queries):
    why(api)  # which authenticates
    with django_assert_max_num_queries(6):
        why(api)


def test_it_rejects_an_unknown_fold(api):
    answer = api.get("submissionfold/99/queue/")
    assert answer.status == 404
    assert answer.body == {"detail": ["There is no fold 99."]}


def test_it_rejects_a_caller_without_credentials(db):
    assert Api(None).get("submissionfold/1/queue/").status == 401
