"""GET /runapp/submissionfold/<databoard_sf_id>/?wait=<seconds>: an answer when the fold has ended."""

import time
from concurrent.futures import Future, ThreadPoolExecutor
from threading import BoundedSemaphore
from types import SimpleNamespace

import pytest
from django.db import connection

from runapp.models import SubmissionFold
from runapp.services import ending
from tests.app.helpers import Answer, Api, failure, finish, in_thread, result

pytestmark = pytest.mark.embedded

LONG = 60


@pytest.fixture
def pool():
    with ThreadPoolExecutor(4) as threads:
        yield threads


@pytest.fixture
def looks(monkeypatch):
    """The pauses between the looks at a state, as they begin."""
    pauses: list[float] = []

    def sleep(seconds):
        pauses.append(seconds)
        time.sleep(seconds / 10)

    monkeypatch.setattr(ending, "time", SimpleNamespace(sleep=sleep, monotonic=time.monotonic))
    return pauses


@pytest.fixture
def clock(monkeypatch):
    """The same, on a clock that only these pauses move."""
    pauses: list[float] = []
    monkeypatch.setattr(ending, "time", SimpleNamespace(sleep=pauses.append, monotonic=lambda: sum(pauses)))
    return pauses


def ask(pool, wait: int = LONG) -> "Future[Answer]":
    return pool.submit(in_thread(lambda: Api().get("submissionfold/1/", wait=wait)))


def until(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("end", [result, lambda: failure(reason="user_code")], ids=["TESTED", "ERROR"])
def test_it_works(api, iris, pool, looks, end):
    api.new_fold(iris)
    asked = ask(pool)
    until(lambda: looks)
    assert not asked.done()

    finish(end())

    known = len(looks)
    answer = asked.result(60)
    assert len(looks) <= known + 1  # it may have looked the moment before
    assert answer.status == 200
    assert answer.body == api.get("submissionfold/1/").body
    assert answer.body["state"] in ("TESTED", "ERROR")


def test_it_answers_at_once_where_the_fold_has_ended(api, iris, looks):
    api.new_fold(iris)
    finish(result())
    assert api.get("submissionfold/1/", wait=LONG).body["state"] == "TESTED"
    assert looks == []


def test_it_answers_at_the_end_of_its_time_with_the_fold_as_it_is(api, iris, clock):
    api.new_fold(iris)
    answer = api.get("submissionfold/1/", wait=1)
    assert sum(clock) == pytest.approx(1)
    assert (answer.status, answer.body["state"]) == (200, "TODO")
    assert "Retry-After" not in answer.headers


@pytest.mark.parametrize("query", [{}, {"wait": 0}])
def test_it_does_not_wait_unasked(api, iris, looks, query):
    api.new_fold(iris)
    assert api.get("submissionfold/1/", **query).body["state"] == "TODO"
    assert looks == []


@pytest.mark.parametrize("wait", [-1, 61, "long", "nan", 1.5, 2**70])
def test_it_rejects_other_times(api, iris, wait):
    api.new_fold(iris)
    answer = api.get("submissionfold/1/", wait=wait)
    assert answer.status == 400
    assert list(answer.body) == ["wait"]


def test_it_rejects_an_unknown_fold_at_once(api, looks):
    assert api.get("submissionfold/7/", wait=LONG).status == 404
    assert looks == []


@pytest.mark.django_db(transaction=True)
def test_a_fold_that_is_deleted_meanwhile_is_a_404(api, iris, pool, looks):
    api.new_fold(iris)
    asked = ask(pool)
    until(lambda: looks)
    SubmissionFold.objects.all().delete()
    assert asked.result(60).status == 404


@pytest.mark.django_db(transaction=True)
def test_one_more_than_may_wait_is_answered_at_once(api, iris, pool, looks, monkeypatch):
    monkeypatch.setattr(ending, "places", BoundedSemaphore(2))
    api.new_fold(iris)
    waiters = [ask(pool) for _ in range(2)]
    until(lambda: ending.places._value == 0)

    answer = ask(pool).result(60)

    assert (answer.status, answer.body["state"]) == (200, "TODO")
    assert int(answer.headers["Retry-After"]) > 0
    assert not any(waiter.done() for waiter in waiters)
    finish(result())
    for waiter in waiters:
        assert waiter.result(60).body["state"] == "TESTED"
        assert "Retry-After" not in waiter.result().headers
    assert ending.places._value == 2


def test_one_more_than_may_wait_for_a_fold_that_has_ended_is_told_so_alone(api, iris, monkeypatch):
    monkeypatch.setattr(ending, "places", BoundedSemaphore(1))
    ending.places.acquire()
    api.new_fold(iris)
    finish(result())
    answer = api.get("submissionfold/1/", wait=LONG)
    assert answer.body["state"] == "TESTED"
    assert "Retry-After" not in answer.headers


def test_a_wait_that_fails_gives_its_place_back(api, iris, monkeypatch):
    api.new_fold(iris)
    places = BoundedSemaphore(1)
    monkeypatch.setattr(ending, "places", places)

    def fail(seconds):
        raise OSError("the process is told to end")

    monkeypatch.setattr(ending, "time", SimpleNamespace(sleep=fail, monotonic=time.monotonic))
    with pytest.raises(OSError, match="told to end"):
        ending.wait_for_end(1, LONG)
    assert places._value == 1


@pytest.mark.django_db(transaction=True)
def test_no_transaction_is_open_while_it_waits(api, iris, monkeypatch):
    api.new_fold(iris)
    seen = []

    def sleep(seconds):
        seen.append(connection.in_atomic_block)

    monkeypatch.setattr(ending, "time", SimpleNamespace(sleep=sleep, monotonic=iter(range(100)).__next__))
    ending.wait_for_end(1, 3)
    assert seen
    assert not any(seen)


def test_the_pauses_grow_up_to_a_second(api, iris, clock):
    api.new_fold(iris)
    ending.wait_for_end(1, LONG)
    assert clock[0] == pytest.approx(0.1)
    assert clock[:-1] == sorted(clock[:-1])
    assert max(clock) == 1
    assert sum(clock) == pytest.approx(LONG)
