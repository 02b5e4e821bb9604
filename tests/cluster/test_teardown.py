"""A cluster of one machine, with the share of the storage host: torn down, and made again."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.cluster.faults import STORAGE
from tests.cluster.hosts import MASTER, VARIABLES, host, run
from tests.cluster.playbooks import Inventory, rig

pytestmark = pytest.mark.operations

PLAYBOOK = "playbooks/teardown.yml"
NAME, SUITE, ADDRESS = "lone", "trixie", "10.81.0.18"
SHARE = "/home/science/spare"
CLUSTER = "-e", "cluster_name=inventory"
"""What the folder is called in which Inventory has its copy."""

LEFT = """
find /etc /opt /usr/local /var/cache /var/lib /var/log /run -xdev \\
    '(' -path /run/systemd -o -path /var/lib/systemd ')' -prune -o -iname '*datarun*' -print
systemctl list-units --all --plain --no-legend '*datarun*'
getent passwd datarun || true
grep datarun /proc/mounts || true
dpkg --list 'rabbitmq*' 'redis*' 'erlang*' 2>/dev/null | grep '^[^u].  ' || true
"""


@pytest.fixture(scope="module")
def lone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inventory]:
    inventory = Inventory(tmp_path_factory.mktemp("lone") / "inventory")
    groups = inventory.hosts["rig"]["children"]["cluster"]["children"]
    groups["master"] = {"hosts": {NAME: {"ansible_host": ADDRESS}}}
    groups["runners"] = {"hosts": {NAME: {"runner_queues": ["L", "H", "celery"], "runner_memory_limit": "1G"}}}
    inventory.save()
    main = inventory.folder / "group_vars" / "cluster" / "main.yml"
    main.write_text(yaml.safe_dump(yaml.safe_load(main.read_text()) | {"sciencefs_directory": "spare"}))
    run(STORAGE, f"install -d -o science -g science {SHARE}")
    rig("up", f"{NAME}={SUITE}={ADDRESS}")
    VARIABLES[NAME] = VARIABLES[MASTER] | {"ansible_host": ADDRESS}
    try:
        inventory.play("site.yml")
        yield inventory
    finally:
        rig("remove", NAME)
        VARIABLES.pop(NAME, None)
        host.cache_clear()
        run(STORAGE, f"rm -rf {SHARE}")


def test_it_rejects_another_name_and_folds_that_have_not_ended(lone: Inventory, tmp_path: Path) -> None:
    before = run(NAME, "systemctl show --property ExecMainStartTimestamp datarun-web datarun-runner")
    text = " ".join(lone.play(PLAYBOOK, "-e", "cluster_name=another", code=2).text.split())
    assert "another" in text and "is not the name of this cluster" in text and "nothing was touched" in text
    text = " ".join(lone.play(PLAYBOOK, code=2).text.split())  # nobody is there to be asked
    assert "is not the name of this cluster" in text
    # A fold in the database alone: what counts is what the master has accepted.
    manage("from runapp.models import SubmissionFold; SubmissionFold(databoard_sf_id=1).save()")
    text = " ".join(lone.play(PLAYBOOK, *CLUSTER, code=2).text.split())
    assert "Folds that have not ended: 1. Nothing was touched" in text
    manage("from runapp.models import SubmissionFold; SubmissionFold.objects.all().delete()")
    assert run(NAME, "systemctl show --property ExecMainStartTimestamp datarun-web datarun-runner") == before


def test_check_mode_changes_nothing(lone: Inventory) -> None:
    lone.play(PLAYBOOK, *CLUSTER, "--check")
    run(NAME, "systemctl is-active datarun-web datarun-runner rabbitmq-server redis-server nftables")


def test_nothing_is_left_but_data_submissions_and_backups(lone: Inventory) -> None:
    run(STORAGE, f"test -d {SHARE}/data -a -d {SHARE}/submission")
    run(NAME, "systemctl start datarun-backup")
    lone.break_off(PLAYBOOK, *CLUSTER, at="Remove the database")
    lone.break_off(PLAYBOOK, *CLUSTER, at="Remove the mount point")
    lone.play(PLAYBOOK, *CLUSTER)
    assert run(NAME, LEFT) == ""
    run(STORAGE, f"test -d {SHARE}/data -a -d {SHARE}/submission")


def test_it_answers_ssh_alone(lone: Inventory) -> None:
    listening = [line.split()[3] for line in run(NAME, "ss -Hltn").splitlines()]
    ports = {one.rpartition(":")[2] for one in listening if not one.startswith(("127.", "[::1]"))}
    assert ports <= {"22"}


def test_another_run_has_nothing_to_do(lone: Inventory) -> None:
    lone.play(PLAYBOOK, *CLUSTER)
    assert run(NAME, LEFT) == ""


def test_site_makes_a_working_cluster_of_it_again_and_teardown_erases_its_data(lone: Inventory) -> None:
    text = lone.play("site.yml").text
    assert f"{NAME}:" in text.rpartition("Require that all runners serve")[2]
    lone.play(PLAYBOOK, *CLUSTER, "-e", "erase_data=true", "-e", "lose_folds=true")
    assert run(NAME, LEFT) == ""
    assert run(STORAGE, f"ls -A {SHARE}").split() == ["backup"]  # what is left of the cluster


def manage(code: str) -> None:
    run(NAME, f'datarun-manage shell --command "{code}"')
