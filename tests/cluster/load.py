"""Folds that keep a cluster busy while a test changes it, and what its hosts say of themselves."""

import contextlib
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

from test_files import kits
from tests.cluster.conftest import Organiser
from tests.cluster.hosts import MASTER, RUNNERS, run
from tests.e2e.live import until
from tests.e2e.submissions import HONEST, SLOW

UNITS = {MASTER: ["datarun-web", "datarun-results", "datarun-flower"]}
UNITS |= {name: ["datarun-runner"] for name in RUNNERS}


class Load:
    """Folds on the iris data."""

    def __init__(self, api: Organiser, folder: Path) -> None:
        self.api, self.file = api, folder / "classifier.py"
        self.data_id = api.data(kits.IRIS.data_files[0], target="species", elements="classifier")
        api.split(self.data_id)
        api.tested(self.send())

    def send(self, seconds: int = 0, priority: str = "L") -> int:
        self.file.write_text(SLOW.format(fit=seconds, predict=0) if seconds else HONEST)
        return self.api.fold(self.data_id, [self.file], range(50), priority)

    @contextlib.contextmanager
    def steady(self) -> Iterator[list[int]]:
        """Meanwhile all slots have folds of some seconds, and as many folds wait; their ids."""
        folds: list[int] = []
        slots = sum(worker["slots"] for worker in workers().values())
        stop = threading.Event()

        def keep_up() -> None:
            while not stop.wait(1):
                open_ = [
                    fold for fold in folds[-4 * slots :] if self.api.look(fold)["state"] not in ("TESTED", "ERROR")
                ]
                folds.extend(self.send(8) for _ in range(2 * slots - len(open_)))

        with ThreadPoolExecutor(1) as pool:
            work = pool.submit(keep_up)
            try:
                yield folds
            finally:
                stop.set()
            work.result()

    def begun_on(self, runner: str, seconds: int) -> int:
        """The id of a fold that this runner has just begun and that takes so long; so has each other slot."""
        folds = [self.send(seconds) for _ in range(sum(worker["slots"] for worker in workers(runner).values()))]

        def begun() -> int:
            return next((fold for fold in folds if self.api.look(fold)["runner"] == f"celery@{runner}"), 0)

        found: int = until(begun, 60, f"{runner} has begun none of the folds {folds}")
        return found


def workers(*more: str) -> dict[str, dict[str, Any]]:
    """What those of RUNNERS and of `more` say of themselves; who does not answer is missing."""
    names = " ".join(f"celery@{name}" for name in (*RUNNERS, *more))
    found: dict[str, dict[str, Any]] = json.loads(run(MASTER, f"datarun-manage workers {names}"))
    return found


def moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def starts() -> dict[str, str]:
    """Host and unit -> when its process was started."""
    ask = "systemctl show --property ExecMainStartTimestampMonotonic --value"
    return {f"{name} {unit}": run(name, f"{ask} {unit}") for name, units in UNITS.items() for unit in units}
