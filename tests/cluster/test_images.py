"""Runners from an image: an installed host is prepared and imaged, and hosts that are made from it join the cluster."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.load import Load
from tests.cluster.hosts import RUNNERS, VARIABLES, run
from tests.cluster.operations import under_load
from tests.cluster.playbooks import Inventory, rig
from tests.cluster.test_secrets import ALL, KEPT, VAULT, search
from tests.e2e.live import until

pytestmark = pytest.mark.operations

SOURCE, ADDRESS, IMAGE = "imaging", "10.81.0.14", "imaged-runner"
COPIES = {"copy1": "10.81.0.16", "copy2": "10.81.0.17"}
PREPARE, FROM_IMAGE = "playbooks/image_prepare.yml", ("-e", "from_image=true")
IDENTITY = "cat /etc/machine-id /etc/ssh/ssh_host_*_key.pub"
PASSWORD = hashlib.sha256(f"{VAULT['vault_runner_secret']}:{SOURCE}".encode()).hexdigest()
"""The runner's that was imaged."""


def flat(text: str) -> str:
    """Without the line breaks of Ansible's output."""
    return " ".join(text.split())


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inventory]:
    """The cluster's inventory with a bare runner more; at the end the cluster is as it was."""
    inventory = Inventory(tmp_path_factory.mktemp("images") / "inventory")
    template = inventory.runners[RUNNERS[0]]
    inventory.runners[SOURCE] = template | {"ansible_host": ADDRESS}
    inventory.save()
    rig("up", f"{SOURCE}=bookworm={ADDRESS}")
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, address in {SOURCE: ADDRESS, **COPIES}.items():
                patch.setitem(VARIABLES, name, VARIABLES[RUNNERS[0]] | {"ansible_host": address})
            yield inventory
        Inventory(tmp_path_factory.mktemp("reverted") / "inventory").play("site.yml")
    finally:
        rig("remove", SOURCE, *COPIES, IMAGE)


def test_a_bare_host_is_told_from_one_of_an_image(joined: Inventory) -> None:
    text = joined.play("site.yml", "--limit", SOURCE, *FROM_IMAGE, code=2).text
    assert f"{SOURCE} was made from no image (it has no /etc/datarun/image.json): it lacks" in flat(text)
    run(SOURCE, "test ! -e /etc/datarun && test ! -e /opt/datarun")


@pytest.fixture(scope="module")
def installed(joined: Inventory, load: Load) -> Inventory:
    """The host is a runner, from bare, and has tested folds."""
    with under_load(load, "site.yml --limit: a bare runner"):
        joined.play("site.yml", "--limit", SOURCE)
    joined.play("site.yml")
    run(SOURCE, "systemctl is-active datarun-runner")
    return joined


def test_it_prepares_no_host_that_nobody_named(installed: Inventory) -> None:
    assert "--limit HOST" in flat(installed.play(PREPARE, code=2).text)


def test_check_mode_says_what_would_be_erased_and_erases_nothing(installed: Inventory) -> None:
    text = installed.play(PREPARE, "--limit", SOURCE, "--check").text
    for path in ("/etc/datarun/secrets", "/etc/machine-id", "/etc/ssh/ssh_host_ed25519_key"):
        assert path in text
    run(SOURCE, "systemctl is-active datarun-runner && test -s /etc/machine-id && test -e /etc/datarun/runner.env")


@pytest.fixture(scope="module")
def identities(installed: Inventory, load: Load) -> list[str]:
    """Of the host that was prepared, broken off once, and imaged, and then of two hosts from its image."""
    found = [run(SOURCE, IDENTITY)]
    with under_load(load, "image_prepare.yml, broken off and run again"):
        installed.break_off(PREPARE, "--limit", SOURCE, at="Stop the services and the share")
        text = installed.play(PREPARE, "--limit", SOURCE).text
    assert f"{SOURCE} can be shut down and imaged" in flat(text)
    rig("image", SOURCE, IMAGE)
    rig("remove", SOURCE)
    template = installed.runners.pop(SOURCE)
    for name, address in COPIES.items():
        installed.runners[name] = template | {"ansible_host": address}
    installed.save()
    rig("up", *(f"{name}={IMAGE}={address}" for name, address in COPIES.items()))
    return found + [run(name, IDENTITY) for name in COPIES]


def test_each_host_has_a_machine_id_and_ssh_keys_of_its_own(identities: list[str]) -> None:
    lines = [line for identity in identities for line in identity.splitlines()]
    assert len(identities) == 3 and len(lines) >= 6
    assert len({line.rpartition(" ")[0] or line for line in lines}) == len(lines)  # without the comment, a host's name


def test_no_secret_nor_log_is_in_an_image(identities: list[str]) -> None:
    """Looked for in another way than the playbook does, on a host that was made from it."""
    [name, _] = COPIES
    find = f"printf '%s\\n' \"$words\" | grep -rlsaF -D skip -f - {KEPT}"
    assert search(name, ALL | {PASSWORD}, find) == []
    assert run(name, "ls -A /etc/datarun /var/lib/datarun").split() == [
        "/etc/datarun:", "image.json", "/var/lib/datarun:",
    ]  # fmt: skip
    before = "find /var/log -type f ! -newer /etc/datarun/image.json"
    assert run(name, before) == ""
    assert run(name, "systemctl is-enabled datarun-runner nftables 2>&1 || true").count("enabled") == 0


def test_an_image_that_is_too_old_is_refused(identities: list[str], installed: Inventory, tmp_path: Path) -> None:
    [name, _] = COPIES
    venv = "/opt/datarun/runner"
    wheel = f"{venv}/.wheel"

    def refused() -> str:
        text = flat(installed.play("site.yml", "--limit", name, *FROM_IMAGE, code=2).text)
        assert f"{name} was made from an image of 20" in text
        assert "which is too old for this inventory: it lacks" in text
        assert f"site.yml without from_image, with --limit {name}, installs that" in text
        return text

    installed.runners[name] |= {"runner_packages": ["humanize"], "common_packages": ["tree"]}
    installed.save()
    text = refused()
    assert "Debian packages: tree and runner_packages: humanize." in text
    del installed.runners[name]["runner_packages"], installed.runners[name]["common_packages"]
    installed.save()
    run(name, f"mv {wheel} {wheel}.kept; echo 'another version' >{wheel}")
    try:
        assert f"it lacks datarun as it is in this checkout, in {venv}." in refused()
    finally:
        run(name, f"mv {wheel}.kept {wheel}")
    run(name, "test ! -e /etc/datarun/runner.env")


def test_hosts_from_an_image_join_and_nothing_is_installed(
    identities: list[str], installed: Inventory, load: Load
) -> None:
    first, second = COPIES
    with under_load(load, "site.yml --limit -e from_image=true: a runner from an image"):
        installed.play("site.yml", "--limit", first, *FROM_IMAGE)
    with under_load(load, "site.yml -e from_image=true, broken off and run again") as accepted:
        installed.break_off("site.yml", "--limit", second, *FROM_IMAGE, at="Write the unit")
        recap = installed.play("site.yml", *FROM_IMAGE)
        until(lambda: served(load, accepted) >= COPIES.keys(), 120, "both serve folds")
    told = recap.text.rpartition("Require that all runners serve")[2]
    assert all(f"{name}:" in told for name in COPIES)
    for name in COPIES:
        assert run(name, "find /opt/datarun /var/lib/dpkg/status -type f -newer /etc/datarun/image.json") == ""
        run(name, "test ! -e /var/log/dpkg.log && test ! -e /var/log/apt/history.log")
    again = installed.play("site.yml")
    assert not any(again.changed.values()), again.text[-8000:]


def served(load: Load, folds: dict[int, str]) -> set[str]:
    """The names of the runners of these folds, as far as they have begun."""
    return {str(load.organiser.look(fold)["runner"]).removeprefix("celery@") for fold in list(folds)}
