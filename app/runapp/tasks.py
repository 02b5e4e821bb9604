"""Celery entry points: fetch, call, nothing more. The runners' tasks are here under their documented names."""

import time
from collections.abc import Callable
from typing import Any

from celery import Task, current_app, shared_task
from celery.exceptions import Reject
from celery.utils.log import get_task_logger
from celery.worker import state
from django.db import InterfaceError, OperationalError, connection

from runapp import messages, services
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
"""Seconds between two tries of a message that has to wait. All such messages wait at the same time."""

HOLD = 60.0
"""How long one waits for its fold's runner to go: longer than a runner that is gone counts as there (Runner.SILENT)."""


@shared_task(bind=True, ignore_result=True, Strategy="runapp.batches:Strategy")  # type: ignore[call-overload] # not its
def save_fold(self: Task, message: dict[str, Any]) -> None:
    """Write a fold's result to the database, where it is not written with others (runapp.batches)."""
    _take(self, message, services.finish)


@shared_task(bind=True, ignore_result=True)
def save_progress(self: Task, message: dict[str, Any]) -> None:
    """Write to the database how far a fold is."""
    _take(self, message, services.advance)


@shared_task(bind=True, ignore_result=True)
def save_split(self: Task, message: dict[str, Any]) -> None:
    """Write a split's result to the database, and start the folds that waited for it."""
    _take(self, message, services.finish_split)


@shared_task(bind=True, ignore_result=True)
def save_runner(self: Task, message: dict[str, Any]) -> None:
    """Write to the database what a runner reports of itself; while that is away it is dropped, for another comes."""
    if (report := _checked(self, message)) is None:
        return
    try:
        services.save_runner(report)
    except (OperationalError, InterfaceError):
        connection.close()


@shared_task(bind=True, ignore_result=True)
def save_lost(self: Task, message: dict[str, Any]) -> None:
    """Count an attempt that ended with its runner."""
    _take(self, message, services.lost_split if "raw_data_id" in message else services.lost)


@shared_task(bind=True, ignore_result=True)
def save_returned(self: Task, message: dict[str, Any]) -> None:
    """Send a task anew whose message came back to its queue too often."""
    _take(self, message, services.send_anew)


@shared_task(bind=True, ignore_result=True)
def mend(self: Task) -> None:
    """Find what went missing and send it again."""
    if messages.is_runner(sender := _sender(self)):
        log.error("%r may not ask for what went missing to be sent again", sender)
        return
    services.mend()


def _take(task: Task, message: dict[str, Any], work: Callable[[dict[str, Any]], Any]) -> None:
    """Have a service take in what a runner says, if it is as it should be and its sender may say it."""
    if (checked := _checked(task, message)) is None:
        return
    try:
        _with_database(services.check_holder, checked)
        _with_database(work, checked)
    except services.Elsewhere as error:
        _wait_for_holder(task, checked, error)
    except payloads.UnreadableError as error:
        _wait_for_share(task, checked, error)


def _checked(task: Task, message: dict[str, Any]) -> dict[str, Any] | None:
    """None for a message that is refused: it is logged and acknowledged, so that it does not come again."""
    sender = _sender(task)
    try:
        return messages.check(task.name.rpartition(".")[2], message, sender)
    except messages.Refused as why:
        log.error("a message of %r is refused: %s %s", sender, task.name, why)
        return None


def _sender(task: Task) -> str | None:
    request: Any = task.request
    return messages.OURS if request.called_directly else messages.sender_of(request.properties)


def _wait_for_holder(task: Task, message: dict[str, Any], why: Exception) -> None:
    """Put news of a fold back for as long as it takes to know that the runner which had it is gone.

    If that runner goes on, its own result counts.
    """
    now = time.time()
    since = message.setdefault("held_since", now)
    if abs(now - since) > HOLD:
        log.warning("fold %s: news from %s do not count: %s", message["databoard_sf_id"], message["runner"], why)
        return
    _send_later(task, message, why)


def _wait_for_share(task: Task, message: dict[str, Any], why: Exception) -> None:
    """Put a result back while the shared disk does not give its predictions."""
    again = _with_database(services.wait_for_share, message)
    if again is not None:
        _send_later(task, again, why)


def _send_later(task: Task, message: dict[str, Any], why: Exception) -> None:
    """Put a message behind the others in its queue, as a new one: RabbitMQ drops what was rejected too often."""
    time.sleep(min(max(message.get("put_back_at", 0.0) + PAUSE - time.time(), 0.0), PAUSE))
    again = message | {"put_back_at": time.time()}
    log.warning("fold %s: %s waits: %s", message["databoard_sf_id"], task.name.rpartition(".")[2], why)
    shown = f"task {message['task_id']}"
    try:
        current_app.send_task(task.name, [again], ignore_result=True, argsrepr=shown)
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
