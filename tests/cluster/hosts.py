"""The hosts of the cluster that DATARUN_INVENTORY names, reached as root over paramiko."""

import functools
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import paramiko
import testinfra
import yaml
from testinfra.backend.paramiko import ParamikoBackend
from testinfra.host import Host

from tests.ansible.helpers import ENVIRONMENT, ROOT
from tools import hosts as machines

INVENTORY = os.environ.get("DATARUN_INVENTORY", "inventories/molecule")

ANSIBLE = Path(sys.executable).with_name("ansible")

SECONDS = 300.0
"""Without a word from a command on a host, after which it counts as hung."""

RUNNING = "ps -e -o etimes= -o stat= -o times= -o comm= --sort etimes"
"""Of each process age, state, seconds of CPU and program; no command lines, which may have what tests look for."""

CONNECTION = "connection", "host", "port", "user", "ssh_private_key_file", "ssh_common_args"
ASKED = """
runner_concurrency runner_queues runner_hard_time_limit runner_soft_time_limit runner_venv
cluster_address cluster_master_address cluster_runner_password cluster_mount_point cluster_share_marker
rabbitmq_vhost rabbitmq_user rabbitmq_password redis_password postgresql_password
master_admin_login master_admin_password master_secret_key sciencefs_type
"""
VAULT = "{{ dict(q('varnames', '^vault_') | zip(q('vars', *q('varnames', '^vault_')))) }}"


def _read() -> dict[str, dict[str, Any]]:
    """Host -> its variables, as Ansible resolves them; `vault` has all of the vault; None: not given."""
    names = [f"ansible_{name}" for name in CONNECTION] + ASKED.split()
    asked = {name: f"{{{{ {name} | default(none) }}}}" for name in names}
    process = subprocess.run(
        [str(ANSIBLE), "all", "--playbook-dir", ".", "-i", INVENTORY]
        + ["-m", "ansible.builtin.debug", "-a", json.dumps({"msg": asked | {"vault": VAULT}})],
        cwd=ROOT,
        env=os.environ
        | ENVIRONMENT
        | {"ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json", "ANSIBLE_LOAD_CALLBACK_PLUGINS": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    # Without its stdout, which has the secrets.
    assert process.returncode == 0, f"ansible can't read {INVENTORY} (DATARUN_INVENTORY): {process.stderr}"
    [task] = json.loads(process.stdout)["plays"][0]["tasks"]
    defaults = yaml.safe_load((ROOT / "roles/runner/defaults/main.yml").read_text())
    return {
        name: defaults | {key: value for key, value in answer["msg"].items() if value is not None}
        for name, answer in task["hosts"].items()
    }


def _group(name: str) -> list[str]:
    process = subprocess.run(
        [str(ANSIBLE), name, "-i", INVENTORY, "--list-hosts"],
        cwd=ROOT,
        env=os.environ | ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return process.stdout.split()[2:]  # after "hosts (3):"


VARIABLES = _read()
HOSTS = sorted(VARIABLES)
[MASTER] = _group("master")
RUNNERS = _group("runners")
LOCAL = VARIABLES[MASTER].get("ansible_connection") == "local"
"""Whether this machine is the cluster."""
CLUSTER = [name for name in HOSTS if name in {MASTER, *RUNNERS}]


class Backend(ParamikoBackend):
    """testinfra's own takes any host key, and does not know when a host hangs."""

    def __init__(self, machine: machines.Host) -> None:
        super().__init__(machine.address, sudo=True)
        self.machine = machine

    @functools.cached_property
    def client(self) -> paramiko.SSHClient:
        client, variables = paramiko.SSHClient(), self.machine.variables
        client.load_system_host_keys(machines.known_hosts(self.machine))
        client.connect(
            self.machine.address,
            int(variables.get("ansible_port", 22)),
            username=variables.get("ansible_user"),
            key_filename=variables.get("ansible_ssh_private_key_file"),
            timeout=machines.TIMEOUT,
            banner_timeout=machines.TIMEOUT,
            auth_timeout=machines.TIMEOUT,
        )
        return client

    def feed(self, command: str, stdin: str) -> tuple[int, str, str]:
        """Exit code, stdout, stderr."""
        pipe_in, pipe_out, pipe_err = self.client.exec_command(command, timeout=SECONDS)
        pipe_in.write(stdin)
        pipe_in.channel.shutdown_write()
        try:
            out, err = pipe_out.read().decode(errors="replace"), pipe_err.read().decode(errors="replace")
        except TimeoutError:
            _, running, _ = self.client.exec_command(RUNNING, timeout=machines.TIMEOUT)
            # The command's own are the newest of those that are as old as it.
            old = [line for line in running.read().decode().splitlines() if int(line.split()[0]) > SECONDS - 3]
            told = "; ".join(" ".join(line.split()) for line in old[:8])
            raise AssertionError(f"no word for {SECONDS:.0f} s: {told}") from None
        return pipe_out.channel.recv_exit_status(), out, err


@functools.cache
def host(name: str) -> Host:
    """testinfra's view of a host: files, sockets, services."""
    machine = machines.Host(name, VARIABLES[name])
    return testinfra.get_host("local://", sudo=os.geteuid() != 0) if machine.local else Host(Backend(machine))


def run(name: str, script: str) -> str:
    """What bash prints, as root on the host; fails where it fails.

    The script goes in through a pipe: nothing of it is in a list of processes or in sudo's log.
    """
    backend = host(name).backend
    if isinstance(backend, Backend):
        code, out, err = backend.feed('if [ "$(id -u)" = 0 ]; then exec bash -s; else exec sudo -n bash -s; fi', script)
    else:
        done = subprocess.run([*(["sudo", "-n"] if backend.sudo else []), "bash", "-s"], input=script, timeout=SECONDS,
            capture_output=True, text=True)  # fmt: skip
        code, out, err = done.returncode, done.stdout, done.stderr
    assert code == 0, f"{name}: exit code {code}\n{out[-3000:]}\n{err[-3000:]}"
    return out


def as_datarun(part: str, python: str, *arguments: str) -> str:
    """A script for `run`: Python in the environment of the master or of a runner, as the user datarun."""
    interpreter = f"/opt/datarun/{part}/bin/python - {shlex.join(arguments)}"
    return f"""
set -a; . /etc/datarun/{part}.env; set +a
cd /var/lib/datarun
exec setpriv --reuid datarun --regid datarun --init-groups {interpreter} <<'END_OF_PYTHON'
{python}
END_OF_PYTHON
"""
