"""upgrade.yml refuses what it can't do before anything is touched."""

import json
import subprocess

import pytest
import yaml

from tests.ansible.helpers import ROOT, ansible


@pytest.fixture
def refused(tmp_path):
    """What upgrade.yml prints for these arguments, on one line. None of its hosts is there."""

    def refused(*arguments):
        hosts = {name: {"hosts": {name: {"ansible_host": "192.0.2.1"}}} for name in ("master", "runners")}
        inventory = tmp_path / "hosts.yml"
        inventory.write_text(yaml.safe_dump({"cluster": {"children": hosts}}))
        done = ansible("playbook", "-i", inventory, "playbooks/upgrade.yml", *arguments, XDG_CACHE_HOME=str(tmp_path))
        assert done.returncode == 2, done.stdout
        assert "UNREACHABLE" not in done.stdout
        return " ".join(done.stdout.split())

    return refused


def test_it_rejects_a_missing_version(refused):
    assert "version is missing: say which, a tag, branch or commit of this checkout: -e version=v1.1" in refused()


@pytest.mark.parametrize("version", ["v0.0-of-nobody", "--help", "HEAD:app", "$(touch /tmp/x)"])
def test_it_rejects_what_is_no_version(refused, version):
    said = refused("-e", json.dumps({"version": version}))
    assert f"version is '{version}': this checkout has no such tag, branch or commit." in said


def test_it_rejects_a_version_without_datarun(refused):
    git = ["git", "-C", ROOT, "-c", "user.name=tests", "-c", "user.email=tests@example.org"]
    empty = subprocess.run(
        [*git, "hash-object", "-t", "tree", "/dev/null"], stdout=subprocess.PIPE, text=True, check=True
    )
    commit = subprocess.run(
        [*git, "commit-tree", "-m", "nothing", empty.stdout.strip()], stdout=subprocess.PIPE, text=True, check=True
    )
    assert "pathspec 'app' did not match any files" in refused("-e", f"version={commit.stdout.strip()}")


def test_it_rejects_a_part_of_the_cluster(refused):
    assert "--limit master: a cluster is upgraded as a whole, leave it out" in refused(
        "-e", "version=HEAD", "--limit", "master"
    )
