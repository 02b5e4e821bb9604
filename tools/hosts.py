"""The hosts of an inventory, asked as root: all at once, and none for longer than it may take.

Host keys are those of known_hosts, or of the UserKnownHostsFile in ansible_ssh_common_args, of which the ProxyCommand
is read, too, and nothing else; ANSIBLE_HOST_KEY_CHECKING=False accepts any.
"""

import functools
import json
import os
import re
import shlex
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TIMEOUT = 20.0
"""Seconds to wait for a connection, and then for each answer."""

AS_ROOT = 'if [ "$(id -u)" = 0 ]; then exec sh -s; else exec sudo -n sh -s; fi'


class InventoryError(Exception):
    """The inventory can't be used; the message is for a person."""


@dataclass(frozen=True)
class Host:
    """As the inventory has it."""

    name: str
    variables: dict[str, Any]

    @property
    def local(self) -> bool:
        return self.variables.get("ansible_connection") == "local"

    @property
    def address(self) -> str:
        return str(self.variables.get("ansible_host", self.name))


Run = Callable[..., tuple[str, str]]
"""(command, stdin, seconds=TIMEOUT) -> (stdout, stderr), as far as they came within the seconds."""


def read_inventory(text: str) -> tuple[Host, list[Host]]:
    """The master and the runners. text: what `ansible-inventory --list` prints."""
    try:
        inventory = json.loads(text)
        variables = inventory["_meta"]["hostvars"]
        names = {group: inventory.get(group, {}).get("hosts", []) for group in ("master", "runners")}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InventoryError(
            "stdin is no inventory in JSON: ansible-inventory -i inventories/<cluster> --list | python -m tools.status"
        ) from None
    if len(names["master"]) != 1 or not names["runners"]:
        raise InventoryError("the inventory needs one host in the group master and at least one in the group runners")
    [master], runners = ([Host(name, variables.get(name, {})) for name in group] for group in names.values())
    return master, runners


def with_connection(host: Host, use: Callable[[Run], None]) -> None:
    if host.local:
        use(run_here)
        return
    import paramiko  # only here: a cluster on this machine needs no ssh

    client = paramiko.SSHClient()
    if os.environ.get("ANSIBLE_HOST_KEY_CHECKING", "True").lower() in ("false", "no", "0", "off"):
        client.set_missing_host_key_policy(paramiko.AutoAddPolicy())  # known nowhere: no file is loaded or written
    else:
        client.set_missing_host_key_policy(paramiko.RejectPolicy())
        client.load_system_host_keys(known_hosts(host))
    key = host.variables.get("ansible_ssh_private_key_file")
    port = int(host.variables.get("ansible_port", 22))
    command = ssh_option(host, "ProxyCommand")
    proxy = command and paramiko.ProxyCommand(command.replace("%h", host.address).replace("%p", str(port)))
    try:
        client.connect(
            host.address,
            port,
            username=host.variables.get("ansible_user"),
            key_filename=str(Path(key).expanduser()) if key else None,
            timeout=TIMEOUT,
            banner_timeout=TIMEOUT,
            auth_timeout=TIMEOUT,
            sock=proxy or None,
        )
        use(functools.partial(run_there, client))
    finally:
        client.close()
        if proxy:
            proxy.close()


def known_hosts(host: Host) -> str | None:
    """The file of host keys that ssh is told of; None: the user's."""
    file = ssh_option(host, "UserKnownHostsFile")
    return str(Path(file).expanduser()) if file else None


def ssh_option(host: Host, name: str) -> str | None:
    """Of ssh's options in ansible_ssh_common_args (-o NAME=VALUE), the first, which is the one that ssh takes."""
    words = shlex.split(str(host.variables.get("ansible_ssh_common_args", "")))
    found = (re.fullmatch(rf"(?:-o)?{name}[= ](.*)", word) for word in words)
    return next((match[1] for match in found if match), None)


def run_here(command: str, stdin: str, seconds: float | None = None) -> tuple[str, str]:
    # As a list of its own: a shell that hangs on a share would keep the pipe open.
    with subprocess.Popen(
        ["sh", "-c", command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            out, err = process.communicate(stdin.encode(), timeout=TIMEOUT if seconds is None else seconds)
        except subprocess.TimeoutExpired as error:
            process.kill()
            out, err = error.stdout or b"", error.stderr or b""
    return out.decode(errors="replace"), err.decode(errors="replace")


def run_there(client: Any, command: str, stdin: str, seconds: float | None = None) -> tuple[str, str]:
    channel = client.get_transport().open_session(timeout=TIMEOUT)
    channel.exec_command(command)
    channel.sendall(stdin.encode())
    channel.shutdown_write()
    deadline = time.monotonic() + (TIMEOUT if seconds is None else seconds)
    out, err = bytearray(), bytearray()
    while time.monotonic() < deadline:
        ended = channel.exit_status_ready()  # before the last look, so that nothing that came in between is missed
        while channel.recv_ready():
            out += channel.recv(65536)
        while channel.recv_stderr_ready():
            err += channel.recv_stderr(65536)
        if ended and channel.eof_received:
            break
        time.sleep(0.02)
    return out.decode(errors="replace"), err.decode(errors="replace")
