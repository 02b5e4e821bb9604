"""Celery's way to Redis, without what would make a fold depend on it.

Left to itself Celery acknowledges a task, and does not run it, where it can't note that the task has started. The
states of tasks are for who looks at them: what counts comes through the broker.
"""

from typing import Any

from celery.backends.redis import RedisBackend
from celery.utils.log import get_task_logger

log = get_task_logger(__name__)


class Backend(RedisBackend):
    def on_task_call(self, producer: Any, task_id: str) -> None:
        """Subscribe to nothing: nobody waits for the results of what he sends, and `get` subscribes by itself.

        Celery's own does at each task sent, and its `denied_join_result`, meant against that, is one flag for all
        threads of a process.
        """

    def store_result(self, task_id: str, result: Any, state: str, *args: Any, **more: Any) -> Any:
        try:
            return super().store_result(task_id, result, state, *args, **more)
        except Exception as error:
            log.warning("task %s: that it is %s is not noted (%s)", task_id, state, error)
            return result
