"""Passwords, the share's key and certificates are changed under load, and back; the old ones are refused."""

import dataclasses
import json
import secrets
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from tests.chaos import table
from tests.chaos.load import Load
from tests.cluster.conftest import Organiser, url
from tests.cluster.faults import STORAGE
from tests.cluster.hosts import MASTER, RUNNERS, VARIABLES, as_datarun, run
from tests.cluster.load import starts
from tests.cluster.operations import under_load
from tests.cluster.playbooks import Inventory
from tests.e2e.live import until

pytestmark = pytest.mark.operations

PLAYBOOK = "playbooks/secrets_rotate.yml"
FIRST, SECOND = RUNNERS
LOGIN = VARIABLES[MASTER]["master_admin_login"]
VAULT: dict[str, str] = VARIABLES[MASTER]["vault"]
KEY = "vault_sciencefs_private_key"
KEYS = "/home/science/authorized_keys"
MARKER = VARIABLES[MASTER]["cluster_share_marker"]

# What broker, cache and database say to addresses and passwords, as JSON.
LET_IN = """
import json, sys
import redis
from kombu import Connection
from runner import config

given = json.loads(ASKED)

def broker():
    with Connection(given["broker_url"], ssl=config.broker_tls(), connect_timeout=5) as connection:
        connection.connect()

def cache():
    address = given["result_url"]
    redis.Redis.from_url(address, socket_timeout=5, retry=None, **config.result_tls()).get("celery-task-meta-trial")

def database():
    import os, psycopg2
    name, user = os.environ["DR_DATABASE_NAME"], os.environ["DR_DATABASE_USER"]
    psycopg2.connect(host="localhost", dbname=name, user=user, password=given["database_password"]).close()

said = {}
for trial in (broker, cache, *([database] if "database_password" in given else [])):
    try:
        trial()
        said[trial.__name__] = "let in"
    except Exception as error:
        said[trial.__name__] = repr(error)
print(json.dumps(said))
"""


@dataclasses.dataclass
class Vault:
    """The vault of a copy of the inventory. values: what it says now."""

    inventory: Inventory
    values: dict[str, str]

    def save(self, values: dict[str, str]) -> None:
        self.values = values
        path = self.inventory.folder / "group_vars" / "cluster" / "vault.yml"
        path.write_text(yaml.safe_dump(values))


@pytest.fixture(scope="module")
def load(api: Organiser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Load]:
    """Of a user whose password stays: that of the first user changes in the middle."""
    name, password = f"steady-{secrets.token_hex(4)}", secrets.token_hex(12)
    run(MASTER, f"echo {password} | datarun-manage createuser {name} steady@example.org")
    steady = Organiser()
    steady.who = (url(), name, password)
    yield Load(steady, tmp_path_factory.mktemp("submissions"), table.SEED)
    run(MASTER, "datarun-manage shell --command \"from django.contrib.auth.models import User; "
        f"User.objects.filter(username='{name}').update(is_active=False)\"")  # fmt: skip


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vault]:
    """At the end the cluster's own secrets hold again, whatever has failed."""
    inventory = Inventory(tmp_path_factory.mktemp("rotated") / "inventory")
    vault = Vault(inventory, VAULT)
    yield vault
    if vault.values != VAULT:
        vault.save(VAULT)
        inventory.play(PLAYBOOK)


@pytest.fixture(scope="module")
def new_key(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A second key of the share's login, taken beside the first."""
    path = tmp_path_factory.mktemp("key") / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "second", "-f", path], check=True)
    public = path.with_suffix(".pub").read_text().strip()
    old = run(STORAGE, f"cat {KEYS}")
    options = old.partition(" ssh-")[0]
    run(STORAGE, f"cat >>{KEYS} <<'END'\n{options} {public}\nEND")
    yield path.read_text()
    run(STORAGE, f"cat >{KEYS} <<'END'\n{old.strip()}\nEND")


def used(host: str) -> dict[str, str]:
    """The addresses with passwords that a host has been given."""
    part = "master" if host == MASTER else "runner"
    names = ["broker_url", "result_url"] + (["database_password"] if host == MASTER else [])
    return {name: run(host, f"cat /etc/datarun/secrets/{part}_{name}") for name in names}


def let_in(host: str, given: dict[str, str]) -> dict[str, str]:
    part = "master" if host == MASTER else "runner"
    printed = run(host, as_datarun(part, LET_IN.replace("ASKED", repr(json.dumps(given)))))
    found: dict[str, str] = json.loads(printed.splitlines()[-1])
    return found


def assert_in_use(before: dict[str, dict[str, str]], old: dict[str, str], new: dict[str, str]) -> None:
    """before: what each host used until then; old, new: the vault."""
    for host, given in before.items():
        assert set(let_in(host, used(host)).values()) == {"let in"}
        refused = let_in(host, given)
        assert "AccessRefused" in refused["broker"]
        assert "AuthenticationError" in refused["cache"]
        assert "password authentication failed" in refused.get("database", "password authentication failed")
    for path, name in (("runapp/rawdata/", "admin"), ("flower/", "flower")):
        for vault, code in ((new, 200), (old, 401)):
            who = LOGIN, vault[f"vault_master_{name}_password"]
            assert requests.get(url() + path, auth=who, timeout=30).status_code == code


def assert_site_changes_nothing(inventory: Inventory) -> None:
    recap = inventory.play("site.yml")
    assert not any(recap.changed.values()), recap.text[-20000:]


def test_a_key_that_the_share_does_not_take_changes_nothing(vault: Vault, tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key"], check=True)
    before, given = starts(), used(MASTER)
    vault.save(changed(VAULT) | {KEY: (tmp_path / "key").read_text()})
    text = vault.inventory.play(PLAYBOOK, code=2).text
    assert "does not take the key of vault_sciencefs_private_key for science: nothing was changed." in " ".join(
        text.split()
    )
    vault.save(VAULT)
    assert (starts(), used(MASTER)) == (before, given)


def test_check_mode_changes_nothing(vault: Vault) -> None:
    before, given = starts(), {host: used(host) for host in (MASTER, *RUNNERS)}
    vault.save(changed(VAULT))
    recap = vault.inventory.play(PLAYBOOK, "--check")
    vault.save(VAULT)
    assert all(recap.changed[host] for host in (MASTER, *RUNNERS))
    assert (starts(), {host: used(host) for host in (MASTER, *RUNNERS)}) == (before, given)


def test_all_secrets_change_under_load_and_the_old_ones_are_refused(
    vault: Vault, load: Load, api: Organiser, new_key: str
) -> None:
    before = {host: used(host) for host in (MASTER, *RUNNERS)}
    vault.save(changed(VAULT) | {KEY: new_key})
    with under_load(load, "secrets rotated"):
        vault.inventory.play(PLAYBOOK)
    assert_in_use(before, VAULT, vault.values)
    assert_site_changes_nothing(vault.inventory)
    assert_the_share_comes_back_with_its_new_key()


def assert_the_share_comes_back_with_its_new_key() -> None:
    """The login does without its first key, and each connection is cut."""
    both = run(STORAGE, f"cat {KEYS}")
    run(STORAGE, f"sed -i 1d {KEYS}; pkill --exact sftp-server || true")
    try:
        for host in (MASTER, *RUNNERS):
            until(partial(run, host, f"cat {MARKER} || true"), 60, f"{host} sees the share")
    finally:
        run(STORAGE, f"cat >{KEYS} <<'END'\n{both.strip()}\nEND")


def test_a_rotation_that_was_broken_off_goes_on(vault: Vault, load: Load, new_key: str) -> None:
    """Back to what the vault said at first."""
    before, old = {host: used(host) for host in (MASTER, *RUNNERS)}, vault.values
    vault.save(VAULT)
    with under_load(load, "secrets rotated, broken off twice"):
        vault.inventory.break_off(PLAYBOOK, at="Have the API read its secrets while it goes on answering")
        vault.inventory.break_off(PLAYBOOK, at="Start the runner")
        vault.inventory.play(PLAYBOOK)
    assert_in_use(before, old, VAULT)
    assert_site_changes_nothing(vault.inventory)


def test_a_new_authority_is_trusted_before_it_signs(inventory: Inventory, load: Load, authority: Path) -> None:
    """Clients that have the new authority's certificate in time notice nothing, whichever they use meanwhile."""
    old = authority.with_name("old.pem")
    old.write_text(authority.read_text())
    before = starts()
    with under_load(load, "new authority announced, broken off"):
        inventory.break_off(PLAYBOOK, "-e", "certificates=authority", at="Trust it beside the old one")
        inventory.play(PLAYBOOK, "-e", "certificates=authority")
    assert answers(old)
    authority.write_text(run(MASTER, "cat /etc/datarun/ca.pem"))
    assert authority.read_text().startswith(old.read_text())
    assert {run(host, "cat /etc/datarun/ca.pem") for host in (MASTER, *RUNNERS)} == {authority.read_text()}
    assert answers(authority)

    with under_load(load, "certificate of the new authority, broken off"):
        inventory.break_off(PLAYBOOK, "-e", "certificates=server", at="Give it to nginx")
        inventory.play(PLAYBOOK, "-e", "certificates=server")
    assert not answers(old)
    assert answers(authority)
    authority.write_text(run(MASTER, "cat /etc/datarun/ca.pem"))
    assert answers(authority)
    assert authority.read_text().count("BEGIN CERTIFICATE") == 1
    runners = [f"{name} datarun-runner" for name in RUNNERS]
    assert {unit: starts()[unit] for unit in runners} == {unit: before[unit] for unit in runners}
    for host in (MASTER, *RUNNERS):
        assert set(let_in(host, used(host)).values()) == {"let in"}
    assert_site_changes_nothing(inventory)


def test_a_new_certificate_of_the_same_authority(inventory: Inventory, load: Load, authority: Path) -> None:
    before = served()
    with under_load(load, "certificate renewed"):
        inventory.play(PLAYBOOK, "-e", "certificates=server")
    assert answers(authority)
    assert len({served(port) for port in (443, 5671, 6379)}) == 1
    assert served() != before
    assert run(MASTER, "cat /etc/datarun/ca.pem") == authority.read_text()


def answers(trusted: Path) -> bool:
    try:
        return requests.get(url() + "healthz", verify=str(trusted), timeout=30).status_code == 200
    except requests.exceptions.SSLError:
        return False


def served(port: int = 443) -> str:
    """The certificate that the master shows, asked on the master itself."""
    script = f"import ssl; print(ssl.get_server_certificate(('127.0.0.1', {port})))"
    return run(MASTER, f'/usr/bin/python3 -c "{script}"')


def changed(values: dict[str, Any]) -> dict[str, Any]:
    """Each password another one, with what has to be quoted in an address; the share's key is the same."""
    kept = KEY, "vault_backup_password"  # that one belongs to the copies that are there
    return {name: value if name in kept else f"new {secrets.token_hex(12)}: /@" for name, value in values.items()}
