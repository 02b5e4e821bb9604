"""The cluster that molecule has made: cloud-master, cloud-runner1, cloud-runner2. These tests only look at it."""

import base64
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.ansible.helpers import ROOT
from tests.ansible.mitogen import MITOGEN
from tests.openstack.conftest import MADE, STATE, environment, finish

HOSTS = {"cloud-master": "master", "cloud-runner1": "runner", "cloud-runner2": "runner"}


def addresses(server, kind):
    return [one["addr"] for one in server.addresses["private"] if one["OS-EXT-IPS:type"] == kind]


def rules(made, role):
    """(port, from where: addresses or the name of a group) of the group's rules for what comes in."""
    groups = {group.id: group for group in made.conn.network.security_groups()}
    [group] = [group for group in groups.values() if group.name == f"datarun-molecule-{role}"]
    let = [rule for rule in group.security_group_rules if (rule["direction"], rule["protocol"]) == ("ingress", "tcp")]
    return {(rule["port_range_min"], rule["remote_ip_prefix"] or groups[rule["remote_group_id"]].name) for rule in let}


def test_each_host_is_an_instance_that_says_whose_it_is(made):
    servers = made.servers()
    assert {name: server.metadata.get("datarun_role") for name, server in servers.items()} == HOSTS
    for server in servers.values():
        assert server.status == "ACTIVE"
        assert server.metadata["datarun_cluster"] == "molecule"
        assert server.flavor.name == "m1.small"
        assert server.key_name == "datarun-molecule"


def test_the_operator_can_log_in_with_a_key_and_has_sudo(made, admin):
    server = admin.compute.get_server(made.servers()["cloud-runner1"].id)
    data = base64.b64decode(server.user_data).decode()
    assert data.startswith("#cloud-config\n")
    [user] = yaml.safe_load(data)["users"]
    assert user["name"] == "debian"
    assert user["ssh_authorized_keys"] == [(STATE / "key.pub").read_text().strip()]
    assert "NOPASSWD" in user["sudo"]


def test_the_master_has_a_floating_ip_and_the_runners_have_none(made):
    floating = {name: len(addresses(server, "floating")) for name, server in made.servers().items()}
    assert floating == {"cloud-master": 1, "cloud-runner1": 0, "cloud-runner2": 0}


def test_the_runners_are_spread(made):
    [group] = made.conn.compute.server_groups()
    assert group.policy == "soft-anti-affinity"
    assert set(group.member_ids) == {made.servers()[name].id for name, role in HOSTS.items() if role == "runner"}


def test_the_master_lets_the_world_to_its_api_and_runners_alone_to_its_services(made):
    let = rules(made, "master")
    assert {(80, "0.0.0.0/0"), (443, "0.0.0.0/0"), (22, "0.0.0.0/0")} <= let
    assert {(5671, "datarun-molecule-runner"), (6379, "datarun-molecule-runner")} <= let
    assert {port for port, source in let if source == "0.0.0.0/0"} == {22, 80, 443}


def test_runners_let_in_ssh_and_what_their_firewalls_do(made):
    ssh = {(22, "0.0.0.0/0"), (22, "::/0"), (22, "datarun-molecule-master")}
    assert rules(made, "runner") == ssh | {(9100, "203.0.113.7/32")}


@pytest.fixture(scope="module")
def inventory(made):
    """What the openstack.cloud.openstack plugin finds."""
    done = subprocess.run(
        [Path(sys.executable).with_name("ansible-inventory"), "-i", "inventories/openstack/openstack.yml", "--list"],
        cwd=ROOT, env=environment(made.file), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout, object_hook=lambda found: found.get("__ansible_unsafe", found))


def test_the_inventory_plugin_finds_the_hosts_and_their_addresses(made, inventory):
    servers, found = made.servers(), inventory["_meta"]["hostvars"]
    assert set(found) == set(HOSTS)
    for name, server in servers.items():
        assert found[name]["ansible_host"] == (addresses(server, "floating") or addresses(server, "fixed"))[0]


def test_the_inventory_plugin_groups_them_by_their_roles(inventory):
    groups = {name: set(group.get("hosts", ())) for name, group in inventory.items() if name != "_meta"}
    assert any("master" in name and hosts == {"cloud-master"} for name, hosts in groups.items()), groups
    assert any("runner" in name and hosts == {"cloud-runner1", "cloud-runner2"} for name, hosts in groups.items()), (
        groups
    )


def test_check_mode_of_what_is_there_says_nothing_of_changes(made):
    before = made.all()
    process = subprocess.Popen(
        [Path(sys.executable).with_name("ansible-playbook"), "-i", MADE, "playbooks/instances_create.yml", "--check"],
        cwd=ROOT, env=environment(made.file) | MITOGEN, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert finish(process).changed == 0
    assert made.all() == before
