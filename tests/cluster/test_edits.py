"""Edits of the inventory and site.yml again: one runner changed and one more, then all as it was."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from tests.cluster.conftest import Organiser
from tests.cluster.hosts import MASTER, RUNNERS, run
from tests.cluster.load import Load, moment, starts, workers
from tests.cluster.playbooks import SECONDS, Inventory, Recap, finish, rig
from tests.e2e.live import until

pytestmark = pytest.mark.scenario

FIRST, SECOND = RUNNERS
NEW, NEW_ADDRESS = "runner3", "10.81.0.14"


@dataclass
class Edit:
    """What site.yml did, and the folds that were under way meanwhile."""

    load: Load
    began: float
    before: dict[str, str]
    recap: Recap
    folds: list[int] = field(default_factory=list)


@pytest.fixture(scope="module")
def edited(api: Organiser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edit]:
    load = Load(api, tmp_path_factory.mktemp("load"))
    inventory = Inventory(tmp_path_factory.mktemp("edited") / "inventory")
    inventory.runners[NEW] = inventory.runners[FIRST] | {"ansible_host": NEW_ADDRESS}
    inventory.runners[FIRST] |= {
        "runner_concurrency": 1,
        "runner_queues": ["L", "H", "celery"],
        "runner_hard_time_limit": 70,
        "runner_soft_time_limit": 50,
        "runner_packages": ["tabulate"],
    }
    inventory.save()
    rig("up", f"{NEW}=bookworm={NEW_ADDRESS}")
    try:
        began, before = time.time(), starts()
        with load.steady() as folds:
            process = inventory.start("site.yml")
            until(lambda: starts() != before or process.poll() is not None, SECONDS, "no unit was restarted")
        yield Edit(load, began, before, finish(process), folds)
    finally:
        rig("remove", NEW)


@pytest.fixture(scope="module")
def reverted(edited: Edit, tmp_path_factory: pytest.TempPathFactory) -> Edit:
    inventory = Inventory(tmp_path_factory.mktemp("reverted") / "inventory")
    before, fold = starts(), edited.load.begun_on(NEW, 10)
    return Edit(edited.load, time.time(), before, inventory.play("site.yml"), [fold])


def test_only_the_runner_that_was_edited_is_restarted_after_its_folds(edited: Edit) -> None:
    assert edited.recap.changed[FIRST] and not edited.recap.changed[SECOND], edited.recap.text[-20000:]
    assert restarted(edited.before) == {f"{FIRST} datarun-runner"}
    records = edited.load.api.ended(*edited.folds)
    assert {(record["state"], record["attempts"]) for record in records} == {("TESTED", 1)}
    journal = f"journalctl --unit datarun-runner --output short-unix --since @{edited.began:.0f}"
    told = float(run(FIRST, f"{journal} | grep Stopping | head -n 1").split()[0])
    mine = [record for record in records if record["runner"] == f"celery@{FIRST}"]
    assert any(moment(record["started_at"]) < told < moment(record["finished_at"]) for record in mine)


def test_it_works_as_the_edit_says(edited: Edit) -> None:
    now = workers()[f"celery@{FIRST}"]
    assert (now["slots"], now["queues"]) == (1, ["H", "L", "celery"])
    environment = run(FIRST, "cat /etc/datarun/runner.env")
    assert "DR_HARD_TIME_LIMIT=70\n" in environment and "DR_SOFT_TIME_LIMIT=50\n" in environment
    run(FIRST, "/opt/datarun/runner/bin/python -c 'import tabulate'")


def test_a_new_runner_passes_the_acceptance(edited: Edit) -> None:
    assert f"{NEW}:" in edited.recap.text.rpartition("Require that all runners serve")[2]


def test_a_runner_that_is_taken_out_finishes_its_fold_and_loses_its_credentials(reverted: Edit) -> None:
    [record] = reverted.load.api.ended(*reverted.folds)
    assert (record["state"], record["runner"], record["attempts"]) == ("TESTED", f"celery@{NEW}", 1)
    assert f"celery@{NEW}" not in workers(NEW)
    assert f"runner-{NEW}" not in run(MASTER, "rabbitmqctl --quiet list_users; cat /etc/redis/users.acl")
    assert restarted(reverted.before) == {f"{FIRST} datarun-runner"}


def restarted(before: dict[str, str]) -> set[str]:
    return {unit for unit, started in starts().items() if started != before[unit]}
