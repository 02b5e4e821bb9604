"""A runner on a new host, under its old name: first one that still works, then one that is dead."""

from collections.abc import Iterator

import pytest

from tests.chaos.load import Load
from tests.cluster.hosts import MASTER, RUNNERS, VARIABLES, host, run
from tests.cluster.load import workers
from tests.cluster.operations import under_load
from tests.cluster.playbooks import Inventory, rig
from tests.e2e.live import until

pytestmark = pytest.mark.operations

NAME = "runner3"
HOSTS = {"spare1": "10.81.0.14", "spare2": "10.81.0.16", "spare3": "10.81.0.17"}
"""The rig's hosts that become runner3, one after the other."""


@pytest.fixture(scope="module")
def replaced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inventory]:
    """A cluster with runner3 on the first host; at the end it is as it was."""
    rig("up", *(f"{name}=bookworm={address}" for name, address in HOSTS.items()))
    inventory = Inventory(tmp_path_factory.mktemp("replaced") / "inventory")
    move(inventory, "spare1")
    try:
        for name, address in HOSTS.items():
            VARIABLES[name] = VARIABLES[RUNNERS[0]] | {"ansible_host": address}
        inventory.play("site.yml")
        yield inventory
    finally:
        rig("remove", *HOSTS)
        for name in HOSTS:
            VARIABLES.pop(name, None)
        host.cache_clear()
        Inventory(tmp_path_factory.mktemp("as-it-was") / "inventory").play("site.yml")


def move(inventory: Inventory, name: str) -> None:
    inventory.runners[NAME] = inventory.runners[RUNNERS[0]] | {"ansible_host": HOSTS[name]}
    inventory.save()


def serves(name: str) -> bool:
    """Whether this host's runner is up and consumes."""
    return run(name, "systemctl is-active datarun-runner || true").strip() == "active"


def test_a_runner_moves_under_load(replaced: Inventory, load: Load) -> None:
    """The old host finishes its folds and is out; broken off before that is noted, another run does it all."""
    move(replaced, "spare2")
    with under_load(load, "runner replaced, broken off"):
        replaced.break_off("site.yml", at="Write their list")
        replaced.play("site.yml")
    assert serves("spare2") and not serves("spare1")
    assert run("spare1", "systemctl is-enabled datarun-runner || true").strip() == "disabled"
    assert f"celery@{NAME}" in workers(NAME)
    assert reaches_the_broker("spare2") and not reaches_the_broker("spare1")


def test_a_dead_runner_is_replaced_under_load(replaced: Inventory, load: Load) -> None:
    move(replaced, "spare3")
    with under_load(load, "dead runner replaced"):
        rig("kill", "spare2")
        replaced.play("site.yml")
    assert serves("spare3")
    assert f"celery@{NAME}" in workers(NAME)


def test_a_dead_runner_that_comes_back_stays_out(replaced: Inventory, load: Load) -> None:
    """It has its old password still, and an address from which the master takes nothing."""
    rig("start", "spare2")
    host.cache_clear()
    until(lambda: answers("spare2"), 60, "spare2 is up again")
    assert not reaches_the_broker("spare2")
    load.organiser.tested(load.organiser.fold(load.data_id, [load.files["short"]], range(50)))


def answers(name: str) -> bool:
    try:
        return bool(run(name, "uptime"))
    except (OSError, EOFError, AssertionError):
        host.cache_clear()
        return False


def reaches_the_broker(name: str) -> bool:
    address = VARIABLES[MASTER]["cluster_master_address"]
    return "yes" in run(name, f"timeout 3 bash -c '</dev/tcp/{address}/5671' 2>/dev/null && echo yes || true")
