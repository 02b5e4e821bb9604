"""Tasks that are not to be run any more, as the result store knows them: told by the master, looked up by runners.

A courtesy that saves work and, where a fold kills its runner, runners. Whatever is wrong with the store, nobody waits
long for it, and nothing depends on it: a result that is not awaited is not taken in.
"""

from typing import Any

from celery import current_app
from celery.states import REVOKED
from celery.utils.log import get_task_logger

log = get_task_logger(__name__)


def revoke(*task_ids: str) -> None:
    """Who gets the message of one of these tasks again drops it."""
    try:
        for task_id in task_ids:
            _backend().mark_as_revoked(task_id, "another task has taken its place, or its attempts are used up")
    except Exception as error:
        log.warning("not all is marked as revoked of %s (%s)", ", ".join(task_ids), error)


def is_revoked(task_id: str) -> bool:
    try:
        status: str = _backend().get_task_meta(task_id, cache=False)["status"]
    except Exception as error:
        log.warning("task %s: whether it is revoked can't be seen (%s)", task_id, error)
        return False
    return status == REVOKED


def _backend() -> Any:
    return current_app.backend
