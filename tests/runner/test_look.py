"""A look at what may hang: bounded, and one at a time."""

import threading
import time

import pytest

from runner import look as module
from runner.look import Look


@pytest.fixture
def hung():
    """A reading that hangs until `back` is set, and counts."""

    class Hung:
        def __init__(self):
            self.back, self.readings = threading.Event(), 0

        def __call__(self):
            self.readings += 1
            self.back.wait(120)
            return "there"

    hung = Hung()
    yield hung
    hung.back.set()


def test_it_works():
    numbers = iter(range(3))
    look = Look(lambda: next(numbers))
    assert [look(10), look(10)] == [0, 1]


def test_an_error_is_that_of_the_reading():
    def read():
        raise PermissionError("not yours")

    look = Look(read)
    for _ in range(2):
        with pytest.raises(PermissionError, match="not yours"):
            look(10)


def test_who_asks_while_it_hangs_takes_no_thread_and_no_more_time(hung):
    look = Look(hung)
    began = time.monotonic()
    for _ in range(60):
        with pytest.raises(TimeoutError):
            look(1)
    assert time.monotonic() - began < 30
    assert hung.readings == 1


def test_a_reading_that_had_no_turn_is_waited_for_once_more(monkeypatch):
    """The time is over before the thread has begun, as where the machine stood still meanwhile."""
    monkeypatch.setattr(module, "GRACE", 60)
    look = Look(lambda: time.sleep(0.3) or "there")
    assert look(0) == "there"


def test_it_looks_again_once_what_hung_is_back(hung):
    look = Look(hung)
    with pytest.raises(TimeoutError):
        look(0.1)
    hung.back.set()
    assert look(30) == "there"


def test_many_who_ask_at_once_share_a_reading(hung):
    look = Look(hung)
    answers = [look.begin() for _ in range(5)]
    hung.back.set()
    assert [answer(30) for answer in answers] == ["there"] * 5
    assert hung.readings == 1
