"""A runner that is killed, and a broker that goes away: what the runner says of it afterwards."""

import os
import signal

import pytest
from celery import Celery
from celery.result import AsyncResult

from runner import spool, tasks
from tests.e2e.live import until


def begun(share, number=1):
    """Wait for the submission's fit to have begun for this many times."""
    until(lambda: share.fits() >= number, 180, "the fold runs")


def test_a_fold_whose_runner_is_killed_is_reported_and_runs_again(worker, broker, share):
    share.slow()
    one = worker("one").start().ready()
    task_id = broker.send_fold(1, "slow")
    begun(share)
    one.kill()
    share.go()
    assert broker.results() == []
    one.start()
    [lost] = until(lambda: broker.news("save_lost"), 180, one.log.read_text)
    assert (lost["databoard_sf_id"], lost["task_id"], lost["runner"]) == (1, task_id, "celery@one")
    result = broker.result()
    assert (result["state"], result["task_id"]) == ("TESTED", task_id)
    assert result["started_at"] > lost["started_at"]
    assert share.fits() == 2
    until(lambda: {path.name for path in one.spool.glob("*/*")} <= {"lock"}, 180, "its mark is gone")


def test_a_fold_that_kills_every_runner_is_handed_back(worker, broker, share):
    """The broker counts what no runner can: it may be another one each time."""
    share.slow()
    task_id = broker.send_fold(1, "slow")
    for number in range(tasks.MAX_DELIVERIES):
        killed = worker(f"runner{number}").start().ready()
        begun(share, number + 1)
        killed.kill()
    last = worker("last").start().ready()
    [returned] = until(lambda: broker.news("save_returned"), 180, last.log.read_text)
    assert returned == {"databoard_sf_id": 1, "task_id": task_id}
    until(lambda: broker.waiting("L") == 0, 180, "its message is gone")
    assert share.fits() == tasks.MAX_DELIVERIES


def test_a_revoked_fold_that_comes_back_is_dropped(worker, broker, share, declared):
    share.slow()
    one = worker("one").start().ready()
    task_id = broker.send_fold(1, "slow")
    begun(share)
    one.kill()
    with Celery(backend=declared.redis.url, set_as_current=False) as app:
        app.backend.mark_as_revoked(task_id)
        one.start().ready()
        until(lambda: "is dropped" in one.log.read_text(), 180, one.log.read_text)
        until(lambda: AsyncResult(task_id, app=app).state == "REVOKED", 180, "it is still revoked")
    assert (share.fits(), broker.waiting("L"), broker.results()) == (1, 0, [])


def test_a_fold_runs_once_whose_runner_lost_the_connection_for_a_moment(worker, broker, share, declared):
    """The broker gives its message again, here to the other slot of the same runner."""
    share.slow()
    one = worker("one", slots=2).start().ready()
    broker.send_fold(1, "slow")
    begun(share)
    declared.rabbitmq.control("close_all_connections", "--global", "a moment")
    until(lambda: "was given again: it runs here" in one.log.read_text(), 180, one.log.read_text)
    share.go()
    assert broker.result()["state"] == "TESTED"
    broker.send_fold(2)
    assert broker.result()["databoard_sf_id"] == 2
    assert share.fits() == 2
    until(lambda: broker.waiting("L") == 0, 180, one.log.read_text)


@pytest.mark.parametrize("how", ["stopped", "frozen"])
def test_a_fold_runs_and_counts_while_the_result_store_is_away(how, worker, broker, share, declared):
    one = worker("one").start().ready()
    broker.send_fold(1)
    assert broker.result()["state"] == "TESTED"
    if how == "stopped":
        declared.redis.stop()
    else:
        os.kill(declared.redis.pid, signal.SIGSTOP)
    try:
        broker.send_fold(2)
        assert broker.result()["state"] == "TESTED", one.log.read_text()
    finally:
        if how == "stopped":
            declared.redis.start()
        else:
            os.kill(declared.redis.pid, signal.SIGCONT)
    until(lambda: broker.waiting("L") == 0, 180, one.log.read_text)
    task_id = broker.send_fold(3)
    assert broker.result()["state"] == "TESTED", one.log.read_text()
    with Celery(backend=declared.redis.url, set_as_current=False) as app:
        until(lambda: AsyncResult(task_id, app=app).state == "SUCCESS", 180, one.log.read_text)


@pytest.fixture
def own_broker(declared):
    """RabbitMQ may be stopped by the test; it runs at its end."""
    yield declared.rabbitmq
    if declared.rabbitmq.running:
        os.kill(declared.rabbitmq.pid, signal.SIGCONT)
    if not declared.rabbitmq.running:
        declared.rabbitmq.start()


@pytest.mark.parametrize("how", ["stopped", "frozen"])
def test_a_result_outlives_a_broker_that_is_away(how, worker, broker, share, own_broker):
    """The slot is free meanwhile, and the fold runs once."""
    share.slow()
    one = worker("one").start().ready()
    broker.send_fold(1, "slow")
    begun(share)
    if how == "stopped":
        own_broker.stop()
    else:
        os.kill(own_broker.pid, signal.SIGSTOP)
    share.go()
    kept = until(lambda: list(one.spool.glob("*/*.result")), 180, one.log.read_text)
    assert len(kept) == 1
    if how == "stopped":
        own_broker.start()
    else:
        os.kill(own_broker.pid, signal.SIGCONT)
    results = until(broker.results, 180, one.log.read_text)
    assert {result["state"] for result in results} == {"TESTED"}
    until(lambda: not list(one.spool.glob("*/*.result")), 180, one.log.read_text)
    until(lambda: broker.waiting("L") == 0, 180, one.log.read_text)
    broker.send_fold(2)
    until(lambda: any(result["databoard_sf_id"] == 2 for result in broker.results()), 180, one.log.read_text)
    assert share.fits() == 2


def test_a_result_outlives_its_runner_and_the_broker(worker, broker, share, own_broker):
    share.slow()
    one = worker("one").start().ready()
    task_id = broker.send_fold(1, "slow")
    begun(share)
    own_broker.stop()
    share.go()
    until(lambda: list(one.spool.glob("*/*.result")), 180, one.log.read_text)
    one.kill()
    own_broker.start()
    one.start().ready()
    result = broker.result()
    assert (result["task_id"], result["state"]) == (task_id, "TESTED")
    until(lambda: broker.waiting("L") == 0, 180, one.log.read_text)
    assert share.fits() == 1
    assert broker.news(spool.LOST.rpartition(".")[2]) == []
