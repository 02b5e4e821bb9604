"""What image_prepare.yml erases, and what it finds however it got there: on a root file system of the test's own."""

import hashlib
import json
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ansible.helpers import ROOT

SCRIPT = (ROOT / "playbooks/files/image_leftovers.py").read_text()
SECRET = "correct horse/battery"
KEY = """-----BEGIN OPENSSH PRIVATE KEY-----
b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAMwAAAAtzc2gtZW
{0}
-----END OPENSSH PRIVATE KEY-----
"""
"""Of ed25519: the first line is that of all of them."""
HOST = {
    "etc/machine-id": "0123456789abcdef",
    "etc/ssh/ssh_host_ed25519_key": KEY.format("QyNTUxOQAAACAofTheHost"),
    "etc/ssh/ssh_host_ed25519_key.pub": "ssh-ed25519 AAAA",
    "etc/ssh/sshd_config": "",
    "etc/datarun/image.json": "{}",
    "etc/datarun/secrets/runner_broker_url": f"amqps://runner:{SECRET}@host",
    "etc/datarun/sciencefs/key": "-----BEGIN OPENSSH PRIVATE KEY-----\nx",
    "etc/systemd/system/datarun-runner.service": "",
    "etc/systemd/system/mnt-datarun.mount": "",
    "etc/systemd/system/other.service": "",
    "home/debian/.ssh/authorized_keys": "ssh-ed25519 AAAA",
    "home/debian/.bash_history": f"export PGPASSWORD='{SECRET}'",
    "opt/datarun/runner/.wheel": "stamp",
    "root/.ansible/tmp/ansible-tmp-1/source": SECRET,
    "srv/copies/.hidden": "rows",
    "var/lib/datarun-runner/spool/1/task.result": "{}",
    "var/lib/redis/dump.rdb": "",
    "var/log/journal/0123456789abcdef/system.journal": "",
    "var/log/redis/redis-server.log": "",
    "var/tmp/x": "",
}
KEPT = {
    "etc/machine-id",
    "etc/ssh/sshd_config",
    "etc/datarun/image.json",
    "etc/systemd/system/other.service",
    "home/debian/.ssh/authorized_keys",
    "opt/datarun/runner/.wheel",
}
ASKED = {
    "gone": ["/etc/systemd/system/mnt-datarun.mount"],
    "empty": ["/srv/copies"],
    "secrets": [SECRET, KEY.format("QyNTUxOQAAACAofTheShare")],
}


class Machine:
    """A host whose disk is a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("bin", "lib", "lib64"):
            (root / name).symlink_to(f"usr/{name}")
        for path, text in HOST.items():
            self.write(path, text)
        self.write("fake/journalctl", "#!/bin/sh\n")
        (root / "fake/journalctl").chmod(0o755)

    def write(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def files(self) -> set[str]:
        found = {str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.is_file()}
        return {path for path in found if path.split("/")[0] in {name.split("/")[0] for name in HOST}}

    def left(self, *arguments: str) -> list[str]:
        done = subprocess.run(
            ["bwrap", "--bind", str(self.root), "/", "--ro-bind", "/usr", "/usr", "--proc", "/proc", "--dev", "/dev"]
            + ["--setenv", "PATH", "/fake:/usr/bin", "/usr/bin/python3", "-c", SCRIPT, *arguments],
            input=json.dumps(ASKED), stdout=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
        return done.stdout.splitlines()


@pytest.fixture
def machine() -> Iterator[Machine]:
    # Not on the disk of /usr, which would be searched, too.
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Machine(Path(folder))


def test_it_erases_all_that_must_not_be_there_and_nothing_else(machine: Machine) -> None:
    assert machine.left("--erase") == []
    assert machine.files() == KEPT
    assert (machine.root / "etc/machine-id").read_text() == ""
    assert (machine.root / "var/log/redis").is_dir()
    assert machine.left() == []


def test_it_says_what_it_would_erase_and_changes_nothing(machine: Machine) -> None:
    before = machine.files()
    left = machine.left()
    assert machine.files() == before
    assert {"/etc/machine-id", "/etc/ssh/ssh_host_ed25519_key", "/etc/datarun/secrets", "/var/tmp/x"} <= set(left)
    assert "/home/debian/.bash_history (a secret of the inventory is in it)" in left
    assert SECRET not in "".join(left)


@pytest.mark.parametrize(
    ("path", "text", "why"),
    [
        ("opt/notes", f"a line\nwith {SECRET}!\n", "a secret of the inventory is in it"),
        ("usr-local/env", "amqps://u:correct%20horse%2Fbattery@h", "a secret of the inventory is in it"),
        ("var/lib/x.acl", hashlib.sha256(SECRET.encode()).hexdigest(), "a secret of the inventory is in it"),
        ("root/.ssh/id_rsa", "-----BEGIN RSA PRIVATE KEY-----\nx\n", "a private key"),
        ("etc/ssl/own.key", "-----BEGIN PRIVATE KEY-----\nx\n", "a private key"),
    ],
    ids=["as it is", "in a url", "as a digest", "a user's key", "a key"],
)
def test_it_names_what_it_does_not_know_and_leaves_the_way_in(machine: Machine, path: str, text: str, why: str) -> None:
    machine.write(path, text)
    keys = ["/etc/ssh/ssh_host_ed25519_key", "/etc/ssh/ssh_host_ed25519_key.pub"]
    assert machine.left("--erase") == [*sorted([*keys, f"/{path} ({why})"])]
    assert (machine.root / path).read_text() == text
    (machine.root / path).unlink()
    assert machine.left("--erase") == []
