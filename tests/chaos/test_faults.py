"""Whatever fails: each fold that was accepted has one verdict, within its bound, and the right one."""

import os
import random
import time
from collections.abc import Callable

import pytest

from tests.chaos.conftest import Site
from tests.chaos.faults import LONG
from tests.chaos.table import SEED
from tests.e2e.live import until

OF_SERVER = (
    "runner killed", "zygotes killed", "runner frozen", "master's worker killed", "master's worker frozen",
    "master's worker away", "two master's workers", "web server killed", "server killed",
    "results twice", "clock moved",
)  # fmt: skip
OF_SERVICES = (
    *(f"{name} {end}" for name in ("postgresql", "rabbitmq", "redis") for end in ("stopped", "killed")),
    "redis flushed", "queues emptied",
)  # fmt: skip
EACH = [("embedded", name) for name in OF_SERVER] + [("services", name) for name in (*OF_SERVER, *OF_SERVICES)]
MINUTES = float(os.environ.get("CHAOS_MINUTES") or 3)


@pytest.mark.chaos
@pytest.mark.parametrize(("name", "fault"), EACH, ids=lambda word: str(word))
def test_nothing_is_lost_by_one_fault(site_of: Callable[[str], Site], name: str, fault: str) -> None:
    site = site_of(name)
    with site.load.steady(1.0 if fault in LONG else 0.3) as accepted:
        until(lambda: len(accepted) >= 6, 60, "folds are accepted")
        site.faults[fault]()
        before = len(accepted)
        until(lambda: len(accepted) >= before + 6, 90, "folds are accepted again")
    verdict = site.judge(fault, accepted)
    assert not verdict.broken()
    assert max(verdict.attempts) <= site.load.most_attempts


@pytest.mark.parametrize("name", ["embedded", "services"])
def test_nothing_is_lost_by_some_faults(site_of: Callable[[str], Site], name: str) -> None:
    """The short version: the same few each time, one after the other, under one load."""
    assert_survives(site_of(name), ["zygotes killed", "master's worker killed", "runner killed"])


@pytest.mark.chaos
@pytest.mark.parametrize("name", ["embedded", "services"])
def test_nothing_is_lost_by_faults_at_random(site_of: Callable[[str], Site], name: str) -> None:
    site = site_of(name)
    chance = random.Random(SEED)
    count = int(MINUTES * 60 / PAUSE)
    assert_survives(site, [chance.choice([name for name in site.faults if name not in LONG]) for _ in range(count)])


PAUSE = 12.0
"""Seconds between two faults: a server gives up whose processes end more than three times in half a minute."""


def assert_survives(site: Site, faults: list[str]) -> None:
    with site.load.steady(pause=0.5) as accepted:
        for fault in faults:
            time.sleep(PAUSE)
            site.faults[fault]()
    what = ", ".join(faults) if len(faults) < 4 else f"{len(faults)} at random"
    verdict = site.judge(what, accepted)
    assert not verdict.broken()
    assert max(verdict.attempts) <= site.load.most_attempts
