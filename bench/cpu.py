"""CPU time of a running datarun by kind of process: of the server's own, and of the services that it uses."""

import os
from pathlib import Path

from tests.e2e.live import Live
from tests.services import Services

_TICK = os.sysconf("SC_CLK_TCK")


def used(live: Live, services: Services | None) -> dict[str, float]:
    """Seconds since their start, by kind. A fork that has ended is in its zygote's time of children."""
    processes = _processes()
    runner = live.process_of("runner")
    sandbox = _family(runner, processes) - {runner}
    found = {
        "web server": _total(_family(live.process_of("web"), processes), processes),
        "master's worker": _total(_family(live.process_of("master"), processes), processes),
        "runner's worker": processes[runner][1],
        "zygotes": sum(processes[pid][1] for pid in sandbox),
        "forks": sum(processes[pid][2] for pid in sandbox),
    }
    for service in services.all if services else ():
        found[service.name] = _total(_family(service.pid, processes), processes)
    return found


def _processes() -> dict[int, tuple[int, float, float]]:
    """Pid -> its parent, its CPU seconds, and those of its children that have ended and were waited for."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        times = [int(ticks) / _TICK for ticks in fields[11:15]]
        found[int(path.parent.name)] = int(fields[1]), sum(times[:2]), sum(times[2:])
    return found


def _family(first: int, processes: dict[int, tuple[int, float, float]]) -> set[int]:
    family, size = {first}, 0
    while len(family) > size:
        size = len(family)
        family |= {pid for pid, (parent, _, _) in processes.items() if parent in family}
    return family


def _total(family: set[int], processes: dict[int, tuple[int, float, float]]) -> float:
    return sum(own + reaped for _, own, reaped in (processes[pid] for pid in family))
