"""site.yml on a cluster that is as its inventory says, while folds run."""

from tests.cluster.load import starts
from tests.cluster.playbooks import Inventory


def test_check_mode_changes_nothing(inventory: Inventory) -> None:
    before = starts()
    recap = inventory.play("site.yml", "--check")
    assert not any(recap.changed.values()), recap.text[-20000:]
    assert starts() == before


def test_a_second_run_changes_nothing(inventory: Inventory) -> None:
    before = starts()
    recap = inventory.play("site.yml")
    assert not any(recap.changed.values()), recap.text[-20000:]
    assert starts() == before
