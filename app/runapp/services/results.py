"""What runners report: written once, for the task that a fold waits for."""

import logging
from datetime import UTC, datetime
from typing import Any

from runapp import storage
from runapp.models import PAYLOADS, Attempt, SubmissionFold
from runapp.services import attempts
from runner import payloads
from runner.jobs import Reason

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
RESULT_FIELDS = ("log_messages", "error_reason", *MEASURES, "full_train_predictions", "test_predictions")


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

    A fault of the infrastructure is tried again, up to MAX_ATTEMPTS times in all.
    """
    pk, task_id = message["databoard_sf_id"], message["task_id"]
    results = {name: message[name] for name in RESULT_FIELDS if name in message}
    payload_texts = [results[name] for name in PAYLOADS if name in results]
    try:
        for text in payload_texts:
            payloads.check(text)
    except payloads.PayloadError as error:
        results |= {"error_reason": Reason.INFRASTRUCTURE, "log_messages": f"ERROR(test): {error}"}
    results["log_messages"] = storage.clean_text(results["log_messages"])
    run = {name: _time(message[name]) for name in ("started_at", "finished_at")} | {"runner": message["runner"]}
    if failed := results["error_reason"] == Reason.INFRASTRUCTURE:
        attempt = Attempt(outcome=results["error_reason"], text=results["log_messages"], **run)
        measures = {name: results[name] for name in results if name in MEASURES}
        accepted = attempts.fail(pk, task_id, attempt, measures)
    else:
        # Who asked for the fold while it ran has seen no predictions: they are new.
        changes = {"state": message["state"], "deadline": None, "new": True} | run | results
        accepted = SubmissionFold(pk=pk).finish(task_id, **changes)
    if not accepted:
        log.info("fold %s: the result of task %s is not awaited", pk, task_id)
    if failed or not accepted:
        # The same message delivered twice names the files that the fold now has.
        kept = SubmissionFold.objects.filter(pk=pk).values_list(*PAYLOADS).first() or ()
        storage.delete_payloads([text for text in payload_texts if text not in kept])
    return accepted


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
