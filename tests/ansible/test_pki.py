"""A new authority and a new certificate, step by step: what is in use is trusted at each of them."""

import json
import os
import subprocess
import sys

import pytest

from tests.ansible.helpers import ansible

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the role gives its files to root")


class Authority:
    """The role's files in a folder of the test's own."""

    def __init__(self, folder):
        self.folder, self.trusted = folder / "pki", folder / "ca.pem"

    def play(self, *steps, **more):
        tasks = [{"ansible.builtin.include_role": {"name": "pki", "tasks_from": step}} for step in steps]
        playbook = self.folder.parent / "play.yml"
        playbook.write_text(json.dumps([{"hosts": "localhost", "gather_facts": False, "tasks": tasks}]))
        variables = {
            "ansible_python_interpreter": sys.executable,
            "pki_authority": "localhost",
            "pki_names": ["IP:127.0.0.1"],
            "pki_ca_file": str(self.trusted),
            "__pki_folder": str(self.folder),
        }
        done = ansible("playbook", playbook, "-e", json.dumps(variables | more))
        assert done.returncode == 0, done.stdout

    def read(self, name):
        return (self.folder / name).read_bytes()

    def trusts(self, certificate):
        command = ["openssl", "verify", "-verify_ip", "127.0.0.1", "-CAfile", self.trusted]
        return subprocess.run([*command, self.folder / certificate], capture_output=True).returncode == 0


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    authority = Authority(tmp_path_factory.mktemp("first"))
    authority.play("authority", "server", "trust")
    return authority


@pytest.fixture
def authority(first, tmp_path):
    subprocess.run(["cp", "-a", first.folder, first.trusted, tmp_path], check=True)
    return Authority(tmp_path)


def test_the_certificate_is_trusted(first):
    assert first.trusts("server.pem")


def test_a_new_certificate_of_the_same_authority(authority):
    before, trusted = authority.read("server.pem"), authority.trusted.read_bytes()
    authority.play("trust", "renew", "retire", "trust")
    assert authority.read("server.pem") != before
    assert authority.trusts("server.pem")
    assert authority.trusted.read_bytes() == trusted


def test_a_new_authority_signs_nothing_until_the_certificate_is_renewed(authority):
    (authority.folder / "old.pem").write_bytes(authority.read("server.pem"))
    old = authority.trusted.read_bytes()
    authority.play("announce", "trust")
    assert authority.trusted.read_bytes() == old + authority.read("next/ca.pem")
    assert authority.trusts("server.pem")
    new = authority.read("next/ca.pem")
    authority.play("announce", "trust")  # as where the first run was broken off
    assert authority.read("next/ca.pem") == new
    assert authority.read("server.pem") == authority.read("old.pem")

    authority.play("renew", "trust")
    assert authority.read("server.pem") != authority.read("old.pem")
    assert authority.trusts("server.pem")
    assert authority.trusts("old.pem")  # which its services have until they load the new one

    authority.play("retire", "trust")
    assert authority.trusted.read_bytes() == new
    assert authority.trusts("server.pem")
    assert not authority.trusts("old.pem")
    before = authority.read("server.pem")
    authority.play("authority", "server", "trust")  # as site.yml does
    assert authority.read("server.pem") == before


def test_what_a_broken_run_left_is_made_anew(authority):
    (authority.folder / "new").mkdir()
    (authority.folder / "new" / "server.key").write_text("half a key")
    authority.play("renew", "trust")
    assert authority.trusts("server.pem")
    assert not (authority.folder / "new").exists()
