"""Whether what the master needs answers: each part is looked at for a bounded time, all at once."""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from amqp.exceptions import NotFound
from celery import current_app
from django.conf import settings
from django.core.cache import cache
from django.db import connection

from runner import config
from runner.look import Look

log = logging.getLogger(__name__)

PATIENCE = 2.0
"""Seconds after which a part that does not answer counts as away."""

OK = "ok"


class NotReady(Exception):
    """A part is not as it must be; the message says how, to anybody who asks."""


def look(name: str, read: Callable[[], None]) -> Look[str]:
    """At a part: what is said of it, `ok` or what is wrong."""

    def say() -> str:
        try:
            read()
        except NotReady as error:
            return str(error)
        except Exception as error:
            # Its text may name hosts and users: that is for the log.
            log.warning("not ready, %s: %s", name, error)
            return f"does not work ({type(error).__name__}): the server's log says more"
        return OK

    return Look(say)


def readiness() -> dict[str, str]:
    """database, broker, cache and share: `ok`, or what is wrong in words without secrets. Takes PATIENCE at most."""
    answers = {name: look.begin() for name, look in LOOKS.items()}
    return {name: _answer(answer) for name, answer in answers.items()}


def _answer(answer: Callable[[float], str]) -> str:
    try:
        return answer(PATIENCE)
    except TimeoutError:
        return f"no answer within {PATIENCE:g} s"


def _database() -> None:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    finally:
        connection.close()  # this thread's own


def _broker() -> None:
    broker: Any
    with current_app.connection_for_read() as broker:
        broker.ensure_connection(max_retries=0)
        for queue in (*config.QUEUES, config.MASTER_QUEUE):
            try:
                broker.default_channel.queue_declare(queue, passive=True)
            except NotFound:
                raise NotReady(f"has no queue {queue}: run manage.py declare_queues") from None


def _cache() -> None:
    cache.set("ready", OK, 10)
    if cache.get("ready") != OK:
        raise NotReady("does not keep what is stored")


def _share() -> None:
    marker = config.share_marker()
    if marker is not None and not marker.exists():
        raise NotReady("DATARUN_SHARE_MARKER is not there: is the disk mounted?")
    for name in ("DIR_DATA", "DIR_SUBMISSION"):
        folder: Path = getattr(settings, name)
        if folder.exists():
            with os.scandir(folder) as names:  # the first tells as much as all, which may be a hundred thousand
                next(names, None)
        else:  # made with the first data set or submission
            folder = next(parent for parent in folder.parents if parent.exists())
        if not os.access(folder, os.W_OK | os.X_OK):
            raise NotReady(f"{name} can't be written to: is the disk mounted?")


LOOKS = {
    name: look(name, read)
    for name, read in {"database": _database, "broker": _broker, "cache": _cache, "share": _share}.items()
}
