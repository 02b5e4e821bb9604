"""The cluster as a table, a line a runner: `ansible-inventory -i inventories/CLUSTER --list | python -m tools.status`.

It reads an inventory as `ansible-inventory --list` prints it, connects to all hosts at once and waits for none
longer than TIMEOUT. A host that does not answer is a line of the table. Host keys are those of known_hosts, or of
the UserKnownHostsFile in ansible_ssh_common_args (nothing else of it is read); ANSIBLE_HOST_KEY_CHECKING=False
accepts any.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

TIMEOUT = 20.0
"""Seconds to wait for a connection, and then for each answer."""

WIDTH = 200
"""Columns where nobody watches a terminal."""

AS_ROOT = 'if [ "$(id -u)" = 0 ]; then exec sh -s; else exec sudo -n sh -s; fi'

PROBE = r"""
say() { printf '%s=%s\n' "$1" "$2"; }
if [ -r /etc/datarun/runner.env ]; then set -a; . /etc/datarun/runner.env; set +a; fi
say state "$(systemctl show --property ActiveState --value datarun-runner)"
say queues "${DATARUN_QUEUES-}"
say slots "${DATARUN_SLOTS-}"
say soft "${DR_SOFT_TIME_LIMIT-}"
say hard "${DR_HARD_TIME_LIMIT-}"
say memory "${DR_MEMORY_LIMIT-}"
ask_version='from importlib.metadata import version; print(version("datarun"))'
say version "$(/opt/datarun/runner/bin/python -c "$ask_version" 2>/dev/null)"
say disk "$(df -P -k / | awk 'NR == 2 { print $4 }')"
logged() { journalctl --unit datarun-runner --quiet --no-pager --output short-iso "$@"; }
error=$(logged --priority err --lines 1 | tail -n 1)
say error "${error:-$(logged --lines 2000 | grep -E '(ERROR|CRITICAL)/' | tail -n 1)}"
# The last: a share whose server is gone may hang.
say share "$(timeout -k 1 5 test -e "${DATARUN_SHARE_MARKER:-/mnt/datarun/.datarun}" && echo yes || echo no)"
"""
"""Prints name=value, a line each."""

WORKERS = "datarun-manage workers"


class StatusError(Exception):
    """The inventory can't be used, or a host does not answer; the message is for a person."""


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


@dataclass
class State:
    """What a runner said. problem: why it said nothing, or not all. skew: seconds that its clock is ahead."""

    problem: str = ""
    reachable: bool = False
    skew: float = 0.0
    values: dict[str, str] = field(default_factory=dict)


Run = Callable[[str, str], tuple[str, str]]
"""(command, stdin) -> (stdout, stderr), as far as they came within TIMEOUT."""


def read_inventory(source: IO[str]) -> tuple[Host, list[Host]]:
    """The master and the runners."""
    try:
        inventory = json.load(source)
        variables = inventory["_meta"]["hostvars"]
        names = {group: inventory.get(group, {}).get("hosts", []) for group in ("master", "runners")}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise StatusError(
            "stdin is no inventory in JSON: ansible-inventory -i inventories/<cluster> --list | python -m tools.status"
        ) from None
    if len(names["master"]) != 1 or not names["runners"]:
        raise StatusError("the inventory needs one host in the group master and at least one in the group runners")
    [master], runners = ([Host(name, variables.get(name, {})) for name in group] for group in names.values())
    return master, runners


def look(host: Host) -> State:
    """Ask a runner; never raises."""
    state = State()

    def ask(run: Run) -> None:
        began = time.time()
        out, err = run("date +%s.%N", "")
        state.reachable = True
        state.skew = float(out) - (began + time.time()) / 2
        out, err = run(AS_ROOT, PROBE)
        state.values = parse(out)
        if "share" not in state.values:
            state.problem = err.strip() or f"no whole answer within {TIMEOUT:g} s: a share that hangs?"

    try:
        with_connection(host, ask)
    except Exception as error:
        state.problem = str(error) or type(error).__name__
    return state


def parse(printed: str) -> dict[str, str]:
    """What PROBE printed."""
    pairs = (line.partition("=") for line in printed.splitlines())
    return {name: value.strip() for name, sign, value in pairs if sign}


def ask_workers(master: Host) -> tuple[dict[str, Any], str]:
    """What the workers say of themselves (manage.py workers), and why it is not known; never raises."""
    answers: list[tuple[str, str]] = []
    try:
        with_connection(master, lambda run: answers.append(run(AS_ROOT, WORKERS)))
        [(out, err)] = answers
        return json.loads(out), ""
    except ValueError:
        return {}, f"{WORKERS} on {master.name}: {err.strip() or 'no answer'}"
    except Exception as error:
        return {}, f"{master.name} is not reachable: {error}"


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
    try:
        client.connect(
            host.address,
            port,
            username=host.variables.get("ansible_user"),
            key_filename=str(Path(key).expanduser()) if key else None,
            timeout=TIMEOUT,
            banner_timeout=TIMEOUT,
            auth_timeout=TIMEOUT,
        )
        use(lambda command, stdin: run_there(client, command, stdin))
    finally:
        client.close()


def known_hosts(host: Host) -> str | None:
    """The file of host keys that ssh is told of; None: the user's."""
    found = re.search(r"UserKnownHostsFile[= ](\S+)", str(host.variables.get("ansible_ssh_common_args", "")))
    return str(Path(found[1]).expanduser()) if found else None


def run_here(command: str, stdin: str) -> tuple[str, str]:
    # As a list of its own: a shell that hangs on a share would keep the pipe open.
    with subprocess.Popen(
        ["sh", "-c", command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            return process.communicate(stdin, timeout=TIMEOUT)
        except subprocess.TimeoutExpired as error:
            process.kill()
            return _text(error.stdout), _text(error.stderr)


def run_there(client: Any, command: str, stdin: str) -> tuple[str, str]:
    channel = client.get_transport().open_session(timeout=TIMEOUT)
    channel.exec_command(command)
    channel.sendall(stdin.encode())
    channel.shutdown_write()
    deadline, out, err = time.monotonic() + TIMEOUT, b"", b""
    while time.monotonic() < deadline:
        ended = channel.exit_status_ready()  # before the last look, so that nothing that came in between is missed
        while channel.recv_ready():
            out += channel.recv(65536)
        while channel.recv_stderr_ready():
            err += channel.recv_stderr(65536)
        if ended and channel.eof_received:
            break
        time.sleep(0.02)
    return _text(out), _text(err)


def _text(printed: Any) -> str:
    return printed.decode(errors="replace") if isinstance(printed, bytes) else printed or ""


def row(name: str, state: State, worker: dict[str, Any] | None) -> list[str]:
    """A line of the table. worker: what `manage.py workers` has of it; None where it did not answer."""
    values = state.values
    problems = [state.problem] if state.problem else []
    if values and values.get("state") != "active":
        problems.append(f"datarun-runner is {values.get('state') or 'unknown'}")
    elif values and worker is None:
        problems.append("its worker does not answer")
    if values.get("error"):
        problems.append(values["error"])
    free = values.get("disk", "")
    return [
        name,
        "yes" if state.reachable else "no",
        values.get("version", ""),
        values.get("queues", ""),
        values.get("slots", ""),
        _limits(values),
        f"{worker['busy']} of {worker['slots']}" if worker else "",
        str(worker["done"]) if worker else "",
        values.get("share", "hangs" if values else ""),
        f"{int(free) / 2**20:.1f} GiB free" if free.isdecimal() else "",
        f"{state.skew:+.1f} s" if state.reachable else "",
        "\n".join(problems),
    ]


def _limits(values: dict[str, str]) -> str:
    if not values.get("hard"):
        return ""
    memory = values.get("memory", "")
    size = f", {int(memory) / 2**30:.1f} GiB" if memory.isdecimal() else ""
    return f"{values.get('soft') or '?'}/{values['hard']} s{size}"


COLUMNS = {
    "runner": "left",
    "reachable": "left",
    "version": "left",
    "queues": "left",
    "concurrency": "right",
    "limits": "left",
    "busy slots": "left",
    "folds done": "right",
    "share mounted": "left",
    "disk": "right",
    "clock skew": "right",
    "last error": "left",
}


def table(rows: list[list[str]]) -> Table:
    result = Table(box=box.SIMPLE_HEAD, show_edge=False)
    for name, justify in COLUMNS.items():
        result.add_column(name, justify=justify, overflow="fold", no_wrap=name != "last error")  # type: ignore[arg-type]
    for cells in rows:
        # As Text: a message's brackets are no markup.
        result.add_row(*map(Text, cells))
    return result


def main() -> int:
    try:
        master, runners = read_inventory(sys.stdin)
    except StatusError as error:
        print(error, file=sys.stderr)
        return 1
    with ThreadPoolExecutor(len(runners) + 1) as pool:
        asked = pool.submit(ask_workers, master)
        states = list(pool.map(look, runners))
        workers, problem = asked.result()
    rows = [
        row(host.name, state, workers.get(f"celery@{host.name}")) for host, state in zip(runners, states, strict=True)
    ]
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDTH)
    with console.capture() as capture:
        console.print(table(rows))
        if problem:
            console.print(Text(f"Busy slots and folds done are not known: {problem}"))
    for line in capture.get().splitlines():
        print(line.rstrip())  # blanks at a line's end would make Ansible print all on one
    return 0


if __name__ == "__main__":
    sys.exit(main())
