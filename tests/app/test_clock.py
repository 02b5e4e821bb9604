"""The periodic tasks go on, whatever happens to the clock."""

from datetime import UTC, datetime, timedelta

import pytest
from celery import Celery

from datarun import clock
from datarun.celery import app

NOON = datetime(2026, 3, 1, 12, 0, 30, tzinfo=UTC)
PERIOD = timedelta(minutes=2)


class Sender:
    """The scheduler of the master's worker, by a clock of ours."""

    def __init__(self, monkeypatch) -> None:
        self.now, self.sent = NOON, 0
        monkeypatch.setattr(app, "now", lambda: self.now)
        self._monkeypatch = monkeypatch
        self.start()

    def start(self) -> None:
        self._scheduler = clock.Scheduler(app)
        self._monkeypatch.setattr(self._scheduler, "apply_async", self._send)

    def stop(self) -> None:
        self._scheduler.close()

    def _send(self, entry, **_):
        self.sent += entry.name == "mend"

    def after(self, span: timedelta) -> int:
        """How often it mends after that time."""
        self.now += span
        before = self.sent
        while self._scheduler.tick() == 0:
            pass
        return self.sent - before


@pytest.fixture
def sender(monkeypatch):
    sender = Sender(monkeypatch)
    yield sender
    sender.stop()


def test_it_works(sender):
    assert sender.after(timedelta(0)) == 1  # what went missing before it started
    assert [sender.after(PERIOD) for _ in range(3)] == [1, 1, 1]
    assert sender.after(timedelta(seconds=1)) == 0


def test_it_goes_on_after_the_clock_was_set_back(sender):
    sender.after(PERIOD)
    assert sender.after(timedelta(hours=3)) == 1
    sender.after(-timedelta(hours=3))
    assert [sender.after(PERIOD) for _ in range(3)] == [1, 1, 1]


def test_a_restart_does_not_remember_a_clock_that_was_wrong(sender):
    sender.after(PERIOD)
    sender.after(timedelta(hours=3))
    sender.now -= timedelta(hours=3)
    sender.stop()
    sender.start()
    assert sender.after(timedelta(0)) == 1
    assert sender.after(PERIOD) == 1


def test_it_goes_on_after_a_failure(monkeypatch):
    own = Celery("clock", broker="memory://", set_as_current=False)
    own.conf.task_default_queue = "of test_clock"  # all apps of a process share what is in memory
    own.conf.beat_schedule = {"mend": {"task": "mend", "schedule": timedelta(hours=1)}}
    failures = [OSError("no clock"), OSError("none yet")]

    def now(works=own.now):
        if failures:
            raise failures.pop()
        return works()

    monkeypatch.setattr(own, "now", now)
    monkeypatch.setattr(clock, "PAUSE", 0.0)
    clock.start(own)
    with own.connection_for_read() as connection, connection.SimpleQueue("of test_clock") as queue:
        assert queue.get(timeout=60).headers["task"] == "mend"
    assert not failures
