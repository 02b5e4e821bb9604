"""Celery entry points: fetch, call, nothing more. The runners' tasks are here under their documented names."""

import time
from collections.abc import Callable
from typing import Any

from celery import current_app, shared_task
from celery.exceptions import Reject
from celery.utils.log import get_task_logger
from celery.worker import state
from django.db import InterfaceError, OperationalError, connection

from runapp import services
from runner import payloads
from runner.tasks import custom_prepare_data, prepare_data, train_test_submission_fold

__all__ = [
    "custom_prepare_data",
    "mend",
    "prepare_data",
    "save_fold",
    "save_lost",
    "save_progress",
    "save_returned",
    "save_runner",
    "save_split",
    "train_test_submission_fold",
]

log = get_task_logger(__name__)

PAUSE = 1.0
"""Seconds between two tries of a result whose predictions can't be read. All such results wait at the same time."""


@shared_task(ignore_result=True, Strategy="runapp.batches:Strategy")  # type: ignore[call-overload] # not in its stubs
def save_fold(message: dict[str, Any]) -> None:
    """Write a fold's result to the database, where it is not written with others (runapp.batches)."""
    try:
        _with_database(services.finish, message)
    except payloads.UnreadableError as error:
        _send_later(message, error)


@shared_task(ignore_result=True)
def save_progress(message: dict[str, Any]) -> None:
    """Write to the database how far a fold is."""
    _with_database(services.advance, message)


@shared_task(ignore_result=True)
def save_split(message: dict[str, Any]) -> None:
    """Write a split's result to the database, and start the folds that waited for it."""
    _with_database(services.finish_split, message)


@shared_task(ignore_result=True)
def save_runner(message: dict[str, Any]) -> None:
    """Write to the database what a runner reports of itself; while that is away it is dropped, for another comes."""
    try:
        services.save_runner(message)
    except (OperationalError, InterfaceError):
        connection.close()


@shared_task(ignore_result=True)
def save_lost(message: dict[str, Any]) -> None:
    """Count an attempt that ended with its runner."""
    _with_database(services.lost_split if "raw_data_id" in message else services.lost, message)


@shared_task(ignore_result=True)
def save_returned(message: dict[str, Any]) -> None:
    """Send a task anew whose message came back to its queue too often."""
    _with_database(services.send_anew, message)


@shared_task(ignore_result=True)
def mend() -> None:
    """Find what went missing and send it again."""
    services.mend()


def _send_later(message: dict[str, Any], why: Exception) -> None:
    """Put a result behind the others in their queue while the shared disk does not give its predictions.

    It is sent as a new message, because RabbitMQ drops a message that was rejected too often.
    """
    time.sleep(min(max(message.get("put_back_at", 0.0) + PAUSE - time.time(), 0.0), PAUSE))
    again = _with_database(services.wait_for_share, message)
    if again is None:
        return
    again["put_back_at"] = time.time()
    log.warning("fold %s: its result waits: %s", message["databoard_sf_id"], why)
    try:
        shown = f"task {message['task_id']}"
        current_app.send_task("runapp.tasks.save_fold", [again], ignore_result=True, argsrepr=shown)
    except Exception as error:  # the broker is away
        raise Reject(error, requeue=True) from error


def _with_database(work: Callable[[dict[str, Any]], Any], message: dict[str, Any]) -> Any:
    """While the database is away a result waits here, and goes back to its queue where the worker is to stop.

    Given back each second it would come to the limit of deliveries that RabbitMQ has by default, and be gone.
    """
    while True:
        try:
            return work(message)
        except (OperationalError, InterfaceError) as error:
            connection.close()
            worker: Any = state  # its stubs know of nothing but None
            if worker.should_stop is not None or worker.should_terminate is not None:
                raise Reject(error, requeue=True) from error
            time.sleep(1)
