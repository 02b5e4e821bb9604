"""Why a fold waits, for how long, and who could run it."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from django.db.models import Q
from django.utils import timezone

from runapp.models import RawData, Runner, SubmissionFold

SAMPLE = 100
"""Folds that ended last, whose durations an estimate is made of."""


def waiting_folds() -> Any:
    """Queued and not begun. A runner may hold the messages of some, one a slot and queue: they wait all the same."""
    return SubmissionFold.objects.filter(
        state=SubmissionFold.State.TODO, started_at__isnull=True, queued_at__isnull=False
    )


def explain(pk: int) -> dict[str, Any] | None:
    """What the fold is waiting for; None where there is no such fold.

    state: in words. position: in its queue, from 1, and ahead: how many come first; None for a fold that does not
    wait there. runners: those of its queue, or of the queue of splits where it waits for one. estimate: seconds until
    it begins, or None and estimate_reason.
    """
    fold = (
        SubmissionFold.objects.select_related("databoard_s__raw_data")
        .only(
            "state",
            "error_reason",
            "priority",
            "runner",
            "queued_at",
            "started_at",
            "deadline",
            "databoard_s__raw_data__split_state",
        )
        .filter(pk=pk)
        .first()
    )
    if fold is None:
        return None
    data_set = fold.databoard_s.raw_data if fold.databoard_s else None
    splitting = fold.queued_at is None and data_set is not None and data_set.split_state != RawData.Split.DONE
    queue = "celery" if splitting else fold.priority
    serving = [runner for runner in Runner.objects.all() if queue in runner.configured]
    ahead = estimate = None
    if fold.state not in fold.OPEN:
        state = reason = f"ended: {fold.state}" + (f" ({fold.error_reason})" if fold.error_reason else "")
    elif fold.started_at is not None:
        state = _running(fold, serving)
        reason = "it has begun"
    elif splitting:
        assert data_set is not None
        state = f"waits for the split of data set {data_set.pk}{_but(serving, queue)}"
        reason = "the split has to end first"
    elif fold.queued_at is None:
        state = "not in the queue yet: the broker is away, or was; the master sends it again within minutes"
        reason = "it is not in its queue"
    else:
        earlier = Q(queued_at__lt=fold.queued_at) | Q(queued_at=fold.queued_at, databoard_sf_id__lt=fold.pk)
        # The first term says nothing new: it lets the database begin and end in the index.
        ahead = waiting_folds().filter(earlier, priority=queue, queued_at__lte=fold.queued_at).count()
        state = f"waiting: {_ordinal(ahead + 1)} in queue {queue}{_but(serving, queue)}"
        estimate, reason = _estimate(queue, ahead, serving)
    return {
        "databoard_sf_id": pk,
        "state": state,
        "position": None if ahead is None else ahead + 1,
        "ahead": ahead,
        "runners": serving,
        "estimate": estimate,
        "estimate_reason": reason,
    }


def _running(fold: SubmissionFold, runners: Iterable[Runner]) -> str:
    assert fold.started_at is not None
    text = f"runs on {fold.runner} since {_moment(fold.started_at)}"
    if fold.deadline is None:
        return text
    if fold.deadline < timezone.now():
        text += f", and should have ended by {_moment(fold.deadline)}"
        return f"{text}: it is tried again once a runner has been up for a minute"
    text += f", ends by {_moment(fold.deadline)} at the latest"
    for runner in runners:
        if runner.name == fold.runner and runner.state in ("silent", "stopped"):
            return f"{text}; but its runner is {_state(runner)}, and then it is tried again"
    return text


def _but(runners: list[Runner], queue: str) -> str:
    """What keeps the queue from moving, if anything does."""
    if any(runner.state == "up" for runner in runners):
        return ""
    if not runners:
        return f", but no runner serves {queue}"
    said = ", ".join(f"{runner.name} is {_state(runner)}" for runner in runners[:3])
    more = f" and {len(runners) - 3} more are not up either" if len(runners) > 3 else ""
    return f", but no runner that serves {queue} is up: {said}{more}"


def _state(runner: Runner) -> str:
    words = {"silent": f"silent since {_moment(runner.heartbeat_at)}", "no share": "without the shared disk"}
    return words.get(runner.state, runner.state)


def _estimate(queue: str, ahead: int, runners: list[Runner]) -> tuple[float | None, str]:
    """Seconds until a fold begins that has so many ahead of it, as if its runners served no other queue."""
    up = [runner for runner in runners if runner.state == "up"]
    slots = sum(runner.slots for runner in up)
    if not slots:
        return None, f"no runner that serves {queue} is up"
    ended = SubmissionFold.objects.filter(priority=queue, finished_at__isnull=False, started_at__isnull=False)
    last: Any = ended.order_by("-finished_at").values_list("started_at", "finished_at")[:SAMPLE]
    durations = [max((finished - started).total_seconds(), 0.0) for started, finished in last]
    if not durations:
        return None, f"no fold of priority {queue} has run yet"
    free = sum(max(runner.slots - len(runner.busy), 0) for runner in up)
    mean = sum(durations) / len(durations)
    # Once no slot is free one becomes so every mean / slots seconds.
    seconds = max(ahead - free + 1, 0) * mean / slots
    return round(seconds, 1), ""


def _ordinal(number: int) -> str:
    """1st, 2nd, 3rd, 4th, 11th, 21st."""
    last = 0 if 10 <= number % 100 <= 20 else number % 10
    return f"{number}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(last, 'th') }"


def _moment(when: datetime) -> str:
    return f"{when.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
