"""What may befall a server and its services: each fault is done and, where it lasts, undone by one call."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kombu
import redis

from runner.config import MASTER_QUEUE
from tests.e2e.live import APP, Live, until
from tests.services import Service, Services

OUTAGE = 8.0
"""Seconds that something is away: longer than a pause between two tries, shorter than a test's patience."""

AHEAD = 70.0
"""Seconds that the clock is ahead: the scheduler is due every minute, and remembers when it was."""

TWICE = Path(__file__).with_name("twice.py")

Fault = Callable[[], object]


LONG = ("master's worker away", "clock moved")
"""The faults that last longer than a minute."""


def of_server(live: Live, long: float) -> dict[str, Fault]:
    """Faults of the processes, on whatever they run. long: seconds of an outage that outlasts each fold's deadline."""

    def server_killed() -> None:
        live.stop(signal.SIGKILL)
        live.start()

    return {
        "runner killed": lambda: _signal(live, "-A runner", signal.SIGKILL),
        "zygotes killed": lambda: _signal(live, "runner.sandbox.zygote", signal.SIGKILL),
        "runner frozen": lambda: _frozen(live, "-A runner"),
        "master's worker killed": lambda: _signal(live, "master@", signal.SIGKILL),
        "master's worker frozen": lambda: _frozen(live, "master@"),
        "master's worker away": lambda: _frozen_before_a_tick(live, "master@", long),
        "scheduler killed": lambda: _signal(live, " beat ", signal.SIGKILL),
        "two schedulers": lambda: _second_scheduler(live),
        "web server killed": lambda: _signal(live, "gunicorn", signal.SIGKILL),
        "server killed": server_killed,
        "results twice": lambda: _twice_in_files(live),
        "clock moved": lambda: _clock_moved(live, lambda: _lose_files(live)),
    }


def of_services(services: Services, live: Live) -> dict[str, Fault]:
    """Faults of the database, the broker and the result store."""
    faults: dict[str, Fault] = {}
    for service in (services.postgresql, services.rabbitmq, services.redis):
        faults[f"{service.name} stopped"] = lambda service=service: _away(service, service.stop)  # type: ignore[misc]
        faults[f"{service.name} killed"] = lambda service=service: _away(service, service.kill)  # type: ignore[misc]
    return faults | {
        "clock moved": lambda: _clock_moved(live, lambda: _purge(services.rabbitmq.url)),
        "redis flushed": lambda: _flush(services.redis.url),
        "queues emptied": lambda: _purge(services.rabbitmq.url),
        "results twice": lambda: _twice(live),
    }


def _flush(url: str) -> None:
    with redis.Redis.from_url(url) as store:
        store.flushall()


def _purge(url: str) -> int:
    """What waits is gone, as after a broker's disk was lost; what runs is not. Returns how many messages that were."""
    connection: Any
    with kombu.Connection(url) as connection:
        return sum(connection.default_channel.queue_purge(name) for name in ("H", "L"))


def _lose_files(live: Live) -> int:
    """The same on the embedded default."""
    found = [path for name in ("H", "L") for path in (live.home / "queue" / name).glob("[!.]*")]
    for path in found:
        path.unlink(missing_ok=True)
    return len(found)


def _away(service: Service, end: Callable[[], None]) -> None:
    end()
    time.sleep(OUTAGE)
    service.start()


def _signal(live: Live, words: str, number: signal.Signals) -> list[int]:
    """To all of the server's processes that have these words in their command line; there is one at least."""
    found: list[int] = until(lambda: _processes(live, words), 30, f"no process of {words!r}")
    for pid in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
    return found


def _frozen(live: Live, words: str, seconds: float = OUTAGE) -> None:
    found = _signal(live, words, signal.SIGSTOP)
    time.sleep(seconds)
    for pid in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def _frozen_before_a_tick(live: Live, words: str, seconds: float) -> None:
    """From a second before the scheduler is due: its message comes before the results of what runs then."""
    time.sleep((59 - time.time()) % 60)
    _frozen(live, words, seconds)


def _second_scheduler(live: Live) -> None:
    """For as long as it takes to look for what is missing once."""
    command = [sys.executable, "-m", "celery", "--quiet", "-A", "datarun", "beat", "--pidfile=", "--schedule"]
    second = subprocess.Popen([*command, str(live.home / "beat2")], cwd=APP, env=live.environment)
    try:
        time.sleep(OUTAGE)
    finally:
        second.kill()
        second.wait()


def _twice(live: Live) -> None:
    command = [sys.executable, str(TWICE), str(OUTAGE)]
    environment = live.environment | {"PYTHONPATH": str(APP)}
    sent = subprocess.run(command, cwd=APP, env=environment, check=True, capture_output=True, text=True).stdout
    assert int(sent) > 0


def _twice_in_files(live: Live) -> None:
    """The same on the embedded default: what the master's worker finds of some seconds, again and backwards."""
    folder = live.home / "queue" / MASTER_QUEUE
    found = _signal(live, "master@", signal.SIGSTOP)
    try:
        time.sleep(OUTAGE)
        names = sorted((name for name in os.listdir(folder) if not name.startswith(".")), reverse=True)
        assert names
        for name in names:
            again = f"{time.time_ns():020}_{uuid.uuid4().hex}"
            shutil.copy(folder / name, folder / f".{again}")
            (folder / f".{again}").rename(folder / again)
    finally:
        for pid in found:
            os.kill(pid, signal.SIGCONT)


def moved_clock(folder: Path) -> Path:
    """The library of clock.c, made in this folder."""
    library = folder / "clock.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, Path(__file__).with_name("clock.c")], check=True)
    return library


def _clock_moved(live: Live, lose: Callable[[], int]) -> None:
    """The server's clock goes three hours ahead while folds run, and back; then messages are lost, to be mended."""
    clock, real = live.home / "clock", live.environment
    clock.write_text("0")
    live.stop()
    live.environment = real | {"LD_PRELOAD": str(moved_clock(live.home)), "MOVED_CLOCK": str(clock)}
    try:
        live.start()
        time.sleep(OUTAGE)
        clock.write_text("10800")
        time.sleep(AHEAD)
        clock.write_text("0")
        time.sleep(OUTAGE)
        live.stop()
    finally:
        live.environment = real
    live.start()
    until(lose, 30, "something waits that can be lost")


def _processes(live: Live, words: str) -> list[int]:
    """Ids of the processes below the server's, the sandboxes' too, whose command line has these words."""
    assert live.process is not None
    parents, lines = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            lines[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
        except OSError:
            continue
    found, new = set[int](), {live.process.pid}
    while new := {pid for pid, parent in parents.items() if parent in new}:
        found |= new
    return [pid for pid in found if words in lines.get(pid, "")]
