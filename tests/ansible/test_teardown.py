"""teardown.yml touches nothing before it was told the cluster's name; what comes next fails, as no host is reached."""

import pytest

from tests.ansible.helpers import ansible

HOSTS = """
cluster:
  vars: {ansible_host: 192.0.2.1, ansible_connection: ssh}
  children:
    master: {hosts: {boss: }}
    runners: {hosts: {boss: }}
"""


@pytest.fixture
def teardown(tmp_path):
    """teardown(arguments...): what it said of a cluster that is called `mine`."""
    inventory = tmp_path / "mine" / "hosts.yml"
    inventory.parent.mkdir()
    inventory.write_text(HOSTS)

    def run(*arguments, source=inventory.parent):
        done = ansible("playbook", "-i", source, "playbooks/teardown.yml", *arguments, ANSIBLE_TIMEOUT="1")
        assert done.returncode != 0
        return " ".join(done.stdout.split())

    return run


@pytest.mark.parametrize("name", ["", "yours", "mine/", "MINE"])
def test_it_rejects_another_name(teardown, name):
    said = teardown("-e", f"cluster_name={name}")
    assert f"'{name}' is not the name of this cluster" in said
    assert "unreachable=0" in said


def test_it_rejects_to_go_on_where_nobody_answers(teardown):
    said = teardown()
    assert "is not the name of this cluster" in said
    assert "unreachable=0" in said


def test_the_name_is_that_of_the_inventorys_folder(teardown, tmp_path):
    for source in (tmp_path / "mine", tmp_path / "mine" / "hosts.yml"):
        said = teardown("-e", "cluster_name=mine", source=source)
        assert "is not the name" not in said
        assert "unreachable=1" in said
