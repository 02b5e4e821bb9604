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
CELERY = [sys.executable, "-m", "celery", "--quiet", "-A", "datarun"]

Fault = Callable[[], object]


LONG = ("master's worker away", "clock moved")
"""The faults that last longer than a minute."""


def of_server(live: Live, long: float) -> dict[str, Fault]:
    """Faults of the processes, on whatever they run. long: seconds of an outage that outlasts each fold's deadline."""

    def server_killed() -> None:
        live.stop(signal.SIGKILL)
        live.start()

    return {
        "runner killed": lambda: _signal([live.process_of("runner")], signal.SIGKILL),
        "zygotes killed": lambda: _signal(_zygotes(live), signal.SIGKILL),
        "runner frozen": lambda: _frozen(live.process_of("runner")),
        "master's worker killed": lambda: _signal([live.process_of("master")], signal.SIGKILL),
        "master's worker frozen": lambda: _frozen(live.process_of("master")),
        "master's worker away": lambda: _masters_worker_away(live, long),
        "two master's workers": lambda: _second_masters_worker(live),
        "web server killed": lambda: _signal(live.family_of("web"), signal.SIGKILL),
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


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _frozen(pid: int, seconds: float = OUTAGE) -> None:
    _signal([pid], signal.SIGSTOP)
    time.sleep(seconds)
    _signal([pid], signal.SIGCONT)


def _masters_worker_away(live: Live, seconds: float) -> None:
    """A look for what is missing comes before the results of what runs meanwhile."""
    pid = live.process_of("master")
    _signal([pid], signal.SIGSTOP)
    try:
        subprocess.run([*CELERY, "call", "runapp.tasks.mend"], cwd=APP, env=live.environment, check=True)
        time.sleep(seconds)
    finally:
        _signal([pid], signal.SIGCONT)


def _second_masters_worker(live: Live) -> None:
    """For as long as it takes to look for what is missing once."""
    command = [*CELERY, "worker", "-Q", MASTER_QUEUE, "-c", "1", "-n", "second@%h"]
    second = subprocess.Popen(command, cwd=APP, env=live.environment)
    try:
        time.sleep(OUTAGE)
    finally:
        second.terminate()
        second.wait()


def _twice(live: Live) -> None:
    command = [sys.executable, str(TWICE), str(OUTAGE)]
    environment = live.environment | {"PYTHONPATH": str(APP)}
    sent = subprocess.run(command, cwd=APP, env=environment, check=True, capture_output=True, text=True).stdout
    assert int(sent) > 0


def _twice_in_files(live: Live) -> None:
    """The same on the embedded default: what the master's worker finds of some seconds, again and backwards."""
    folder = live.home / "queue" / MASTER_QUEUE
    pid = live.process_of("master")
    os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(OUTAGE)
        names = sorted((name for name in os.listdir(folder) if not name.startswith(".")), reverse=True)
        assert names
        for name in names:
            again = f"{time.time_ns():020}_{uuid.uuid4().hex}"
            shutil.copy(folder / name, folder / f".{again}")
            (folder / f".{again}").rename(folder / again)
    finally:
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
    until(lose, 60, "something waits that can be lost")


def _zygotes(live: Live) -> list[int]:
    """The runner's zygotes, their parent and their forks; there is one at least."""
    runner = live.process_of("runner")
    found: list[int] = until(lambda: _below(runner, "runner.sandbox.zygote"), 60, "there are zygotes")
    return found


def _below(first: int, words: str) -> list[int]:
    """Ids of the processes below this one, in sandboxes too, whose command line has these words.

    Each before those below it: one that is killed in this order does not live to tell of a child that was killed.
    """
    parents, lines = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            lines[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
        except OSError:
            continue
    found, new = list[int](), [first]
    while new := [pid for pid, parent in parents.items() if parent in new]:
        found += new
    return [pid for pid in found if words in lines.get(pid, "")]
