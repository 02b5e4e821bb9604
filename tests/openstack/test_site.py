"""From an inventory without an address to a cluster, and its later life.

No hypervisor runs here. The network's addresses are those of bare test hosts (molecule/hosts): what is asked of an
instance is asked of the host that has the address of its port.
"""

import json
import re
import shutil
import subprocess
from types import SimpleNamespace

import pytest
import yaml

from tests.ansible.helpers import ROOT
from tests.chaos.load import Load
from tests.e2e import live
from tests.openstack.conftest import VARIABLES, Cluster, environment, make_project

pytestmark = pytest.mark.operations

RIG = ROOT / ".cluster"
MOLECULE = ROOT / "inventories/molecule/group_vars/cluster"
BARE = {"start": "10.81.0.10", "end": "10.81.0.12"}
"""The hosts that molecule/default makes, but its storage."""

ADDED = {
    "rig_folder": str(RIG),
    "ansible_ssh_private_key_file": "{{ rig_folder }}/key",
    "openstack_instance_public_key": "{{ lookup('ansible.builtin.file', rig_folder ~ '/key.pub') }}",
    "openstack_instance_flavor": "m1.small",
    "openstack_instance_floating_ip": False,  # nothing would lead to it
}
RUNNER = {
    "runner_concurrency": 1,
    "runner_queues": ["L", "H", "celery"],
    "runner_hard_time_limit": 60,
    "runner_soft_time_limit": 45,
    "runner_memory_limit": "1G",
}


class Site(Cluster):
    """An operator's copy of inventories/openstack, with a share and a vault as those of inventories/molecule.

    addresses: of all instances that there ever were.
    """

    def __init__(self, folder, project):
        super().__init__(folder, project, "birds", ["runner"])
        shutil.rmtree(self.folder / "group_vars")
        shutil.copytree(ROOT / "inventories/openstack", self.folder, dirs_exist_ok=True)
        for file in "main.yml", "vault.yml":
            shutil.copy(MOLECULE / file, self.folder / f"group_vars/cluster/a_{file}")
        self.variables = yaml.safe_load((self.folder / VARIABLES).read_text()) | ADDED
        self.hosts["children"]["runners"] |= {"vars": RUNNER, "children": {"birds_like": {}}}
        self.save()
        self.addresses = {}

    def environment(self):
        """Without Mitogen, which would insist on host keys that are known before."""
        return environment(self.project.file)

    def site(self, like):
        """site.yml with so many like runners."""
        recap = self.play("site.yml", "-e", f"runners_count={like}")
        found = self.project.servers().items()
        self.addresses |= {name: server.addresses["private"][0]["addr"] for name, server in found}
        return recap

    def run(self, name, command):
        """As root on the host that has the address that this instance had."""
        anyone = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
        done = subprocess.run(
            ["ssh", *anyone, "-i", RIG / "key", f"debian@{self.addresses[name]}", f"sudo {command}"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120,
        )  # fmt: skip
        return done.stdout.strip()

    def runners_at_work(self):
        found = json.loads(self.run("birds-master", "datarun-manage workers"))
        return {name.removeprefix("celery@") for name in found if name.startswith("celery@")}


class Organiser(live.Organiser):
    def __init__(self, site):
        vault = yaml.safe_load((MOLECULE / "vault.yml").read_text())
        address = f"https://{site.addresses['birds-master']}/"
        self.who = (address, "organiser", vault["vault_master_admin_password"])
        self.live = SimpleNamespace(evidence=lambda: site.run("birds-runner", "journalctl -u datarun-runner -n 20"))


@pytest.fixture(scope="module")
def site(tmp_path_factory, admin):
    """With one like runner, made of nothing."""
    folder = tmp_path_factory.mktemp("site")
    project = make_project(admin, folder, cidr="10.81.0.0/24", gateway_ip="10.81.0.1", allocation_pools=[BARE])
    site = Site(folder, project)
    site.site(like=1)
    return site


@pytest.fixture(scope="module")
def load(site, tmp_path_factory):
    folder = tmp_path_factory.mktemp("load")
    authority = folder / "ca.pem"
    authority.write_text(site.run("birds-master", "cat /etc/datarun/ca.pem"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REQUESTS_CA_BUNDLE", str(authority))
        yield Load(Organiser(site), folder, seed=1)


def test_of_nothing_there_is_a_cluster_that_works(site, load):
    """load has sent a fold, and has its predictions."""
    assert set(site.project.servers()) == {"birds-master", "birds-runner", "birds-like-1"}
    assert site.runners_at_work() == {"birds-runner", "birds-like-1"}
    again = site.site(like=1)
    assert again.changed == 0


def test_runners_behind_the_master_have_their_line_in_the_table(site):
    said = site.play("playbooks/status.yml", "-e", "runners_count=1").text
    assert re.search(r"birds-runner +yes", said), said
    assert re.search(r"birds-like-1 +yes", said), said


def test_a_runner_that_goes_finishes_its_folds(site, load):
    with load.steady(pause=1.0) as accepted:
        live.until(lambda: len(accepted) >= 5, 60, "folds are accepted")
        site.site(like=0)
    verdict = load.judge(accepted, bound=600)
    assert not verdict.broken()
    assert set(verdict.attempts) == {1}
    assert set(site.project.servers()) == {"birds-master", "birds-runner"}
    assert site.runners_at_work() == {"birds-runner"}
    assert site.run("birds-like-1", "systemctl is-enabled datarun-runner") == "disabled"


def test_a_runner_more_takes_folds(site, load):
    site.site(like=1)
    assert set(site.project.servers()) == {"birds-master", "birds-runner", "birds-like-1"}
    assert site.runners_at_work() == {"birds-runner", "birds-like-1"}


def test_an_image_is_made_of_a_host_that_was_prepared_for_it(site, load):
    said = site.play("playbooks/images_create.yml", "-e", "runners_count=1", "--limit", "birds-like-1").text
    [image] = {name for kind, name, _ in site.project.all() if kind == "image"}
    assert image.startswith("datarun_runner-1.")
    assert image in said
    assert site.project.servers()["birds-like-1"].status == "SHUTOFF"
    assert site.runners_at_work() == {"birds-runner"}


def test_destroyed_it_is_gone(site, load):
    site.destroy("-e", "runners_count=1")
    assert {kind for kind, _, _ in site.project.all()} == {"image"}
