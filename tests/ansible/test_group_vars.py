"""The top-level group_vars/ hold for site.yml and for a playbook alone, and a cluster's own go before them."""

import os

import pytest

from tests.ansible.helpers import ROOT, ansible

PLAY = """
- hosts: cluster
  gather_facts: false
  tasks:
    - ansible.builtin.debug: {msg: "vhost={{ rabbitmq_vhost }} mount={{ cluster_mount_point }}"}
"""


def test_playbooks_have_the_group_vars_of_the_root():
    assert os.readlink(ROOT / "playbooks" / "group_vars") == "../group_vars"
    assert [path.name for path in (ROOT / "group_vars").iterdir()] == ["all"]


@pytest.mark.parametrize("entry", ["site.yml", "playbooks/probe.yml"])
def test_they_hold_and_a_cluster_overrides_them(entry, tmp_path):
    (tmp_path / "playbooks").mkdir()
    (tmp_path / "group_vars").symlink_to(ROOT / "group_vars")
    (tmp_path / "playbooks" / "group_vars").symlink_to("../group_vars")
    (tmp_path / "playbooks" / "probe.yml").write_text(PLAY)
    (tmp_path / "site.yml").write_text("- ansible.builtin.import_playbook: playbooks/probe.yml\n")
    cluster = tmp_path / "inventory" / "group_vars" / "cluster"
    cluster.mkdir(parents=True)
    (cluster / "main.yml").write_text("sciencefs_mount_point: /srv/share\n")
    (cluster.parents[1] / "hosts.yml").write_text("cluster: {children: {master: {hosts: {boss: {}}}}}\n")
    done = ansible("playbook", "-i", tmp_path / "inventory", tmp_path / entry)
    assert done.returncode == 0, done.stdout
    assert "vhost=datarun mount=/srv/share" in done.stdout
