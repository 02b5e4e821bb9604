"""Folds stop being new once an answer with their predictions is complete, and not before."""

from collections import defaultdict
from collections.abc import Generator
from contextlib import closing
from typing import Any

from django.db.models import QuerySet

from runapp.models import NOT_FETCHED, SubmissionFold
from runapp.services.claims import Claim, ended

Rows = Generator[dict[str, Any], None, None]

_ROWS = 1000
"""Folds that one statement changes."""


class Fetch:
    """The new folds among `folds`, for one request alone, from here to `release`.

    They stay new until `complete`. A request that ends otherwise, killed too, leaves them to the next one.
    """

    def __init__(self, folds: QuerySet[SubmissionFold]) -> None:
        self._claim = Claim()
        try:
            free = folds.filter(new=True)
            claims = free.exclude(fetch_id=NOT_FETCHED).order_by().values_list("fetch_id", flat=True).distinct()
            # One statement claims the folds. It lists the claims that have ended, so that newer claims are respected.
            free.filter(fetch_id__in=[NOT_FETCHED, *ended(claims)]).update(fetch_id=self._claim.id)
        except BaseException:
            self.release()
            raise
        self.folds = SubmissionFold.objects.filter(fetch_id=self._claim.id)

    def complete(self) -> None:
        self.folds.update(new=False, fetch_id=NOT_FETCHED)

    def release(self) -> None:
        self._claim.release()


class Shown:
    """What a list showed of its folds. They are no longer new after `complete`, unless they have changed since."""

    FIELDS = ("task_id", "new")
    """Columns that `watch` needs, and takes away."""

    def __init__(self) -> None:
        self._new: dict[tuple[str, ...], list[tuple[int, str]]] = defaultdict(list)

    def watch(self, rows: Rows) -> Rows:
        with closing(rows):
            for row in rows:
                task_id, new, state = row.pop("task_id"), row.pop("new"), row["state"]
                if new:
                    states = SubmissionFold.OPEN if state in SubmissionFold.OPEN else (state,)
                    self._new[states].append((row["databoard_sf_id"], task_id))
                yield row

    def complete(self) -> None:
        for states, folds in self._new.items():
            for start in range(0, len(folds), _ROWS):
                keys, tasks = zip(*folds[start : start + _ROWS], strict=True)
                shown = SubmissionFold.objects.filter(pk__in=keys, task_id__in=tasks, state__in=states)
                shown.update(new=False)
