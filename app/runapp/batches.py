"""Results are written as many at a time as have arrived: in one transaction, each acknowledged after its commit."""

import threading
from itertools import compress
from operator import not_
from typing import Any

from celery.utils.log import get_task_logger
from celery.worker.strategy import default
from django.db import close_old_connections

from runapp import messages, services

log = get_task_logger(__name__)

MOST = 64
"""Messages that the broker hands out before the first is acknowledged: each may have two megabytes."""


class Strategy:
    """What the master's worker does with the messages of `save_fold` (celery.worker.strategy has the interface).

    While one batch is written, the next one gathers. A message that can't be written with the others, because it is a
    fault of the infrastructure, not awaited, or makes the transaction fail, is then a task of its own.
    """

    def __init__(self, task: Any, app: Any, consumer: Any, **_: Any) -> None:
        self._consumer, self._alone = consumer, default(task, app, consumer)
        self._lock = threading.Lock()
        self._waiting: list[tuple[Any, tuple[Any, ...]]] = []

    def __call__(self, message: Any, *how: Any) -> None:
        """how: body, ack, reject and callbacks."""
        try:
            [content] = message.payload["args"]  # as runner.received has left it
            content = messages.check("save_fold", content, messages.sender_of(message.properties))
        except ValueError:  # the task refuses it, and says why
            self._alone(message, *how)
            return
        with self._lock:
            self._waiting.append((content, (message, *how)))
            first = len(self._waiting) == 1
        if first:
            self._consumer.pool.apply_async(self._write, callback=lambda _: None)

    def _write(self) -> None:
        with self._lock:
            batch, self._waiting = self._waiting, []
        close_old_connections()
        try:
            written = services.finish_many([content for content, _ in batch])
        except Exception as error:
            log.warning("%d results are written one by one: %r", len(batch), error)
            written = [False] * len(batch)
        handlers = [how for _, how in batch]
        for _, _, ack, *_ in compress(handlers, written):
            ack(log, self._consumer.connection_errors)
        for how in compress(handlers, map(not_, written)):
            self._alone(*how)
