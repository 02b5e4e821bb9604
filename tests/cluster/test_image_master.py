"""A master from an image: a whole cluster of one host, so that the other one's data stay."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.chaos.load import Verdict
from tests.cluster import operations
from tests.cluster.hosts import RUNNERS, VARIABLES, run
from tests.cluster.playbooks import Inventory, Recap, rig
from tests.cluster.test_images import FROM_IMAGE, IDENTITY, PREPARE, flat
from tests.cluster.test_secrets import ALL, KEPT, search

pytestmark = pytest.mark.operations

SOURCE, IMAGE = "imaging-master", "imaged-master"
HOSTS = {SOURCE: "10.81.0.18", "master1": "10.81.0.19", "master2": "10.81.0.20"}
ERASE = "-e", "image_erase=true"


@pytest.fixture(scope="module", autouse=True)
def reached() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, address in HOSTS.items():
            patch.setitem(VARIABLES, name, VARIABLES[RUNNERS[0]] | {"ansible_host": address})
        yield


def cluster_of(name: str, folder: Path) -> Inventory:
    """One host that is master and runner, with its own disk for a share."""
    inventory = Inventory(folder / name)
    cluster = inventory.hosts["rig"]["children"].pop("cluster")
    inventory.hosts["rig"]["children"] = {"cluster": cluster}
    machine = {"ansible_host": HOSTS[name], "runner_concurrency": 2, "runner_queues": ["L", "H", "celery"]}
    cluster["children"] = {"master": {"hosts": {name: machine}}, "runners": {"hosts": {name: None}}}
    inventory.save()
    main = inventory.folder / "group_vars/cluster/main.yml"
    variables = yaml.safe_load(main.read_text())
    kept = {key: value for key, value in variables.items() if not key.startswith("sciencefs_")}
    main.write_text(yaml.safe_dump(kept | {"sciencefs_type": "local"}))
    return inventory


def timed(what: str, inventory: Inventory, *arguments: str) -> Recap:
    """site.yml, with a row of its own: it makes another cluster than the one that has the load."""
    began = time.monotonic()
    recap = inventory.play("site.yml", *arguments)
    operations.rows.append(operations.Row(what, time.monotonic() - began, 0.0, Verdict()))
    return recap


def accepted(name: str, recap: Recap) -> bool:
    return f"{name}:" in recap.text.rpartition("Require that all runners serve")[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inventory]:
    inventory = cluster_of(SOURCE, tmp_path_factory.mktemp("source"))
    rig("up", f"{SOURCE}=trixie={HOSTS[SOURCE]}")
    try:
        assert accepted(SOURCE, timed("site.yml: one bare host, master and runner", inventory))
        yield inventory
    finally:
        rig("remove", *HOSTS, IMAGE)


def test_a_master_with_anything_of_value_is_not_erased(installed: Inventory) -> None:
    run(SOURCE, "echo n0t-a-secret-0f-anybody | datarun-manage createuser somebody somebody@example.org")
    text = flat(installed.play(PREPARE, "--limit", SOURCE, code=2).text)
    assert f"{SOURCE} has 1 more users, which would be erased; nothing was changed" in text
    run(SOURCE, "systemctl is-active datarun-web datarun-runner postgresql")


@pytest.fixture(scope="module")
def identity(installed: Inventory) -> str:
    """Of the host that was prepared, broken off twice, and imaged."""
    before = run(SOURCE, IDENTITY)
    for task in ("Let none of them start with the image", "Note what the image is"):
        installed.break_off(PREPARE, "--limit", SOURCE, *ERASE, at=task)
    assert f"{SOURCE} can be shut down and imaged" in flat(installed.play(PREPARE, "--limit", SOURCE, *ERASE).text)
    rig("image", SOURCE, IMAGE)
    rig("remove", SOURCE)
    return before


def test_a_master_from_an_image_is_accepted_and_nothing_is_installed(identity: str, tmp_path: Path) -> None:
    name = "master1"
    rig("up", f"{name}={IMAGE}={HOSTS[name]}")
    assert search(name, ALL, f"printf '%s\\n' \"$words\" | grep -rlsaF -D skip -f - {KEPT}") == []
    assert run(name, "ls -A /mnt/datarun /var/lib/redis /var/lib/rabbitmq").split() == [
        "/mnt/datarun:", "/var/lib/rabbitmq:", "/var/lib/redis:",
    ]  # fmt: skip
    assert not {*identity.splitlines()} & {*run(name, IDENTITY).splitlines()}
    inventory = cluster_of(name, tmp_path)
    assert accepted(name, timed("site.yml -e from_image=true: the same from an image", inventory, *FROM_IMAGE))
    assert run(name, "find /opt/datarun /var/lib/dpkg/status -type f -newer /etc/datarun/image.json") == ""
    run(name, "test ! -e /var/log/dpkg.log && test ! -e /var/log/apt/history.log")
    again = inventory.play("site.yml")
    assert again.changed == {name: 0}, again.text[-8000:]
    rig("remove", name)


def test_a_master_from_an_image_is_accepted_after_it_broke_off(identity: str, tmp_path: Path) -> None:
    name = "master2"
    rig("up", f"{name}={IMAGE}={HOSTS[name]}")
    inventory = cluster_of(name, tmp_path)
    inventory.break_off("site.yml", *FROM_IMAGE, at="Find the cluster that Debian has made")
    inventory.break_off("site.yml", *FROM_IMAGE, at="Declare the queues")
    assert accepted(name, inventory.play("site.yml", *FROM_IMAGE))
