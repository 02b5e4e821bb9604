"""What was done to whom and what came of it, in a table at the end of the run."""

import os
import random

from rich.console import Console
from rich.table import Table

from tests.chaos.load import Verdict

SEED = int(os.environ.get("CHAOS_SEED") or random.randrange(1 << 32))
"""Decides the mix of folds and the faults at random."""

rows: list[tuple[str, str, Verdict]] = []
"""Site, fault, verdict."""


def show(again: str) -> None:
    """Print the rows, and with which command the same comes again; nothing where there are none."""
    if not rows:
        return
    table = Table("on", "fault", "folds", "lost", "duplicated", "wrong blame", "wrong", "attempts", "last verdict")
    for site, what, it in rows:
        counts = [len(it.lost), len(it.changed), len(it.blamed), len(it.wrong)]
        table.add_row(
            site, what, str(it.folds), *map(str, counts), str(max(it.attempts, default=0)), f"{it.seconds:.0f} s"
        )
    console = Console(width=120)
    console.print()
    console.print(table)
    console.print(f"seed {SEED}; again with: {again} SEED={SEED}")
    rows.clear()
