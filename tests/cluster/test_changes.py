"""What an operator does to a running cluster beside edits of its inventory, and what befalls it."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.conftest import Organiser
from tests.cluster.hosts import MASTER, RUNNERS, run
from tests.cluster.load import Load, starts, workers
from tests.cluster.playbooks import Inventory
from tests.e2e.live import until

pytestmark = pytest.mark.scenario

FIRST, SECOND = RUNNERS


@pytest.fixture(scope="module")
def load(api: Organiser, tmp_path_factory: pytest.TempPathFactory) -> Load:
    return Load(api, tmp_path_factory.mktemp("load"))


def test_a_runner_that_fails_the_acceptance_is_named_and_taken_out(inventory: Inventory) -> None:
    run(SECOND, "chmod a-x /usr/bin/bwrap; systemctl restart datarun-runner")
    try:
        text = inventory.play("playbooks/acceptance.yml", "-e", "acceptance_timeout=40", code=2).text
        assert f"Failed, so taken out of the queues (datarun-runner stopped, where the host answers): {SECOND}." in text
        assert f"celery@{SECOND}" not in workers()
    finally:
        run(SECOND, "chmod a+x /usr/bin/bwrap; systemctl start datarun-runner")


@pytest.fixture
def cut_off() -> Iterator[None]:
    """The first runner does not reach the storage host, and no packet tells it so."""
    run(FIRST, "nft 'add table inet cut; add chain inet cut output { type filter hook output priority -1; };"
        " add rule inet cut output ip daddr 10.81.0.13 drop'")  # fmt: skip
    yield
    run(FIRST, "nft delete table inet cut 2>/dev/null || true")


def test_a_runner_without_its_share_takes_no_folds_and_comes_back(load: Load, cut_off: None) -> None:
    until(lambda: not workers()[f"celery@{FIRST}"]["queues"], 90, f"{FIRST} still consumes")
    folds = [load.send() for _ in range(4)]
    records = load.api.ended(*folds)
    assert {record["runner"] for record in records} == {f"celery@{SECOND}"}
    assert {record["state"] for record in records} == {"TESTED"}
    run(FIRST, "nft delete table inet cut")
    until(lambda: workers()[f"celery@{FIRST}"]["queues"], 90, f"{FIRST} does not consume again")


def test_a_rolling_restart_waits_for_folds_and_a_forced_one_does_not(inventory: Inventory, load: Load) -> None:
    run(SECOND, "systemctl stop datarun-runner")  # as the acceptance does where it fails
    fold = load.begun_on(FIRST, 10)
    inventory.play("playbooks/runners_restart.yml")
    assert (load.api.tested(fold)["runner"], load.api.look(fold)["attempts"]) == (f"celery@{FIRST}", 1)
    assert set(workers()) >= {f"celery@{name}" for name in RUNNERS}
    fold = load.begun_on(FIRST, 10)
    inventory.play("playbooks/runners_restart.yml", "-e", "force=true")
    assert load.api.tested(fold, seconds=200)["state"] == "TESTED"  # elsewhere, or there again


def test_packages_that_do_not_fit_together_change_nothing(inventory: Inventory) -> None:
    before = starts()
    extra = {"runner_packages_extra": ["humanize", "numpy<1.20"]}
    text = inventory.play("playbooks/runners_packages.yml", "-e", json.dumps(extra), code=2).text
    assert "runner_packages humanize, numpy<1.20 can't be installed" in text
    assert starts() == before
    for name in RUNNERS:
        assert "humanize" not in run(name, "/opt/datarun/runner/bin/pip list 2>/dev/null")


def test_a_list_of_runners_does_for_an_inventory(inventory: Inventory, tmp_path: Path) -> None:
    addresses = [inventory.runners[name]["ansible_host"] for name in RUNNERS]
    inventory.runners.clear()
    inventory.save()
    listed = tmp_path / "list_runners.txt"
    listed.write_text("".join(f"{address} 2 L,H,celery 60 45\n" for address in addresses))
    recap = inventory.play("playbooks/validate.yml", "-i", str(listed))
    assert set(recap.changed) >= {MASTER, *addresses}
