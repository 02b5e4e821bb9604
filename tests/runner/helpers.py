"""What several tests of the runner do."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from runner.elements import SPECIFIC
from runner.jobs import SplitJob
from test_files.kits import Kit


def split_job(kit: Kit, folder: Path) -> SplitJob:
    """The kit's files as the master stores them, and what is to be done with them."""
    source = folder / "raw"
    source.mkdir()
    for path in kit.data_files:
        stored = path.name if kit.custom else f"{kit.name}.csv"
        shutil.copy(path, source / (SPECIFIC if path.suffix == ".py" else stored))
    return SplitJob(
        source, folder / "split", kit.name, kit.target_column, kit.custom, kit.held_out_test, kit.random_state
    )


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.01)
