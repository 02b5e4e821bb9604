"""A project of each test's own on the APIs that `molecule/apis up` has started, and clusters in it."""

import os
import re
import secrets
import shutil
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import openstack
import pytest
import requests
import yaml

from tests.ansible.helpers import ENVIRONMENT, ROOT
from tests.ansible.mitogen import MITOGEN

STATE = ROOT / ".openstack"
MADE = ROOT / "molecule/openstack/inventory"
"""The inventory of the cluster that molecule has made before the tests."""

VARIABLES = "group_vars/cluster/main.yml"

SECONDS = 1200.0


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents and not item.get_closest_marker("operations"):
            item.add_marker("openstack")
    # The longest first, so that the processes end together.
    items.sort(key=lambda item: item.path.name != "test_scale.py")


def connect(file, cloud="real"):
    return openstack.config.OpenStackConfig(config_files=[str(file)], load_envvars=False).get_one(cloud)


class Project:
    """conn: openstacksdk as its user; clouds: its clouds.yaml (cloud real), which a test edits."""

    def __init__(self, file):
        self.file, self.clouds = file, yaml.safe_load(file.read_text())
        self.conn = openstack.connection.Connection(config=connect(file))

    def save(self):
        self.file.write_text(yaml.safe_dump(self.clouds))

    def through(self, proxy, *services):
        """All calls of the services (compute, network ...) go through it, but those of `conn`."""
        for service in services:
            address = getattr(self.conn, service).get_endpoint()  # with its version, which the catalogue may leave out
            self.clouds["clouds"]["real"][f"{service}_endpoint_override"] = proxy.before(address)
        self.save()

    def all(self):
        """What there is in the project, each thing as what it is, its name and id; without the network's own."""
        conn, mine = self.conn, {"project_id": self.conn.current_project_id}
        found = {
            "server": conn.compute.servers(),
            "key pair": conn.compute.keypairs(),
            "server group": conn.compute.server_groups(),
            "volume": conn.block_storage.volumes(),
            "port": (port for port in conn.network.ports(**mine) if not port.device_owner.startswith("network:")),
            "security group": (one for one in conn.network.security_groups(**mine) if one.name != "default"),
            "floating IP": conn.network.ips(**mine),
            "image": conn.image.images(owner=mine["project_id"]),
        }
        return {(kind, one.name, one.id) for kind, things in found.items() for one in things}

    def servers(self):
        return {server.name: server for server in self.conn.compute.servers()}


class Cluster:
    """An inventory called `name`; play() runs a playbook on it with the project's credentials.

    variables, hosts: what is in its files; save() after each edit.
    """

    def __init__(self, folder, project, name, runners=("one",)):
        self.folder, self.project, self.name = folder / name, project, name
        self.folder.mkdir()
        shutil.copytree(MADE / "group_vars", self.folder / "group_vars")
        self.master = f"{name}-master"
        own = {"openstack_instance_cluster": name}
        self.variables = yaml.safe_load((self.folder / VARIABLES).read_text()) | own
        self.hosts = {
            "children": {
                "master": {"hosts": {self.master: {}}},
                "runners": {"hosts": {f"{name}-{runner}": {} for runner in runners}},
            },
        }
        self.save()

    @property
    def runners(self):
        return self.hosts["children"]["runners"]["hosts"]

    def save(self):
        (self.folder / "hosts.yml").write_text(yaml.safe_dump({"cluster": self.hosts}))
        (self.folder / VARIABLES).write_text(yaml.safe_dump(self.variables))

    def start(self, playbook, *arguments):
        return subprocess.Popen(
            [Path(sys.executable).with_name("ansible-playbook"), "-i", self.folder, playbook, *arguments],
            cwd=ROOT,
            env=self.environment(),
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def environment(self):
        return environment(self.project.file) | MITOGEN

    def play(self, playbook, *arguments, code=0):
        return finish(self.start(playbook, *arguments), code)

    def create(self, *arguments, code=0):
        return self.play("playbooks/instances_create.yml", *arguments, code=code)

    def destroy(self, *arguments, name=None, code=0):
        return self.play(
            "playbooks/instances_destroy.yml", "-e", f"cluster_name={name or self.name}", *arguments, code=code
        )


class Recap:
    """What a run printed, its lines joined; how many changes it made, of all hosts."""

    def __init__(self, text):
        self.text = " ".join(text.split())
        counts = re.findall(r" changed=(\d+)", text.rpartition("PLAY RECAP")[2])
        assert counts, text[-8000:]
        self.changed = sum(map(int, counts))


def finish(process, code=0):
    """code: that of the process, or None for any but 0."""
    try:
        text, _ = process.communicate(timeout=SECONDS)
    finally:
        process.kill()  # of a test that is interrupted
    assert process.returncode == code if code is not None else process.returncode, text[-8000:]
    return Recap(text)


def environment(file):
    own = {"OS_CLIENT_CONFIG_FILE": str(file), "OS_CLOUD": "real", "OPENSTACK_STATE": str(STATE)}
    return os.environ | ENVIRONMENT | own


def until(condition, what):
    """Its value, once it has one that counts."""
    end = time.monotonic() + 120
    while not (value := condition()):
        assert time.monotonic() < end, f"not within 120 s: {what}"
        time.sleep(0.3)
    return value


GONE = -1


class Proxy:
    """Before a service: `fault(method, path)` gives a status that the call is answered with in its place, or None.

    GONE: the connection ends without an answer. calls: those that it answered itself.
    """

    def __init__(self):
        self.calls, self.fault = [], lambda method, path: None
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                _, port, path = self.path.split("/", 2)
                if status := outer.fault(self.command, f"/{path}"):
                    outer.calls.append((self.command, f"/{path}", status))
                    if status == GONE:
                        self.close_connection = True
                        return None
                    return self.answer(status, b'{"fault": {"message": "the proxy says so"}}', {})
                headers = {key: value for key, value in self.headers.items() if key != "Host"}
                done = requests.request(self.command, f"http://127.0.0.1:{port}/{path}", data=body, headers=headers,
                    allow_redirects=False, timeout=120)  # fmt: skip
                kept = {"content-type", "location", "x-openstack-request-id", "openstack-api-version"}
                return self.answer(
                    done.status_code,
                    done.content,
                    {key: value for key, value in done.headers.items() if key.lower() in kept},
                )

            def answer(self, status, content, headers):
                self.send_response(status)
                for key, value in headers.items():
                    self.send_header(key, value)
                if status != 204:
                    self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if status != 204:
                    self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = handle_one

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def before(self, address):
        return address.replace("http://127.0.0.1:", f"http://127.0.0.1:{self.server.server_port}/")

    def close(self):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def proxy():
    proxy = Proxy()
    yield proxy
    proxy.close()


@pytest.fixture(scope="session")
def admin():
    return openstack.connection.Connection(config=connect(STATE / "clouds.yaml", "admin"))


def make_project(admin, folder, **subnet):
    """A new one with a network `private` behind a router, and room for all that a test makes.

    folder: of its clouds.yaml. subnet: what the network's addresses are, as Neutron has it.
    """
    name, password = f"test-{secrets.token_hex(4)}", secrets.token_hex(8)
    made = admin.identity.create_project(name=name, domain_id="default")
    user = admin.identity.create_user(name=name, password=password, domain_id="default")
    member = admin.identity.find_role("member")
    admin.identity.assign_project_role_to_user(made, user, member)
    admin.set_compute_quotas(made.id, ram=4 * 1048576)
    cloud = yaml.safe_load((STATE / "clouds.yaml").read_text())["clouds"]["real"]
    cloud["auth"] |= {"username": name, "password": password, "project_name": name}
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump({"clouds": {"real": cloud}}))
    project = Project(file)
    network = project.conn.network.create_network(name="private")
    addresses = {"cidr": "10.30.0.0/24"} | subnet
    made = project.conn.network.create_subnet(network_id=network.id, name="private", ip_version=4, **addresses)
    outside = project.conn.network.find_network("public").id
    router = project.conn.network.create_router(name="private", external_gateway_info={"network_id": outside})
    project.conn.network.add_interface_to_router(router, subnet_id=made.id)
    return project


@pytest.fixture
def new_project(admin, tmp_path):
    return lambda: make_project(admin, tmp_path)


@pytest.fixture
def project(new_project):
    return new_project()


@pytest.fixture(scope="session")
def made():
    """The project that molecule has made its cluster in; tests only look at it."""
    return Project(STATE / "clouds.yaml")
