"""Whether this worker takes work: not while its shared disk is gone, nor for a while after it has failed some itself.

A runner that can run nothing is always idle: left alone it would take each fold that it has failed again at once, and
use up its attempts before a healthy runner has the time to take it.
"""

import threading
import time
from typing import Any

from celery.bootsteps import RUN  # type: ignore[attr-defined] # not in its stubs
from celery.utils.log import get_task_logger

from runner import config, share

log = get_task_logger(__name__)

PAUSE = 3.0
"""Seconds between two looks."""

FIRST_REST, LONGEST_REST = 5.0, 60.0
"""Seconds without work after a fault of this runner's own; twice as long after each, until it completes something."""

TURN_SECONDS = 5.0
"""How long a fault may wait for the worker to turn away from its queues: the broker may be hanging."""


class Intake:
    """Of one worker. consumer: Celery's, which is running; queues: its work queues."""

    def __init__(self, consumer: Any, queues: list[str]) -> None:
        self._consumer, self._queues = consumer, queues
        self._lock = threading.Lock()
        self._faults = 0
        self._rests_until = 0.0
        self._there = True

    def watch(self) -> None:
        while True:
            self._there = share.is_there()
            if self.takes() != self._consumes():
                self._consumer.call_soon(self._turn)
            left = self._rests_until - time.monotonic()
            time.sleep(min(PAUSE, left) if left > 0 else PAUSE)

    def rest(self, why: str) -> None:
        """Returns when nothing more is taken, or after TURN_SECONDS."""
        with self._lock:
            now = time.monotonic()
            if now >= self._rests_until:  # what fails while it rests was taken before
                seconds = min(FIRST_REST * 2**self._faults, LONGEST_REST)
                self._faults = min(self._faults + 1, 10)
                self._rests_until = now + seconds
                log.warning("no work is taken for %g s, so that others may: this runner failed: %s", seconds, why)
        turned = threading.Event()
        self._consumer.call_soon(self._turn, turned)
        turned.wait(TURN_SECONDS)

    def worked(self) -> None:
        with self._lock:
            self._faults = 0

    def takes(self) -> bool:
        return self._there and time.monotonic() >= self._rests_until

    def _consumes(self) -> bool:
        # What Celery consumes, or will when it is connected again.
        return {*self._queues} <= {*self._consumer.app.amqp.queues.consume_from}

    def _turn(self, turned: threading.Event | None = None) -> None:
        """In the worker's own thread. A broker that is away: the connection's next start reads the same selection."""
        takes = self.takes()
        if self._consumer.blueprint.state == RUN and takes != self._consumes():
            if takes:
                log.warning("work is taken again")
            elif not self._there:
                marker = config.share_marker()
                log.warning("the shared disk is gone, %s can't be read: no work is taken until it is", marker)
            for name in self._queues:
                (self._consumer.add_task_queue if takes else self._consumer.cancel_task_queue)(name)
        if turned is not None:
            turned.set()


_running: list[Intake] = []


def start(consumer: Any) -> None:
    """Keep an eye on the intake of a worker that serves work queues. consumer: Celery's, which is running."""
    if queues := [name for name in config.QUEUES if name in consumer.app.amqp.queues.consume_from]:
        _running.append(Intake(consumer, queues))
        threading.Thread(target=_running[-1].watch, daemon=True, name="intake").start()


def rest(why: str) -> None:
    """Take nothing for a while, after a fault of this runner's own and before its retry can be in the queue."""
    for intake in _running:
        intake.rest(why)


def worked() -> None:
    """Something came to its end on this runner: the next rest is a short one."""
    for intake in _running:
        intake.worked()
