"""The cluster as a table, a line a runner: `ansible-inventory -i inventories/CLUSTER --list | python -m tools.status`.

It reads an inventory as `ansible-inventory --list` prints it and asks all hosts at once (tools.hosts). A host that does
not answer is a line of the table.
"""

import json
import shlex
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tools import hosts
from tools.hosts import AS_ROOT, Host, InventoryError, Run, read_inventory, with_connection

WIDTH = 200
"""Columns where nobody watches a terminal."""

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


@dataclass
class State:
    """What a runner said. problem: why it said nothing, or not all. skew: seconds that its clock is ahead."""

    problem: str = ""
    reachable: bool = False
    skew: float = 0.0
    values: dict[str, str] = field(default_factory=dict)


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
            state.problem = err.strip() or f"no whole answer within {hosts.TIMEOUT:g} s: a share that hangs?"

    try:
        with_connection(host, ask)
    except Exception as error:
        state.problem = str(error) or type(error).__name__
    return state


def parse(printed: str) -> dict[str, str]:
    """What PROBE printed."""
    pairs = (line.partition("=") for line in printed.splitlines())
    return {name: value.strip() for name, sign, value in pairs if sign}


def ask_workers(master: Host, runners: list[Host]) -> tuple[dict[str, Any], str]:
    """What the workers say of themselves (manage.py workers), and why it is not known; never raises."""
    answers: list[tuple[str, str]] = []
    command = " ".join([WORKERS, *(shlex.quote(f"celery@{host.name}") for host in runners)])
    try:
        with_connection(master, lambda run: answers.append(run(AS_ROOT, command)))
        [(out, err)] = answers
        return json.loads(out), ""
    except ValueError:
        return {}, f"{WORKERS} on {master.name}: {err.strip() or 'no answer'}"
    except Exception as error:
        return {}, f"{master.name} is not reachable: {error}"


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


def report(master: Host, runners: list[Host], width: int = WIDTH) -> str:
    """The table, and why some of it is not known."""
    with ThreadPoolExecutor(len(runners) + 1) as pool:
        asked = pool.submit(ask_workers, master, runners)
        states = list(pool.map(look, runners))
        workers, problem = asked.result()
    rows = [
        row(host.name, state, workers.get(f"celery@{host.name}")) for host, state in zip(runners, states, strict=True)
    ]
    console = Console(highlight=False, width=width)
    with console.capture() as capture:
        console.print(table(rows))
        if problem:
            console.print(Text(f"Busy slots and folds done are not known: {problem}"))
    # Blanks at a line's end would make Ansible print all on one.
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def main() -> int:
    try:
        master, runners = read_inventory(sys.stdin.read())
    except InventoryError as error:
        print(error, file=sys.stderr)
        return 1
    console = Console()
    print(report(master, runners, console.width if console.is_terminal else WIDTH))
    return 0


if __name__ == "__main__":
    sys.exit(main())
