"""Limits: what a user may have under way and stored, and what must be free on the disks for anything new."""

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from math import ceil
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.db import OperationalError
from django.db.models import Sum
from django.utils import timezone
from rest_framework.exceptions import APIException, Throttled

from runapp.models import RawData, Submission, SubmissionFold
from runner.look import Look

LOOK_SECONDS = 2.0
"""How long a disk may take to say how much is free: a network disk that hangs blocks who asks for minutes."""

REMEMBER_SECONDS = 1.0
"""How long it counts what a disk said, where nothing is to be written there: a look takes a thread."""

PACE = timedelta(minutes=10)
"""The time whose ended folds say how soon others will have."""

RETRY_UNKNOWN, RETRY_BYTES, RETRY_MAX = 60, 3600, 3600
"""Retry-After in seconds: where nothing ended in that time; where the user has to delete something; at most."""


class NoSpace(APIException):
    status_code = 507
    default_code = "no_space"


class DiskAway(APIException):
    status_code = 503
    default_code = "disk_away"


_disks: dict[Path, Look[int]] = {}
_said: dict[Path, tuple[float, int]] = {}
"""When a disk said how much is free, and how much."""


def check_space(writes: tuple[Path, ...] = ()) -> None:
    """Raise NoSpace where a disk is nearly full, DiskAway where one of `writes`, to be written to, does not answer.

    Nothing but rows is written for most folds: those are accepted while a disk is away.
    """
    if not settings.MIN_FREE_BYTES:
        return
    for name, path in _places().items():
        free = _free_in_time(path, path in writes)
        if free is None and path in writes:
            raise DiskAway(f"The disk of {name} does not answer; nothing is stored. Send it again when it is back.")
        if free is not None and free < settings.MIN_FREE_BYTES:
            raise NoSpace(
                f"The disk of {name} is nearly full: {free} bytes are free, and below {settings.MIN_FREE_BYTES} "
                "(DATARUN_MIN_FREE_BYTES) nothing new is accepted. What is there goes on; tell your operator."
            )


@contextmanager
def storing() -> Iterator[None]:
    """What fails for want of space is a 507; whoever stores takes back what was stored before."""
    try:
        yield
    except (OSError, OperationalError) as error:
        if not _is_full(error):
            raise
        raise NoSpace("A disk is full: nothing of this request is stored. Tell your operator.") from error


def check_folds(user: Any, count: int) -> None:
    """Raise Throttled where `count` new folds, stored in this transaction, are more than the user may have.

    Holds the user's row from here to the end of the transaction, so that requests at the same time see each other.
    """
    if not (settings.MAX_WAITING or settings.MAX_RUNNING):
        return
    _lock(user)
    folds = SubmissionFold.objects.filter(created_by=user, state__in=SubmissionFold.OPEN)
    if settings.MAX_WAITING and (waiting := folds.filter(started_at=None).count()) > settings.MAX_WAITING:
        raise Throttled(
            _seconds_until(user, waiting - settings.MAX_WAITING),
            f"You may have {settings.MAX_WAITING} folds waiting (DATARUN_MAX_WAITING); {waiting - count} wait, and "
            f"this request has {count}. Nothing of it is stored: send it again when enough of them have started.",
        )
    if settings.MAX_RUNNING and (running := folds.exclude(started_at=None).count()) >= settings.MAX_RUNNING:
        raise Throttled(
            _seconds_until(user, running - settings.MAX_RUNNING + 1),
            f"You may have {settings.MAX_RUNNING} folds running (DATARUN_MAX_RUNNING); {running} run. Nothing of this "
            "request is stored: send it again when one of them has ended.",
        )


def check_bytes(user: Any, new: int) -> None:
    """Raise Throttled where the `new` bytes, stored in this transaction, are more than the user may have. Locks too."""
    if not settings.MAX_BYTES:
        return
    _lock(user)
    total = sum(
        kind.objects.filter(created_by=user).aggregate(total=Sum("size"))["total"] or 0
        for kind in (RawData, Submission)
    )
    if total > settings.MAX_BYTES:
        raise Throttled(
            RETRY_BYTES,
            f"Your data sets and submissions may have {settings.MAX_BYTES} bytes (DATARUN_MAX_BYTES); they have "
            f"{total - new}, and this request has {new}. Nothing of it is stored: have old ones deleted in /admin/.",
        )


def _lock(user: Any) -> None:
    # no_key: what refers to the user, such as a new fold, may go on.
    get_user_model().objects.select_for_update(no_key=True).get(pk=user.pk)


def _seconds_until(user: Any, count: int) -> int:
    """How long until `count` more of the user's folds have ended, if they end as they did of late."""
    ended = SubmissionFold.objects.filter(created_by=user, finished_at__gte=timezone.now() - PACE).count()
    if not ended:
        return RETRY_UNKNOWN
    return min(max(ceil(count * PACE.total_seconds() / ended), 1), RETRY_MAX)


def _places() -> dict[str, Path]:
    """What is looked at: the folders, and the database where it is a file."""
    places = {"data sets": settings.DIR_DATA, "submissions": settings.DIR_SUBMISSION}
    database = settings.DATABASES["default"]
    if database["ENGINE"].endswith("sqlite3"):
        places["the database"] = Path(database["NAME"]).parent
    return places


def _free_in_time(path: Path, now: bool) -> int | None:
    """None where the disk does not answer, or has lost its server; who asks while it hangs is not kept.

    now: for something to be written there; otherwise what it said within REMEMBER_SECONDS will do.
    """
    when, free = _said.get(path, (-REMEMBER_SECONDS, 0))
    if not now and time.monotonic() - when < REMEMBER_SECONDS:
        return free
    look = _disks.setdefault(path, Look(lambda: free_bytes(path)))
    try:
        free = look(LOOK_SECONDS)
    except OSError:
        return None
    _said[path] = time.monotonic(), free
    return free


def free_bytes(path: Path) -> int:
    """The bytes that are free for this process where path is, or will be."""
    while True:
        try:
            found = os.statvfs(path)
        except FileNotFoundError:
            path = path.parent
        else:
            return found.f_bavail * found.f_frsize


def _is_full(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    cause = error.__cause__
    return getattr(cause, "sqlite_errorname", "") == "SQLITE_FULL" or getattr(cause, "pgcode", "") == "53100"
