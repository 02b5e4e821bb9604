"""Tell the master that this runner is there, what it serves and what it does: at its start, every PERIOD, at its end.

It has a thread and a connection of its own, and each step a bound: no fold waits for it, nor does the worker.
"""

import threading
import time
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from queue import Empty, SimpleQueue
from typing import Any

from celery.signals import task_postrun, task_prerun, worker_shutdown, worker_shutting_down
from celery.utils.log import get_task_logger
from kombu.exceptions import OperationalError

from runner import config, packages, share

log = get_task_logger(__name__)

PERIOD = 10.0
"""Seconds between two reports."""

EXPIRES = 30.0
"""Seconds after which the broker drops a report that nobody took: a master that was away is not flooded.

The broker counts them. Celery's `expires` is a moment of the runner's clock: the master would throw away all reports
of a runner whose clock is wrong.
"""

TIMEOUT = 5.0
"""Seconds that a broker may take to answer."""

LAST_WORD = 2.0
"""Seconds that a worker which ends waits for its last report."""

WORK = {
    "runapp.tasks.train_test_submission_fold": "databoard_sf_id",
    "runapp.tasks.prepare_data": "raw_data_id",
    "runapp.tasks.custom_prepare_data": "raw_data_id",
}
"""The tasks that take a slot, and what names their subject in the message."""

busy: dict[int, dict[str, Any]] = {}  # by the thread that runs it: a message may come twice


class Heartbeat:
    """The reports of one worker. consumer: Celery's, which is running."""

    def __init__(self, consumer: Any, queues: list[str]) -> None:
        self._app, self._name, self._configured = consumer.app, consumer.hostname, queues
        self._started = time.time()
        self._number = 0
        self._state = "up"
        self._share = True
        # Unlike an Event, it may be told something in the handler of a signal.
        self._news: SimpleQueue[str] = SimpleQueue()
        self._connection: Any = None
        self._thread = threading.Thread(target=self._run, daemon=True, name="heartbeat")

    def start(self) -> None:
        self._thread.start()

    def say(self, state: str) -> None:
        """Report it now."""
        self._news.put(state)

    def end(self) -> None:
        """Report that the worker has ended in order, within LAST_WORD."""
        self.say("stopped")
        self._thread.join(LAST_WORD)

    def _run(self) -> None:
        while True:
            try:
                self._send()
            except (OperationalError, OSError) as error:
                log.debug("not reported, the broker is away: %s", error)
                self._disconnect()
            except Exception as error:
                log.warning("not reported: %r", error)
                self._disconnect()
            if self._state == "stopped":
                return self._disconnect()
            with suppress(Empty):
                self._state = self._news.get(timeout=PERIOD)

    def _send(self) -> None:
        if self._connection is None:
            bounds = {"read_timeout": TIMEOUT, "write_timeout": TIMEOUT} if config.has_broker() else {}
            self._connection = self._app.connection_for_write(transport_options=bounds)
        self._connection.ensure_connection(max_retries=0)  # where Celery would try for ever
        self._app.send_task(
            "runapp.tasks.save_runner",
            [self._report()],
            producer=self._app.amqp.Producer(self._connection.default_channel, auto_declare=False),
            retry=False,
            confirm_timeout=TIMEOUT,
            expiration=EXPIRES,
            ignore_result=True,
            argsrepr=self._name,
        )

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(Exception):
                connection.release()

    def _report(self) -> dict[str, Any]:
        if self._state != "stopped":  # whose time is short, and a look at a disk that hangs takes seconds
            self._share = share.is_there()
        self._number += 1
        consumed = self._app.amqp.queues.consume_from if self._state == "up" else ()
        limits = config.limits()
        return {
            "name": self._name,
            "state": self._state,
            "started_at": self._started,
            "number": self._number,
            "queues": [name for name in self._configured if name in consumed],
            "configured": self._configured,
            "slots": config.slots(),
            "busy": list(busy.values()),
            "soft_time_limit": limits.soft_time,
            "hard_time_limit": limits.hard_time,
            "version": _version(),
            "share": self._share,
            "packages": packages.installed(),  # in each report, as any may be lost: it is small
        }


running: list[Heartbeat] = []


def start(consumer: Any) -> None:
    """Report a worker that serves work queues until it ends. consumer: Celery's, which is running."""
    if queues := [name for name in config.QUEUES if name in consumer.app.amqp.queues.consume_from]:
        running.append(Heartbeat(consumer, queues))
        running[-1].start()


@worker_shutting_down.connect
def _stopping(**_: Any) -> None:
    for heartbeat in running:
        heartbeat.say("stopping")


@worker_shutdown.connect
def _stopped(**_: Any) -> None:
    while running:
        running.pop().end()


@task_prerun.connect
def _begin(task: Any, args: Any, **_: Any) -> None:
    if key := WORK.get(task.name):
        subject = dict.fromkeys(("databoard_sf_id", "raw_data_id")) | {key: args[0][key]}
        busy[threading.get_ident()] = subject | {"since": time.time()}


@task_postrun.connect
def _end(**_: Any) -> None:
    busy.pop(threading.get_ident(), None)


def _version() -> str:
    try:
        return version("datarun")
    except PackageNotFoundError:  # a checkout that is not installed
        return ""
