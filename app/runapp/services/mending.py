"""The periodic look for what went missing."""

import logging
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import F, Q
from django.utils import timezone

from runapp.models import GRACE, PAYLOADS, RawData, Runner, SubmissionFold
from runapp.services import attempts
from runapp.services.data_sets import end_unsplit, give_up_split
from runapp.services.queueing import empty_queues, open_folds, publish, publish_split, ready_folds
from runapp.services.runners import caught_up, forget_runners
from runapp.services.waiting import SAMPLE
from runner import config

log = logging.getLogger(__name__)

PATIENCE = timedelta(seconds=30)
"""How long something may be on its way before the periodic task takes care of it."""


def mend() -> int:
    """Find what went missing and send it again; returns how many. Safe to run at any time, and twice at once.

    Says in one line a fold, or split, what it did.

    1. Folds that came at the moment when the split of their data set failed.
    2. Splits and folds that were never queued (the broker was away).
    3. Splits and folds that should have ended: the broker lost them, or their runner is gone. The attempt counts, and
       is kept. They may only be late: this waits until the master has caught up with its runners.
    Runners that have not been heard for a week are forgotten.
    """
    forget_runners()
    late = timezone.now() - PATIENCE
    mended = end_unsplit(late)
    certain = caught_up()
    empty = empty_queues() if certain else set()
    mended += _mend_splits(Q(split_queued_at=None, split_asked_at__lt=late))
    unqueued = Q(queued_at=None, started_at=None, created_at__lt=late)
    for pk in list(ready_folds().filter(unqueued).values_list("pk", flat=True)):
        # Of two that mend at once, one waits, and sees then that there is nothing left to do. Whoever is killed
        # before the end of the transaction leaves the fold as it was.
        with transaction.atomic():
            fold = ready_folds().select_for_update(of=("self",)).filter(unqueued, pk=pk).first()
            if fold is None:
                continue
            if not publish([fold]):
                return mended
        log.warning("fold %s is sent again: task %s had never been queued", fold.pk, fold.task_id)
        mended += 1
    if certain:
        mended += _mend_lost(empty)
    return mended


def _mend_lost(empty: set[str]) -> int:
    """empty: the queues in which no message waits."""
    now = timezone.now()
    runners = list(Runner.objects.all())
    hard = timedelta(seconds=max([config.limits().hard_time, *(runner.hard_time_limit for runner in runners)]))
    # A runner fetches a message for each slot and queue: one may stand behind those of the other queues.
    held = len(config.QUEUES) * hard + GRACE
    busy = [slot for runner in runners if runner.state in ("up", "stopping", "no share") for slot in runner.busy]
    mended = 0
    if "celery" in empty:
        running = [slot["raw_data_id"] for slot in busy if slot["raw_data_id"]]
        mended += _mend_splits(Q(split_queued_at__lt=now - PATIENCE - held - hard) & ~Q(pk__in=running))
    # A fold whose message has left its queue is to be reported, or it is lost, as one whose result does not come.
    running = [slot["databoard_sf_id"] for slot in busy if slot["databoard_sf_id"]]
    left = Q(priority__in=empty, queued_at__lt=now - PATIENCE)
    for priority in SubmissionFold.Priority.values:
        if passed := _passed(priority):
            left |= Q(priority=priority, queued_at__lt=passed - PATIENCE)
    taken = left & Q(started_at=None) & ~Q(pk__in=running)
    open_folds().filter(taken, deadline=None).update(deadline=now + held)
    begun = Q(started_at__isnull=False)
    for fold in open_folds().filter(begun | taken, deadline__lt=now).defer(*PAYLOADS, "log_messages"):
        mended += attempts.overdue(fold, now)
    return mended


def _passed(priority: str) -> datetime | None:
    """When the last one was queued of those that ended last: what was queued before it has left the queue too.

    Of first attempts: others may have come back to the head of their queue.
    """
    ended = SubmissionFold.objects.filter(priority=priority, finished_at__isnull=False, started_at__isnull=False)
    last = ended.order_by("-finished_at").values_list("attempts", "queued_at")[:SAMPLE]
    return max((queued_at for attempts, queued_at in last if attempts == 1 and queued_at), default=None)


def _mend_splits(lost: Q) -> int:
    return sum(
        _mend_split(raw_data, lost) for raw_data in RawData.objects.filter(lost, split_state=RawData.Split.QUEUED)
    )


def _mend_split(raw_data: RawData, lost: Q) -> bool:
    pk, task_id = raw_data.pk, raw_data.split_task_id
    with transaction.atomic():
        waiting = RawData.objects.filter(lost, pk=pk, split_task_id=task_id, split_state=RawData.Split.QUEUED)
        seen = waiting.select_for_update().first()
        if seen is None:
            return False
        if seen.split_queued_at is None:
            if sent := publish_split(pk):
                log.warning("data set %s is split: task %s had never been queued", pk, task_id)
            return sent
        if seen.try_split_again(task_id):
            log.warning("data set %s is split again: task %s was not in the queue", pk, task_id)
            return publish_split(pk)
    log.warning("data set %s is given up: no runner finished its split", pk)
    return give_up_split(raw_data)


def send_anew(message: dict[str, Any]) -> bool:
    """A new message for a task whose message came back to its queue too often; False where it is not awaited.

    A fold's first time counts no attempt: a message comes back from a runner that is stopped, or has lost its share,
    too. From then on each does, and each of a split, for it may end its runners before they can tell.
    """
    task_id = message["task_id"]
    if "raw_data_id" in message:
        splits = RawData.objects.filter(split_task_id=task_id, split_state=RawData.Split.QUEUED)
        raw_data = splits.filter(pk=message["raw_data_id"]).first()
        if raw_data is None:
            return False
        if not raw_data.try_split_again(task_id):
            log.warning("data set %s is given up: task %s came back again and again", raw_data.pk, task_id)
            return give_up_split(raw_data)
        log.warning("data set %s: task %s came back too often, sent anew", raw_data.pk, task_id)
        return publish_split(raw_data.pk)
    folds = open_folds().filter(pk=message["databoard_sf_id"], task_id=task_id)
    if not folds.update(queued_at=None, returns=F("returns") + 1):
        return False
    fold = folds.get()
    if fold.returns > 1:
        return attempts.returned(fold)
    log.warning("fold %s: task %s came back too often, sent anew", message["databoard_sf_id"], task_id)
    return bool(publish(folds))


def requeue_all() -> int:
    """Queue all that is open, where no worker runs and the queues are empty (the start of the embedded default)."""
    splits = RawData.objects.filter(split_state=RawData.Split.QUEUED).values_list("pk", flat=True)
    count = sum(publish_split(pk) for pk in splits)
    return count + publish(ready_folds().iterator(chunk_size=100))
