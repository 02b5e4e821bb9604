"""The master's worker writes the results that have arrived in one transaction, and acknowledges each after it."""

import threading
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from celery import current_app
from celery.contrib.testing.worker import start_worker
from django.db import DataError, connection
from django.db.backends.signals import connection_created
from django.test.utils import CaptureQueriesContext
from kombu.message import Message

from runapp import batches, services, tasks
from runapp.models import SubmissionFold
from runner import config, payloads
from tests.app.helpers import failure, fold, new_fold, result
from tests.e2e.live import until

pytestmark = pytest.mark.embedded

KEYS = range(1, 11)


@pytest.fixture
def folds(api, iris, queues):
    """Ten folds, sent and no longer in their queue."""
    answer = api.post("submissionfold/bulk/", [new_fold(iris, key) for key in KEYS])
    assert answer.status == 201, answer.content
    queues.purge()


@pytest.fixture
def worker(monkeypatch):
    """`with worker():` the master's worker runs, in this process."""
    app: Any = current_app
    made: list[Any] = []  # connections to the database, which would outlive the worker's threads

    @contextmanager
    def run():
        with monkeypatch.context() as patch:
            patch.setattr(app.amqp.queues, "_consume_from", None)
            patch.setattr(app.log, "setup", lambda **_: None)  # what it changes would stay for other tests
            how = {"pool": "threads", "queues": [config.MASTER_QUEUE]}
            try:
                with start_worker(app, perform_ping_check=False, shutdown_timeout=60, **how):
                    yield
            finally:
                while made:
                    made[0].inc_thread_sharing()
                    made.pop(0).close()

    def note(connection, **_):
        if threading.current_thread() is not threading.main_thread():
            made.append(connection)

    connection_created.connect(note)
    yield run
    connection_created.disconnect(note)


def send(*messages: dict[str, Any]) -> None:
    for message in messages:
        current_app.send_task("runapp.tasks.save_fold", [message], ignore_result=True)


def states() -> list[str]:
    return list(SubmissionFold.objects.order_by("pk").values_list("state", flat=True))


def wait_for(condition: Callable[[], bool]) -> None:
    until(condition, 60, lambda: f"the results are taken in: {states()}")


@pytest.mark.django_db(transaction=True)
def test_it_works(folds, worker, queues, monkeypatch):
    """What arrives while the first are written is written together."""
    arrived, written, go = [], [], threading.Event()
    take, finish_many = batches.Strategy.__call__, services.finish_many

    def slowly(messages):
        written.append(len(messages))
        go.wait(120)
        return finish_many(messages)

    monkeypatch.setattr(batches.Strategy, "__call__", lambda *how: take(*how) or arrived.append(1))
    monkeypatch.setattr(services, "finish_many", slowly)
    send(*(result(key) for key in KEYS))
    with worker():
        wait_for(lambda: len(arrived) == 10)
        go.set()
        wait_for(lambda: states() == ["TESTED"] * 10)
    assert (len(written), sum(written)) == (2, 10)
    assert queues.take(config.MASTER_QUEUE) == []


@pytest.mark.django_db(transaction=True)
def test_one_that_makes_no_sense_loses_no_other(folds, worker, queues):
    """It is done with, as one that comes alone."""
    bad = result(4, train_time="a while")
    odd = result(5) | {"databoard_sf_id": "five"}
    send(*(result(key) for key in (1, 2, 3)), bad, odd)
    for no_result in ([], ["nothing"], [{}, 2]):
        current_app.send_task("runapp.tasks.save_fold", no_result, ignore_result=True)
    send(*(result(key) for key in (6, 7, 8, 9, 10)))
    with worker():
        wait_for(lambda: states() == ["TESTED"] * 3 + ["TODO"] * 2 + ["TESTED"] * 5)
    assert queues.take(config.MASTER_QUEUE) == []


@pytest.mark.django_db(transaction=True)
def test_a_crash_after_the_commit_gives_no_result_twice(api, folds, worker, queues, monkeypatch):
    send(*(result(key) for key in KEYS))
    with monkeypatch.context() as crash:
        crash.setattr(Message, "ack_log_error", lambda *_: None)
        with worker():
            wait_for(lambda: states() == ["TESTED"] * 10)
    assert len(api.post("testpredictions/new/", {}).body) == 10
    again, finish = [], services.finish
    monkeypatch.setattr(services, "finish", lambda message: again.append(finish(message)))
    with worker():
        wait_for(lambda: len(again) == 10)
    assert not any(again)
    assert api.post("testpredictions/new/", {}).body == []
    assert states() == ["TESTED"] * 10
    assert queues.take(config.MASTER_QUEUE) == []


@pytest.mark.django_db(transaction=True)
def test_a_crash_before_the_commit_loses_no_result(folds, worker, queues, monkeypatch):
    tried = []

    def crash(messages):
        tried.append(len(messages))
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(services, "finish_many", crash)
        send(*(result(key) for key in KEYS))
        with worker():
            wait_for(lambda: bool(tried))
    assert states() == ["TODO"] * 10
    with worker():
        wait_for(lambda: states() == ["TESTED"] * 10)


@pytest.mark.django_db(transaction=True)
def test_one_that_waits_for_the_share_holds_up_no_other(api, folds, worker, queues, monkeypatch, tmp_path):
    marker = tmp_path / "marker"
    monkeypatch.setenv("DATARUN_SHARE_MARKER", str(marker))
    monkeypatch.setattr(tasks, "PAUSE", 0.01)
    task_id = SubmissionFold.objects.get(pk=1).task_id
    text = payloads.pack(np.random.default_rng(1).random(200_000), f"{task_id}.test_predictions.1")
    send(result(1, test_predictions=text), *(result(key) for key in KEYS[1:]))
    with worker():
        wait_for(lambda: states() == ["TODO"] + ["TESTED"] * 9)
        api.post("submissionfold/", fold(10, force="submission_fold"))
        send(result(10))  # it is taken in behind the one that waits
        wait_for(lambda: states() == ["TODO"] + ["TESTED"] * 9)
        marker.touch()
        wait_for(lambda: states() == ["TESTED"] * 10)
    assert SubmissionFold.objects.get(pk=1).attempts == 1
    assert queues.take(config.MASTER_QUEUE) == []


# --- finish_many


def test_they_are_written_together(folds):
    """The number of queries for each is that of its own UPDATE."""
    messages = [result(key) for key in KEYS]
    with CaptureQueriesContext(connection) as few:
        assert services.finish_many(messages[:2]) == [True] * 2
    with CaptureQueriesContext(connection) as many:
        assert services.finish_many(messages[2:]) == [True] * 8
    assert len(many) - len(few) == 8 - 2
    assert states() == ["TESTED"] * 10


def test_what_needs_more_than_a_row_is_left(api, folds, queues):
    late, unknown = result(3), result(4, task_id="made up")
    api.post("submissionfold/", fold(3, force="submission_fold"))
    assert services.finish_many([result(1), failure(2), late, unknown, result(5)]) == [True, False, False, False, True]
    assert states() == ["TESTED", "TODO", "TODO", "TODO", "TESTED", *["TODO"] * 5]


def test_a_result_that_comes_twice_at_once_is_taken_once(folds):
    assert services.finish_many([result(1, log_messages="first"), result(1, log_messages="second")]) == [True, False]
    assert SubmissionFold.objects.get(pk=1).log_messages == "first"


def test_all_or_none(folds):
    with pytest.raises((DataError, ValueError)):
        services.finish_many([result(1), result(2, train_time="a while"), result(3)])
    assert states() == ["TODO"] * 10
