"""When periodic tasks are due, on a machine whose clock may be set back."""

from typing import Any

from celery.beat import PersistentScheduler


class Scheduler(PersistentScheduler):
    """Celery's, which else runs nothing before the clock is again where it was, after a restart neither."""

    _heap: Any

    def tick(self, *args: Any, **kwargs: Any) -> float:
        for entry in self.schedule.values():
            now = entry.default_now()
            entry.last_run_at = min(entry.last_run_at or now, now)
        self._heap = None  # the moments, by the clock, at which the tasks seemed due: made anew
        return super().tick(*args, **kwargs)
