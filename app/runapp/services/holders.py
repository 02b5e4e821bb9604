"""Which runner has a fold: another one's word on it does not count."""

from datetime import datetime, timedelta
from typing import Any

from django.utils import timezone

from runapp.models import Runner, SubmissionFold

OVERTAKEN = timedelta(seconds=5)
"""A report that was made before a fold began may arrive so long after the news of its start (heartbeat.TIMEOUT)."""


class Elsewhere(Exception):
    """Another runner has the fold; the text says which."""


def check_holder(message: dict[str, Any]) -> None:
    """Raises Elsewhere if the message is about the awaited task of a fold that another runner has announced.

    A fold's runner is the one that has announced its start, as long as it is heard, and lists the fold as busy in the
    reports that came since. Folds that end within a fifth of a second are not announced: who has their message, and so
    knows the task, may answer.
    """
    if "databoard_sf_id" not in message or not message.get("runner"):
        return
    awaited = SubmissionFold.awaited(message["databoard_sf_id"], message["task_id"])
    others = awaited.exclude(runner__in=("", message["runner"])).values_list("runner", "reported_at")
    for runner, reported_at in others:
        if _has(runner, message["databoard_sf_id"], reported_at):
            raise Elsewhere(f"{runner} has the fold")


def _has(name: str, pk: int, reported_at: datetime | None) -> bool:
    runner = Runner.objects.filter(pk=name).first()
    heard = max([when for when in (reported_at, runner and runner.heartbeat_at) if when], default=None)
    if heard is None or abs(timezone.now() - heard) > Runner.SILENT:
        return False
    if runner is None or (reported_at and runner.heartbeat_at <= reported_at + OVERTAKEN):
        return True
    return runner.said != Runner.Said.STOPPED and any(slot["databoard_sf_id"] == pk for slot in runner.busy)
