"""Attempts of a fold: counted, kept where they failed, and bounded by MAX_ATTEMPTS, whatever failed them."""

import logging
import uuid
from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import F
from django.utils import timezone

from runapp.models import Attempt, SubmissionFold
from runapp.services.queueing import open_folds, publish
from runner import revoked
from runner.jobs import Reason

log = logging.getLogger(__name__)

HISTORY_FIELDS = ("number", "task_id", "runner", "started_at", "finished_at", "outcome", "text")


def fail(pk: int, task_id: str, attempt: Attempt, measures: dict[str, Any] | None = None, **conditions: Any) -> bool:
    """Keep an attempt that failed, and try the fold again under a new task; after MAX_ATTEMPTS it ends as ERROR.

    attempt: its runner, times, outcome and text. conditions: what the row must still hold. False, and nothing is done,
    where the fold does not wait for the task.
    """
    new_task_id = str(uuid.uuid4())
    with transaction.atomic():
        fold = _locked(pk=pk, task_id=task_id, state__in=SubmissionFold.OPEN, **conditions)
        if fold is None:
            return False
        again = fold.attempts < settings.MAX_ATTEMPTS
        _keep(attempt, fold, task_id)
        if again:
            fold.wait_again(task_id, task_id=new_task_id, attempts=F("attempts") + 1, queued_at=None)
        else:
            _give_up(fold, attempt, measures or {})
    _log(attempt, "is tried again" if again else "is given up")
    if again:
        publish(open_folds().filter(pk=pk, task_id=new_task_id))
    return True


def lost(message: dict[str, Any]) -> bool:
    """Count an attempt that ended with its runner; False where it is counted already, or of no task of this fold.

    The broker gives the message to another runner by itself: the task stays the same, until the attempts are used up.
    A report that comes after the verdict only adds to the history, and one of a run before the last attempt's nothing.
    """
    pk, task_id = message["databoard_sf_id"], message["task_id"]
    started_at = datetime.fromtimestamp(message["started_at"], UTC)
    run = {"runner": message["runner"], "started_at": started_at}
    attempt = Attempt(outcome=Attempt.LOST, finished_at=timezone.now(), text="ended with its runner", **run)
    with transaction.atomic():
        fold = _locked(pk=pk)
        if fold is None or not _is_news(fold, task_id, run):
            log.info("fold %s: the lost attempt of task %s is not awaited, or known", pk, task_id)
            return False
        open_, again = fold.state in SubmissionFold.OPEN, fold.attempts < settings.MAX_ATTEMPTS
        awaited = fold.task_id == task_id and (fold.started_at is None or _is_run(fold, run))
        if not again and not (open_ and awaited):
            return False
        _keep(attempt, fold, task_id)
        if not again:
            _give_up(fold, attempt, {})
        else:
            SubmissionFold.objects.filter(pk=pk).update(attempts=F("attempts") + 1)
            if awaited:
                fold.wait_again(task_id, queued_at=timezone.now())
    _log(attempt, "had ended before" if not open_ else "is run again" if again else "is given up")
    if open_ and not again:
        revoked.revoke(fold.task_id)
    return True


def overdue(fold: SubmissionFold, now: datetime) -> bool:
    """End an attempt that is silent past its deadline, as `fail` does."""
    text = "did not report within the hard limit and its grace"
    if fold.started_at is None:
        text = "left its queue, and no runner reported it"
    attempt = Attempt(outcome=Attempt.LOST, runner=fold.runner, started_at=fold.started_at, finished_at=now, text=text)
    if not fail(fold.pk, fold.task_id, attempt, deadline__lt=now):
        return False
    revoked.revoke(fold.task_id)  # its message may be in the queue again
    return True


def returned(fold: SubmissionFold) -> bool:
    """End an attempt whose message came back from runner after runner, as `fail` does."""
    text = "came back to its queue again and again"
    run = {"runner": fold.runner, "started_at": fold.started_at, "finished_at": timezone.now()}
    return fail(fold.pk, fold.task_id, Attempt(outcome=Attempt.LOST, text=text, **run))


def history(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The attempts that have ended, oldest first: those that failed, and the one that the fold's columns tell of.

    record: the fold's columns.
    """
    rows = list(Attempt.objects.filter(fold=record["databoard_sf_id"]).order_by("number").values(*HISTORY_FIELDS))
    kept = {row["number"] for row in rows}
    if record["started_at"] and record["finished_at"] and record["attempts"] not in kept:
        own = {name: record[name] for name in ("task_id", "runner", "started_at", "finished_at")}
        outcome = record["error_reason"] or "done"
        rows.append({"number": record["attempts"], **own, "outcome": outcome, "text": record["log_messages"]})
    return rows


def _locked(**conditions: Any) -> SubmissionFold | None:
    """The fold without its long columns, nobody else's until the transaction ends."""
    columns = ("attempts", "state", "task_id", "runner", "started_at")
    return SubmissionFold.objects.select_for_update().filter(**conditions).only(*columns).first()


def _is_news(fold: SubmissionFold, task_id: str, run: dict[str, Any]) -> bool:
    if fold.task_id == task_id and fold.state not in SubmissionFold.OPEN and _is_run(fold, run):
        return False  # its end was sent, and the runner ended before it forgot that it had begun
    kept = Attempt.objects.filter(fold=fold, task_id=task_id)
    return (fold.task_id == task_id or kept.exists()) and not kept.filter(**run).exists()


def _is_run(fold: SubmissionFold, run: dict[str, Any]) -> bool:
    return all(getattr(fold, name) == value for name, value in run.items())


def _keep(attempt: Attempt, fold: SubmissionFold, task_id: str) -> None:
    attempt.fold, attempt.number, attempt.task_id = fold, fold.attempts, task_id
    attempt.save(force_insert=True)


def _give_up(fold: SubmissionFold, last: Attempt, measures: dict[str, Any]) -> None:
    lines = [f"ERROR(train): the infrastructure failed this fold {fold.attempts} times."]
    for kept in Attempt.objects.filter(fold=fold).order_by("number"):
        began = f"{kept.started_at:%Y-%m-%d %H:%M:%S}" if kept.started_at else "at a time unknown"
        said = f" {kept.text}" if kept.outcome == Attempt.LOST else f" failed: {kept.text}"
        lines.append(f"attempt {kept.number} on {kept.runner} began {began} and{said}")
    fold.finish(
        fold.task_id,
        state=SubmissionFold.State.ERROR,
        error_reason=Reason.INFRASTRUCTURE,
        log_messages="\n".join(lines),
        runner=last.runner,
        started_at=last.started_at,
        finished_at=last.finished_at,
        deadline=None,
        new=True,
        **measures,
    )


def _log(attempt: Attempt, what_now: str) -> None:
    first = attempt.text.partition("\n")[0]
    log.warning(
        "fold %s %s: attempt %s on %s: %s", attempt.fold_id, what_now, attempt.number, attempt.runner or "?", first
    )
