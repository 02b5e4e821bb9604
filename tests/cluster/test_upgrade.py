"""upgrade.yml under load: to the next release and back, half done, broken off, and where the new version fails."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from test_files import kits
from tests.chaos.load import Load
from tests.cluster import versions
from tests.cluster.hosts import MASTER, RUNNERS, run
from tests.cluster.load import UNITS, starts, workers
from tests.cluster.operations import under_load
from tests.cluster.playbooks import Inventory
from tests.e2e.live import until

pytestmark = pytest.mark.operations

UPGRADE = "playbooks/upgrade.yml"
FIRST, SECOND = RUNNERS

MIGRATE = "Bring the database's tables up to date"
"""The task of the master at which its services are stopped."""
DRAIN = "Drain and stop the runner"
BEFORE_RUNNERS = "See how much memory there is to share out"
"""A task of the first runner while it works on: all runners are at the version before, the master is not."""


@dataclass(frozen=True)
class Versions:
    """References of this checkout. this: what is installed."""

    this: str
    later: str
    bad_migration: str
    bad_runner: str
    other_predictions: str


@pytest.fixture(scope="module")
def version() -> Iterator[Versions]:
    made = Versions(
        versions.make("this", {}),
        versions.make("later", versions.later()),
        versions.make("bad-migration", versions.with_a_migration_that_fails()),
        versions.make("bad-runner", versions.with_a_runner_that_does_not_start()),
        versions.make("other-predictions", versions.with_other_predictions()),
    )
    yield made
    versions.remove(*vars(made).values())


@dataclass(frozen=True)
class State:
    """folders: unit -> the folder of the version that it was started from, which is the one in use there.

    migrations: those of the database. numbers: host -> what its version calls itself.
    """

    folders: dict[str, str]
    migrations: list[str]
    numbers: dict[str, str]


def in_use(name: str) -> str:
    return "/opt/datarun/master" if name == MASTER else "/opt/datarun/runner"


def number(name: str) -> str:
    ask = "from importlib.metadata import version; print(version('datarun'))"
    return run(name, f'{in_use(name)}/bin/python -c "{ask}"').strip()


def state() -> State:
    folders, numbers = {}, {}
    for name, units in UNITS.items():
        link = run(name, f"readlink --canonicalize {in_use(name)}").strip()
        numbers[name] = number(name)
        for unit in units:
            line = run(name, f"tr '\\0' ' ' </proc/$(systemctl show --property MainPID --value {unit})/cmdline")
            found = re.search(r"(/opt/datarun/\w+-[0-9a-f]{12})/bin/python", line)
            assert found and found[1] == link, f"{name}: {unit} runs {line}, and in use is {link}"
            folders[f"{name} {unit}"] = link
    shown = run(MASTER, "datarun-manage showmigrations --list runapp")
    assert run(MASTER, "ls /etc/datarun/upgrade.json 2>/dev/null || true") == ""
    return State(folders, re.findall(r"\[X\] (\w+)", shown), numbers)


@pytest.fixture
def before() -> Iterator[State]:
    """What is installed before the test, and is after it."""
    found = state()
    assert versions.NUMBER not in found.numbers.values()
    yield found
    assert state() == found
    assert set(workers()) >= {f"celery@{name}" for name in RUNNERS}


def is_later() -> dict[str, bool]:
    """Host -> whether it has the later version."""
    return {name: number(name) == versions.NUMBER for name in UNITS}


def words(text: str) -> str:
    """On one line."""
    return " ".join(text.split()).replace("''", "'")  # in a quoted string of YAML


def test_it_upgrades_and_goes_back_by_one_release(
    before: State, inventory: Inventory, load: Load, version: Versions
) -> None:
    with under_load(load, "upgrade to the next release"):
        inventory.play(UPGRADE, "-e", f"version={version.later}")
    now = state()
    assert set(now.numbers.values()) == {versions.NUMBER}
    assert now.migrations[:-1] == before.migrations
    assert not set(now.folders.values()) & set(before.folders.values())
    with under_load(load, "upgrade to the release before"):
        inventory.play(UPGRADE, "-e", f"version={version.this}")


def test_it_goes_on_after_it_was_broken_off(before: State, inventory: Inventory, load: Load, version: Versions) -> None:
    with under_load(load, "upgrade, broken off twice"):
        inventory.break_off(UPGRADE, "-e", f"version={version.later}", at=MIGRATE)
        inventory.break_off(UPGRADE, "-e", f"version={version.later}", at=DRAIN)
        inventory.play(UPGRADE, "-e", f"version={version.later}")
    assert set(state().numbers.values()) == {versions.NUMBER}
    inventory.play(UPGRADE, "-e", f"version={version.this}")


def test_a_later_master_and_its_runners_work_together_and_both_go_back(
    before: State, inventory: Inventory, load: Load, version: Versions
) -> None:
    inventory.break_off(UPGRADE, "-e", f"version={version.later}", at=BEFORE_RUNNERS)
    assert is_later() == {MASTER: True, FIRST: False, SECOND: False}
    folds_and_splits(load, "a master newer than its runners")
    inventory.play(UPGRADE, "-e", f"version={version.this}")


def test_later_runners_and_their_master_work_together(
    before: State, inventory: Inventory, load: Load, version: Versions
) -> None:
    inventory.play(UPGRADE, "-e", f"version={version.later}")
    inventory.break_off(UPGRADE, "-e", f"version={version.this}", at=BEFORE_RUNNERS)
    assert is_later() == {MASTER: False, FIRST: True, SECOND: True}
    folds_and_splits(load, "runners newer than their master")
    inventory.play(UPGRADE, "-e", f"version={version.this}")


def folds_and_splits(load: Load, what: str) -> None:
    kit = kits.IRIS
    with under_load(load, what) as accepted:
        load.organiser.split(load.data_id, ratio=kit.held_out_test, state=kit.random_state)
        enough = len(accepted) + 20
        until(lambda: len(accepted) >= enough, 120, "folds are accepted")


def test_a_migration_that_fails_goes_back_and_reaches_no_runner(
    before: State, inventory: Inventory, load: Load, version: Versions
) -> None:
    runners = {unit: when for unit, when in starts().items() if not unit.startswith(MASTER)}
    with under_load(load, "upgrade whose migration fails"):
        text = words(inventory.play(UPGRADE, "-e", f"version={version.bad_migration}", code=2).text)
    assert f"The upgrade to {version.bad_migration} failed, and the cluster is as it was" in text
    assert f"{MASTER}: {MIGRATE}:" in text and "division by zero" in text
    assert {unit: when for unit, when in starts().items() if unit in runners} == runners


def test_predictions_that_are_not_the_masters_go_back(
    before: State, inventory: Inventory, load: Load, version: Versions
) -> None:
    with under_load(load, "upgrade that is not accepted"):
        # Both in one batch: one of them asks the acceptance, both go back.
        arguments = ["-e", f"version={version.other_predictions}", "-e", "runners_batch=2"]
        text = words(inventory.play(UPGRADE, *arguments, code=2).text)
    assert f"The upgrade to {version.other_predictions} failed, and the cluster is as it was" in text
    assert "wrong predictions" in text


def test_a_runner_that_does_not_start_goes_back_and_the_others_work_on(
    before: State, inventory: Inventory, load: Load, version: Versions
) -> None:
    second = starts()[f"{SECOND} datarun-runner"]
    with under_load(load, "upgrade whose runner does not start"):
        text = words(inventory.play(UPGRADE, "-e", f"version={version.bad_runner}", code=2).text)
    assert f"The upgrade to {version.bad_runner} failed, and the cluster is as it was" in text
    assert f"{FIRST}: Ask the master whether the runner is back" in text
    assert starts()[f"{SECOND} datarun-runner"] == second


def test_check_mode_changes_nothing(before: State, inventory: Inventory, version: Versions) -> None:
    old = starts(), {name: run(name, "ls /opt/datarun") for name in UNITS}
    recap = inventory.play(UPGRADE, "--check", "-e", f"version={version.later}")
    assert recap.changed[MASTER]
    assert (starts(), {name: run(name, "ls /opt/datarun") for name in UNITS}) == old


def test_an_unknown_version_is_refused_before_anything_is_touched(before: State, inventory: Inventory) -> None:
    old = starts()
    text = words(inventory.play(UPGRADE, "-e", "version=v0.0-of-nobody", code=2).text)
    assert "version is 'v0.0-of-nobody': this checkout has no such tag, branch or commit." in text
    assert starts() == old
