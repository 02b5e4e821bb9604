"""What an operator does to a cluster, done in the middle of a load of folds, and a table of what became of them."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from tests.chaos.load import Load, Verdict
from tests.cluster.faults import left_behind
from tests.e2e.live import until

BOUND = 4 * 60 + 180 + 2 * 120 + 120
"""Seconds in which each fold has its verdict, as in test_faults."""

FEW = 4
"""Folds that are accepted before an operation begins, and after it."""


@dataclass
class Row:
    """seconds: how long the operation took; pause: the longest time in which no fold was accepted, in seconds."""

    what: str
    seconds: float
    pause: float
    verdict: Verdict


rows: list[Row] = []


@contextlib.contextmanager
def under_load(load: Load, what: str, bound: float = BOUND) -> Iterator[dict[int, str]]:
    """Meanwhile folds are sent, one a second; at the end none is lost or wrong. Yields what was accepted so far.

    bound: seconds after the operation in which each fold has its verdict.
    """
    with load.steady(pause=1.0) as accepted:
        until(lambda: len(accepted) >= FEW, 60, "folds are accepted")
        began = time.monotonic()
        yield accepted
        seconds, before = time.monotonic() - began, len(accepted)
        until(lambda: len(accepted) >= before + FEW, 120, "folds are accepted again")
    verdict = load.judge(accepted, bound)
    rows.append(Row(what, seconds, load.longest_pause(), verdict))
    assert not verdict.broken()
    until(lambda: not left_behind(), 60, lambda: f"nothing is left behind: {left_behind()}")


def show() -> None:
    """Print the rows; nothing where there are none."""
    if not rows:
        return
    table = Table("operation", "it took", "folds sent", "ended", "lost", "wrong", "longest pause")
    for row in rows:
        it = row.verdict
        wrong = len(it.changed) + len(it.blamed) + len(it.wrong)
        counts = [it.folds, it.folds - len(it.lost), len(it.lost), wrong]
        table.add_row(row.what, f"{row.seconds:.0f} s", *map(str, counts), f"{row.pause:.1f} s")
    console = Console(width=120)
    console.print()
    console.print(table)
    rows.clear()
