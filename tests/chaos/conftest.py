"""A server of the faults' own, on the embedded default and on services of its own; a table of what befell it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.chaos import faults, table
from tests.chaos.load import Load, Verdict
from tests.conftest import on_services
from tests.e2e.live import Live, Organiser
from tests.services import Services, missing_packages

SOFT, HARD = 25, 30
BOUND = 4 * HARD + 180 + 2 * 60 + 60
"""Seconds in which each fold has its verdict: one round of docs/architecture.md, and what waits before it."""


@dataclass
class Site:
    """What faults are done to. name: embedded or services."""

    name: str
    load: Load
    faults: dict[str, faults.Fault]
    live: Live
    verdicts: list[Verdict] = field(default_factory=list)

    def judge(self, what: str, accepted: dict[int, str]) -> Verdict:
        verdict = self.load.judge(accepted, BOUND)
        table.rows.append((self.name, what, verdict))
        return verdict


@pytest.fixture(scope="module")
def site_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Site]]:
    """site_of(name): one at a time, stopped with the tests of the module."""
    close: list[Callable[[], None]] = []
    sites: dict[str, Site] = {}

    def start(name: str) -> Site:
        if name in sites:
            return sites[name]
        end()
        folder: Path = tmp_path_factory.mktemp(name)
        environment = {
            "DR_SOFT_TIME_LIMIT": str(SOFT), "DR_HARD_TIME_LIMIT": str(HARD), "DATARUN_SLOTS": "2",
            "CELERY_SCHEDULER_PERIOD": "*",
        }  # fmt: skip
        found: dict[str, faults.Fault] = {}
        services = None
        if name == "services":
            if missing := missing_packages():
                pytest.skip(f"not installed: {' '.join(missing)}")
            services = Services(durable=True)
            services.start()
            close.append(services.stop)
            environment |= services.env()
        live = Live(folder / "home", **environment)
        close.append(live.stop)  # also of one that does not answer in time
        live.start()
        if services is not None:
            found = faults.of_services(services, live)
        load = Load(Organiser(live), folder / "submissions", table.SEED)
        sites[name] = Site(name, load, faults.of_server(live, HARD + 60 + 10) | found, live)
        return sites[name]

    def end() -> None:
        sites.clear()
        while close:
            close.pop()()

    try:
        yield start
    finally:
        end()


@pytest.fixture(scope="module", autouse=True)
def _not_on_the_services_of_others() -> None:
    if on_services():
        pytest.skip("these tests start services of their own")


def pytest_terminal_summary() -> None:
    table.show("make chaos")
