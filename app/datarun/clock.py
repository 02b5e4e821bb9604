"""When periodic tasks are due, on a machine whose clock may be set back."""

import threading
import time
from datetime import UTC, datetime
from typing import Any

from celery import Celery
from celery.beat import Scheduler as CelerysScheduler
from celery.beat import Service
from celery.utils.log import get_task_logger

log = get_task_logger(__name__)

PAUSE = 5.0
"""Seconds until another try, where the broker was away for longer than Celery waits."""


class Scheduler(CelerysScheduler):
    """Celery's, which by itself runs nothing until a clock that was set back is again where it was.

    It keeps nothing between two starts: the periodic tasks are due when it starts.
    """

    _heap: Any

    def setup_schedule(self) -> None:
        super().setup_schedule()
        for entry in self.schedule.values():
            entry.last_run_at = datetime.fromtimestamp(0, UTC)

    def tick(self, *args: Any, **kwargs: Any) -> float:
        for entry in self.schedule.values():
            now = entry.default_now()
            entry.last_run_at = min(entry.last_run_at or now, now)
        self._heap = None  # the moments, by the clock, at which the tasks seemed due: made anew
        return super().tick(*args, **kwargs)


def start(app: Celery) -> None:
    """Send the periodic tasks from a thread of this process, as long as it lives."""
    threading.Thread(target=_run, args=(app,), daemon=True, name="clock").start()


def _run(app: Celery) -> None:
    app.set_current()
    while True:
        try:
            Service(app, scheduler_cls=Scheduler).start()
        except Exception:
            log.exception("the periodic tasks are not sent; that is tried again")
        time.sleep(PAUSE)
