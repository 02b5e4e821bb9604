"""When a worker turns away from its queues, and back: without a broker, on a clock of the test's own."""

from types import SimpleNamespace

import pytest
from celery.bootsteps import RUN  # type: ignore[attr-defined] # not in its stubs

from runner import intake


class Consumer:
    """As much of Celery's as is needed; what it is to do soon it does now."""

    def __init__(self):
        self.consumes = {"L", "H"}
        self.blueprint = SimpleNamespace(state=RUN)
        self.app = SimpleNamespace(amqp=SimpleNamespace(queues=SimpleNamespace(consume_from=self.consumes)))
        self.add_task_queue, self.cancel_task_queue = self.consumes.add, self.consumes.discard

    def call_soon(self, function, *arguments):
        function(*arguments)


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(now=1000.0)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr(intake, "time", clock)
    return clock


@pytest.fixture
def consumer():
    return Consumer()


@pytest.fixture
def own(clock, consumer):
    return intake.Intake(consumer, ["L", "H"])


def test_nothing_is_consumed_once_a_rest_has_begun(own, consumer):
    own.rest("its disk is broken")
    assert consumer.consumes == set()


def test_the_rests_grow_to_a_minute_and_are_short_again_after_a_success(own, clock, caplog):
    for number in range(6):
        own.rest(f"fault {number}")
        clock.now += 100
    own.worked()
    own.rest("another")
    said = [record.getMessage().partition(" taken for ")[2] for record in caplog.records]
    assert [int(text.partition(" s,")[0]) for text in said if text] == [5, 10, 20, 40, 60, 60, 5]
    assert "fault 0" in said[0]


def test_what_fails_during_a_rest_does_not_make_it_longer(own, clock):
    own.rest("one slot")
    clock.now += 4
    own.rest("the other")
    clock.now += 1
    assert own.takes()


def test_a_rest_does_not_end_with_a_fold_that_was_taken_before(own, clock):
    own.rest("one slot")
    own.worked()
    assert not own.takes()


def test_a_connection_that_is_being_made_is_left_alone(own, consumer):
    consumer.blueprint.state = None
    own.rest("its disk is broken")
    assert consumer.consumes == {"L", "H"}
