"""What runners report: written once, for the task that a fold waits for."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import transaction
from django.utils import timezone

from runapp import storage
from runapp.models import PAYLOADS, Attempt, Call, SubmissionFold
from runapp.services import attempts
from runner import payloads
from runner.jobs import Reason
from runner.look import Look

log = logging.getLogger(__name__)

MEASURES = (
    "train_time",
    "validation_time",
    "test_time",
    "train_cpu_time",
    "test_cpu_time",
    "train_memory",
    "test_memory",
)
PREDICTIONS = ("full_train_predictions", "test_predictions")
SHAPES = tuple(f"{name}_shape" for name in PREDICTIONS)

MAX_UNREAD = 300
"""How often a result is tried whose predictions can't be read although the shared disk is there."""

UNREAD_DEADLINE = timedelta(hours=1)
"""How long the fold of such a result is waited for after each try."""

READ_SECONDS = 10.0
"""How long a result waits for the shared disk to give its predictions, before others are taken in. Reading goes on."""

_answers: dict[str, Callable[[float], None]] = {}
"""Payload file -> the look at it that has begun."""

RESULT_FIELDS = ("log_messages", "error_reason", *MEASURES, *PREDICTIONS, *SHAPES)


def advance(message: dict[str, Any]) -> bool:
    """Record how far a fold is that still runs."""
    measures = {name: message[name] for name in RESULT_FIELDS if name in message}
    return SubmissionFold(pk=message["databoard_sf_id"]).advance(
        message["task_id"],
        message["state"],
        _time(message["started_at"]),
        message["hard_time_limit"],
        runner=message["runner"],
        **measures,
    )


def finish(message: dict[str, Any]) -> bool:
    """Take in a fold's result, once and for the task that the fold waits for; False for any other.

    A fault of the infrastructure is tried again, up to MAX_ATTEMPTS times in all. Raises payloads.UnreadableError
    while the shared disk does not give the predictions: `wait_for_share` says what becomes of the result.
    """
    pk, task_id = message["databoard_sf_id"], message["task_id"]
    changes = _changes(message)
    if failed := changes["error_reason"] == Reason.INFRASTRUCTURE:
        run = {name: changes[name] for name in ("runner", "started_at", "finished_at")}
        attempt = Attempt(outcome=changes["error_reason"], text=changes["log_messages"], **run)
        measures = {name: changes[name] for name in changes if name in MEASURES}
        accepted = attempts.fail(pk, task_id, attempt, measures)
    else:
        accepted = SubmissionFold(pk=pk).finish(task_id, **changes)
    if not accepted:
        log.info("fold %s: the result of task %s is not awaited", pk, task_id)
    if failed or not accepted:
        # The same message delivered twice names the files that the fold now has.
        kept = {
            payloads.file_name(text)
            for text in SubmissionFold.objects.filter(pk=pk).values_list(*PAYLOADS).first() or ()
        }
        storage.delete_payloads([text for text in _files(message) if payloads.file_name(text) not in kept])
    return accepted


def finish_many(messages: list[dict[str, Any]]) -> list[bool]:
    """Take in results in one transaction, those that are awaited verdicts; the others are left for `finish`.

    So are those of a fold that another runner has announced. Returns which were taken in. An exception means none.
    """
    for message in messages:  # side by side: a disk that hangs costs the batch READ_SECONDS once
        for text in _files(message):
            _begin(text)
    verdicts = [(message["databoard_sf_id"], message["task_id"], _readable_changes(message)) for message in messages]
    folds = SubmissionFold.objects.filter(pk__in=[pk for pk, _, changes in verdicts if changes])
    with transaction.atomic():
        free = {pk for pk, _, _ in verdicts}
        if len(verdicts) > 1:  # who waits for one row while it holds others may lock up with a request
            free = set(folds.select_for_update(skip_locked=True, no_key=True).values_list("pk", flat=True))
        taken = [
            pk in free
            and changes is not None
            and changes["error_reason"] != Reason.INFRASTRUCTURE
            and SubmissionFold.awaited(pk, task_id).filter(runner__in=("", changes["runner"])).update(**changes) == 1
            for pk, task_id, changes in verdicts
        ]
        Call.record(folds.filter(pk__in=[pk for (pk, _, _), ended in zip(verdicts, taken, strict=True) if ended]))
    return taken


def wait_for_share(message: dict[str, Any]) -> dict[str, Any] | None:
    """The message to be sent again while the shared disk does not give the predictions that it names.

    The fold does not count as lost meanwhile. None if it no longer awaits this result.
    """
    awaited = SubmissionFold.awaited(message["databoard_sf_id"], message["task_id"])
    if not awaited.update(deadline=timezone.now() + UNREAD_DEADLINE):
        return None
    return message | {"unread": message.get("unread", 0) + payloads.disk_is_there()}


def _readable_changes(message: dict[str, Any]) -> dict[str, Any] | None:
    try:
        return _changes(message)
    except payloads.UnreadableError:
        return None


def _changes(message: dict[str, Any]) -> dict[str, Any]:
    """A fold's columns after its end; a fault of the infrastructure where a file that the message names is damaged."""
    results = {name: message[name] for name in RESULT_FIELDS if name in message}
    try:
        for text in _files(message):
            _check_in_time(text)
    except payloads.PayloadError as error:
        if isinstance(error, payloads.UnreadableError) and message.get("unread", 0) < MAX_UNREAD:
            raise
        results |= {"error_reason": Reason.INFRASTRUCTURE, "log_messages": f"ERROR(test): {error}"}
    results["log_messages"] = storage.clean_text(results["log_messages"])
    run = {name: _time(message[name]) for name in ("started_at", "finished_at")} | {"runner": message["runner"]}
    # Who asked for the fold while it ran has seen no predictions: they are new.
    return {"state": message["state"], "deadline": None, "new": True} | run | results


def _files(message: dict[str, Any]) -> list[str]:
    """The payload files that a result names."""
    texts = [message.get(name, "") for name in PREDICTIONS]
    return [text for text in texts if payloads.is_file(text)]


def _begin(text: str) -> Callable[[float], None]:
    """Begin to check a payload file, if that has not begun."""
    if text not in _answers:
        _answers[text] = Look(lambda: payloads.check(text)).begin()
    return _answers[text]


def _check_in_time(text: str) -> None:
    """payloads.check, for READ_SECONDS: a disk that hangs must not hold up the results of other folds."""
    try:
        _begin(text)(READ_SECONDS)
    except TimeoutError:  # the next check of this file waits for the same reading
        raise payloads.UnreadableError(f"the shared disk does not give a file within {READ_SECONDS:g} s") from None
    except BaseException:
        _answers.pop(text, None)
        raise
    _answers.pop(text, None)


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
