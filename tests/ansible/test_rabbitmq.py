"""What RabbitMQ's users may do, as the inventory makes it: what is documented, for the queues that they serve."""

import json
import re

import pytest

from tests.ansible.helpers import ROOT, ansible

PLAY = """
- hosts: master
  gather_facts: false
  vars_files: [{root}/roles/rabbitmq/defaults/main.yml, {root}/roles/rabbitmq/vars/main.yml]
  tasks:
    - ansible.builtin.copy:
        content: "{{{{ lookup('ansible.builtin.template', '{root}/roles/rabbitmq/templates/definitions.json.j2') }}}}"
        dest: {target}
      vars: {{ansible_connection: local, rabbitmq_runners: "{{{{ cluster_runner_accounts }}}}",
              rabbitmq_runner_queues: "{{{{ cluster_runner_queues }}}}"}}
"""
QUEUES = {"one.example": ["L", "celery"], "two": ["H"], "three": None}


@pytest.fixture(scope="module")
def permissions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("play")
    for name in ("roles", "plugins", "group_vars"):
        (folder / name).symlink_to(ROOT / name)
    runners = {name: {"runner_queues": queues} if queues else {} for name, queues in QUEUES.items()}
    hosts = {"master": {"hosts": {"boss": {}}}, "runners": {"hosts": runners}}
    (folder / "hosts.json").write_text(json.dumps({"all": {"children": {"cluster": {"children": hosts}}}}))
    (folder / "play.yml").write_text(PLAY.format(root=ROOT, target=folder / "definitions.json"))
    secrets = {"vault_runner_secret": "s", "vault_rabbitmq_password": "p"}
    done = ansible("playbook", "-i", folder / "hosts.json", "-e", json.dumps(secrets), folder / "play.yml")
    assert done.returncode == 0, done.stdout
    return {one["user"]: one for one in json.loads((folder / "definitions.json").read_text())["permissions"]}


def documented(name, queues):
    text = (ROOT / "docs/configuration.md").read_text()
    rows = dict(re.findall(r"^\| (configure|write|read) \| `(.*)` \|$", text, re.MULTILINE))
    rules = {may: rule.replace("\\|", "|").replace("NAME", name) for may, rule in rows.items()}
    return rules | {"read": rules["read"].replace("L|H|celery|", "|".join([*queues, ""]), 1)}


@pytest.mark.parametrize("name", QUEUES)
def test_a_runner_may_do_what_is_documented_and_read_the_queues_that_it_serves(name, permissions):
    may = permissions[f"runner-{name}"]
    wanted = documented(re.escape(name), QUEUES[name] or ["L", "celery"])
    assert {what: may[what] for what in wanted} == wanted


def test_the_master_may_do_all(permissions):
    assert permissions["datarun"]["read"] == ".*"
    assert permissions.keys() == {"datarun", *(f"runner-{name}" for name in QUEUES)}
