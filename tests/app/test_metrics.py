"""GET /metrics: what an operator alarms on, for Prometheus."""

import threading
from datetime import timedelta
from types import SimpleNamespace

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from prometheus_client.parser import text_string_to_metric_families

from runapp import services
from runapp.models import RawData, Runner, SubmissionFold
from runapp.services import metrics
from runner.look import Look
from tests.app.helpers import Api, busy, failure, finish, fold, heard, progress, report, result
from tests.e2e.live import until

pytestmark = pytest.mark.embedded


def scrape(api):
    """Name and labels -> value, as Prometheus reads it."""
    answer = api.get("/metrics")
    assert answer.status == 200, answer.content
    return {
        (sample.name.removeprefix("datarun_"), *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.content.decode())
        for sample in family.samples
    }


def test_it_works(api, iris, queues):
    for key in range(1, 6):
        api.new_fold(iris, key)
    api.post("submissionfold/", fold(6, priority="H"))
    SubmissionFold.objects.filter(pk=4).update(queued_at=timezone.now() - timedelta(seconds=90))
    services.advance(progress(1))
    finish(result(2))
    finish(failure(3, "user_code"))

    found = scrape(api)

    assert found["queue_waiting", "L"] == 2
    assert found["queue_waiting", "H"] == 1
    assert found["queue_waiting", "celery"] == 0
    assert 90 <= found["queue_oldest_seconds", "L"] < 120
    assert 0 <= found["queue_oldest_seconds", "H"] < 30
    assert found["queue_oldest_seconds", "celery"] == 0
    assert [found["folds", state] for state in ("TODO", "TRAINED", "VALIDATED", "TESTED", "ERROR")] == [3, 1, 0, 1, 1]
    assert found["folds_failed", "user_code"] == 1
    assert found["folds_failed", "infrastructure"] == 0
    assert found["splits", "DONE"] == 1
    assert found["broker_up",] == 1
    # A quorum queue is said to hold nothing while its leader takes more than 250 ms to answer.
    until(lambda: scrape(api)["queue_messages", "L"] == 5, 60, "five messages are counted")
    assert found["results_late",] == found["fold_retries",] == found["folds_not_queued",] == 0


def test_it_is_what_prometheus_reads(api):
    answer = api.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
    assert api.client.get("/metrics", headers={"accept": accept}).status_code == 200


def test_it_answers_where_nothing_is(api):
    found = scrape(api)
    assert found["runners", "up"] == found["folds", "TESTED"] == found["splits", "NONE"] == 0


def test_results_that_are_late_count_until_they_are_there(api, iris):
    for key in (1, 2):
        api.new_fold(iris, key)
        services.advance(progress(key))
    SubmissionFold.objects.filter(pk=1).update(deadline=timezone.now() - timedelta(seconds=1))
    assert scrape(api)["results_late",] == 1
    finish(result(1))
    assert scrape(api)["results_late",] == 0


def test_a_fold_that_was_given_up_is_not_late(api, iris, settings):
    api.new_fold(iris)
    services.advance(progress())
    SubmissionFold.objects.update(attempts=settings.MAX_ATTEMPTS, deadline=timezone.now() - timedelta(seconds=1))
    heard()
    services.mend()
    found = scrape(api)
    assert (found["folds_failed", "infrastructure"], found["results_late",]) == (1, 0)


def test_retries_are_the_attempts_beyond_the_first(api, iris):
    for key in (1, 2, 3):
        api.new_fold(iris, key)
    for _ in range(2):
        finish(failure(1))
    finish(failure(2))
    assert scrape(api)["fold_retries",] == 3


def test_it_counts_runners_by_state_and_shows_each(api):
    for name in ("one", "two"):
        services.save_runner(report(name))
    Runner.objects.update(heartbeat_at=timezone.now() - timedelta(seconds=100))
    services.save_runner(report('th"ree', slots=4, busy=[busy(1)]))
    services.save_runner(report("four", share=False))
    found = scrape(api)
    states = ("up", "no share", "stopping", "silent", "stopped")
    assert [found["runners", state] for state in states] == [1, 1, 0, 2, 0]
    assert (found["runner_up", 'th"ree'], found["runner_up", "one"], found["runner_up", "four"]) == (1, 0, 0)
    assert (found["runner_slots", 'th"ree'], found["runner_busy", 'th"ree']) == (4, 1)
    assert 100 <= found["runner_heard_seconds", "one"] < 130


def test_splits_wait_in_a_queue_too(api, raw):
    api.post("rawdata/split/", {"raw_data_id": raw.pk, "held_out_test": 0.25})
    api.new_fold(raw)
    RawData.objects.update(split_queued_at=timezone.now() - timedelta(seconds=50))
    found = scrape(api)
    assert (found["queue_waiting", "celery"], found["splits", "QUEUED"]) == (1, 1)
    assert 50 <= found["queue_oldest_seconds", "celery"] < 80
    assert (found["folds_not_queued",], found["queue_waiting", "L"]) == (1, 0)


def test_it_answers_while_the_broker_is_down(api, iris, broker_down):
    broker_down()
    api.new_fold(iris)
    found = scrape(api)
    assert found["broker_up",] == 0
    assert ("queue_messages", "L") not in found
    assert found["folds_not_queued",] == 1


def test_a_broker_that_hangs_costs_one_thread(api, monkeypatch):
    """Not one a scrape, each with a connection."""
    back, looks = threading.Event(), []

    def hang():
        looks.append(1)
        back.wait(30)

    monkeypatch.setattr(metrics, "current_app", SimpleNamespace(connection_for_read=hang))
    monkeypatch.setattr(metrics, "_queue_lengths", Look(metrics._look_at_queues))
    monkeypatch.setattr(metrics, "BROKER_SECONDS", 0.2)
    for _ in range(3):
        assert scrape(api)["broker_up",] == 0
    back.set()
    assert len(looks) == 1


@pytest.mark.skipif(connection.vendor != "sqlite", reason="PostgreSQL reads so few rows as they are")
def test_it_counts_in_indices(api, iris):
    """A scrape reads no row of a fold: they are large, and many."""
    for key in (1, 2):
        api.new_fold(iris, key)
    finish(failure(1, "user_code"))
    with CaptureQueriesContext(connection) as asked:
        scrape(api)
    plans = []
    with connection.cursor() as cursor:
        for query in asked.captured_queries:
            if 'FROM "runapp_submissionfold"' in query["sql"]:
                cursor.execute(f"EXPLAIN QUERY PLAN {query['sql']}")
                plans.append(" ".join(row[3] for row in cursor.fetchall()))
    assert len(plans) == 6
    assert [plan for plan in plans if "COVERING INDEX" not in plan] == []


def test_it_rejects_a_caller_without_credentials(db):
    answer = Api(None).get("/metrics")
    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"] == 'Basic realm="datarun"'
