"""Whatever befalls a host: each fold that was accepted has one verdict, within its bound, and the right one."""

import itertools
import os
import random
import time
from collections.abc import Iterable

import pytest

from tests.chaos.load import Load, Verdict
from tests.chaos.table import SEED, rows
from tests.cluster.conftest import Organiser
from tests.cluster.faults import all_faults, left_behind
from tests.e2e.live import until

FAULTS = all_faults()
MINUTES = float(os.environ.get("CHAOS_MINUTES") or 10)
BOUND = 4 * 35 + 180 + 2 * 120 + 120
"""Seconds in which each fold has its verdict: one round of docs/architecture.md, and what waits before it."""
SOME = "runner's power off", "share frozen", "rabbitmq killed", "runner cut off", "master rebooted"
BETWEEN = 4
"""Folds that are accepted between two faults under one load."""


@pytest.fixture(scope="module")
def load(api: Organiser, tmp_path_factory: pytest.TempPathFactory) -> Load:
    return Load(api, tmp_path_factory.mktemp("submissions"), SEED)


@pytest.mark.scenario
def test_nothing_is_lost_by_some_faults(load: Load) -> None:
    """The short version: the same few each time, one after the other, under one load."""
    assert_survives(load, SOME)


@pytest.mark.chaos
@pytest.mark.parametrize("fault", FAULTS)
def test_nothing_is_lost_by_one_fault(load: Load, fault: str) -> None:
    with load.steady(pause=1.5) as accepted:
        until(lambda: len(accepted) >= 4, 60, "folds are accepted")
        FAULTS[fault]()
        before = len(accepted)
        until(lambda: len(accepted) >= before + 4, 120, "folds are accepted again")
    assert_kept(load, fault, accepted)


@pytest.mark.chaos
def test_nothing_is_lost_by_faults_at_random(load: Load) -> None:
    chance, end = random.Random(SEED), time.monotonic() + MINUTES * 60
    short = [name for name in FAULTS if "for long" not in name]
    draws = iter(lambda: chance.choice(short), None)
    assert_survives(load, itertools.takewhile(lambda _: time.monotonic() < end, draws))


def assert_survives(load: Load, faults: Iterable[str]) -> None:
    done = []
    with load.steady(pause=1.5) as accepted:
        for fault in faults:
            before = len(accepted)
            until(lambda: len(accepted) >= before + BETWEEN, 120, "folds are accepted")  # noqa: B023
            FAULTS[fault]()
            done.append(fault)
    assert_kept(load, ", ".join(done) if len(done) < 6 else f"{len(done)} at random", accepted)


def assert_kept(load: Load, what: str, accepted: dict[int, str]) -> None:
    verdict: Verdict = load.judge(accepted, BOUND)
    rows.append(("cluster", what, verdict))
    assert not verdict.broken()
    assert max(verdict.attempts) <= load.most_attempts
    until(lambda: not left_behind(), 60, lambda: f"nothing is left behind: {left_behind()}")
