"""Whether the shared disk is there. One that hangs for PATIENCE is not."""

import time
from typing import NoReturn

from celery.exceptions import Reject
from celery.utils.log import get_task_logger

from runner import config
from runner.look import Look

log = get_task_logger(__name__)

PAUSE = 3.0
"""Seconds after which who takes work has looked again (runner.intake)."""

PATIENCE = 5.0
"""Seconds after which a disk that does not answer counts as gone."""


def _read_marker() -> None:
    marker = config.share_marker()
    if marker is not None:
        with marker.open("rb") as file:
            file.read(1)


_look = Look(_read_marker)


def is_there() -> bool:
    """Whether the marker on the disk can be read; True where no marker is configured."""
    if config.share_marker() is None:
        return True
    try:
        _look(PATIENCE)
    except OSError:
        return False
    return True


def give_back(why: Exception) -> NoReturn:
    """Put the task at hand back into its queue, once this worker has had the time to turn away from it."""
    log.warning("%s: given back, the shared disk is gone", why)
    time.sleep(PAUSE + PATIENCE)
    raise Reject(why, requeue=True) from None
