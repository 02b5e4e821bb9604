"""The hosts of the cluster that DATARUN_INVENTORY names, reached as root over paramiko."""

import functools
import json
import os
import shlex
import socket
import subprocess
import sys
import time
from pathlib import Path
from threading import Timer
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

PATIENCE = 60.0
"""Seconds for each step of a connection, and without a sign of life of its other end."""

BASH = f"timeout --kill-after 5 {2 * SECONDS:.0f} bash -s"
"""Nothing that hung is left running, to make the next test slow too."""

RUNNING = "ps -e -o etimes= -o stat= -o times= -o comm= --sort etimes"
"""Of each process age, state, seconds of CPU and program; no command lines, which may have what tests look for."""

CONNECTION = "connection", "host", "port", "user", "ssh_private_key_file", "ssh_common_args"
ASKED = """
group_names runner_concurrency runner_queues runner_hard_time_limit runner_soft_time_limit runner_venv
cluster_address cluster_master_address cluster_runner_password cluster_mount_point cluster_share_marker
rabbitmq_vhost rabbitmq_user rabbitmq_password redis_password postgresql_password
master_admin_login master_admin_password master_flower_password master_secret_key sciencefs_type
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


VARIABLES = _read()
HOSTS = sorted(VARIABLES)
[MASTER] = [name for name in HOSTS if "master" in VARIABLES[name]["group_names"]]
RUNNERS = [name for name in HOSTS if "runners" in VARIABLES[name]["group_names"]]
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
            timeout=PATIENCE,
            banner_timeout=PATIENCE,
            auth_timeout=PATIENCE,
        )
        # A connection that has died is noticed, also by who only waits for an answer.
        transport: Any = client.get_transport()
        transport.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(PATIENCE * 1000))
        transport.set_keepalive(10)
        return client

    def _exec_command(self, command: bytes) -> tuple[int, bytes, bytes]:
        """What all of testinfra's own calls go through."""
        return self.feed(command)

    def feed(self, command: str | bytes, stdin: str = "") -> tuple[int, bytes, bytes]:
        """Exit code (-1: the connection died), stdout, stderr. Fails after SECONDS without a word."""
        try:
            return self._feed(command, stdin, SECONDS)
        except TimeoutError as error:
            _, running, _ = self._feed(RUNNING, "", PATIENCE)
            # The command's own are the newest of those that are as old as it.
            old = [line for line in running.decode().splitlines() if int(line.split()[0]) > SECONDS - 3]
            told = "; ".join(" ".join(line.split()) for line in old[:8])
            raise AssertionError(f"{error}\nrunning: {told}") from None

    def _feed(self, command: str | bytes, stdin: str, seconds: float) -> tuple[int, bytes, bytes]:
        if not self.client.get_transport().is_active():
            del self.client
        channel = self.client.get_transport().open_session(timeout=PATIENCE)
        channel.settimeout(seconds)
        starts = Timer(seconds, channel.close)  # paramiko waits for it without a bound
        starts.start()
        out, err = b"", b""
        try:
            channel.exec_command(command)
            starts.cancel()
            channel.sendall(stdin.encode())
            channel.shutdown_write()
            last = time.monotonic()
            while time.monotonic() < last + seconds:
                # Before the look, so that nothing that comes in between is missed.
                ended = channel.closed or (channel.exit_status_ready() and channel.eof_received)
                while channel.recv_ready():
                    out, last = out + channel.recv(65536), time.monotonic()
                while channel.recv_stderr_ready():
                    err, last = err + channel.recv_stderr(65536), time.monotonic()
                if ended:
                    return channel.recv_exit_status(), out, err
                time.sleep(0.02)
        finally:
            starts.cancel()
            channel.close()
        raise TimeoutError(f"no word for {seconds:.0f} s after\n{_tail(out)}\n{_tail(err)}")


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
        as_root = f'if [ "$(id -u)" = 0 ]; then exec {BASH}; else exec sudo -n {BASH}; fi'
        code, out, err = backend.feed(as_root, script)
    else:
        done = subprocess.run([*(["sudo", "-n"] if backend.sudo else []), "bash", "-s"], input=script.encode(),
            timeout=SECONDS, capture_output=True)  # fmt: skip
        code, out, err = done.returncode, done.stdout, done.stderr
    assert code == 0, f"{name}: exit code {code}\n{_tail(out)}\n{_tail(err)}"
    return out.decode(errors="replace")


def _tail(printed: bytes) -> str:
    return printed.decode(errors="replace")[-3000:]


USERS = {"master": "datarun", "runner": "datarun-runner"}
"""Whose services run as whom."""


def as_datarun(part: str, python: str, *arguments: str) -> str:
    """A script for `run`: Python in the environment of the master or of a runner, as its user."""
    interpreter = f"/opt/datarun/{part}/bin/python - {shlex.join(arguments)}"
    return f"""
set -a; . /etc/datarun/{part}.env; set +a
cd /var/lib/{USERS[part]}
exec setpriv --reuid {USERS[part]} --regid {USERS[part]} --init-groups {interpreter} <<'END_OF_PYTHON'
{python}
END_OF_PYTHON
"""
