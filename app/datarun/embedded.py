"""The whole of datarun on one machine: web server, master's worker, scheduler and runner as child processes.

`manage.py serve` runs it, on the embedded default or on the services that the environment names.
"""

import ctypes
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

from celery import current_app
from kombu import Queue

from runapp import services, tasks
from runner import config, filebroker, spool

APP = Path(__file__).resolve().parents[1]
STOP_SECONDS = 3.0
"""How long a process may take to stop; a fold that still runs then is finished after the next start."""
MAX_FAILURES = 3
"""Processes that may end by themselves within FAILURE_SECONDS before the server gives up."""
FAILURE_SECONDS = 30.0


class ServerError(Exception):
    """The server can't run; the message says why."""


def lock_home() -> IO[str]:
    """Hold the home folder for this server alone, as long as the returned file is open."""
    config.home().mkdir(parents=True, exist_ok=True)
    lock = (config.home() / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ServerError(f"another server uses {config.home()}: stop it, or set another DATARUN_HOME") from None
    return lock


def requeue() -> int:
    """Queue what an earlier life left open, where the queues are files that no other runner shares.

    First take in what its runner left to say: results that were not sent, and attempts that ended with it.
    """
    if config.has_broker():
        return 0
    left = spool.Spool(config.spool(), lambda name, message: getattr(tasks, name.rpartition(".")[2])(message))
    left.take_over()
    left.flush()
    left.close()
    with current_app.connection_for_write() as connection:
        for name in config.QUEUES:
            queue = Queue(name, channel=connection.default_channel)
            queue.queue_declare()
            queue.purge()
    return services.requeue_all()


class Server:
    """The child processes, started together, restarted when one dies, stopped together."""

    def __init__(self, port: int, slots: int) -> None:
        worker = [sys.executable, "-m", "celery", "--quiet", "-A"]
        quiet = ["--without-gossip", "--without-mingle", "--loglevel", "WARNING"]
        master = ["worker", "-Q", config.MASTER_QUEUE, "-P", "threads", "-c", "1", "-n", "master@%h", *quiet]
        runner = ["worker", "-Q", ",".join(config.QUEUES), "-P", "threads", "-c", str(slots), "-n", "runner@%h", *quiet]
        beat = ["beat", "--loglevel", "WARNING", "--schedule", str(config.home() / "beat"), "--pidfile="]
        gunicorn = ["--bind", f"127.0.0.1:{port}", "--workers", "1", "--threads", "8", "--log-level", "warning"]
        self.commands = {
            "web server": [sys.executable, "-m", "gunicorn", "datarun.wsgi", *gunicorn],
            "master's worker": [*worker, "datarun", *master],
            "runner": [*worker, "runner", *runner],
            "scheduler": [*worker, "datarun", *beat],
        }
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.failures: list[float] = []

    def run(self, stopped: Callable[[], bool]) -> None:
        """Keep all processes running until `stopped()`; ServerError when they don't stay alive."""
        try:
            for name in self.commands:
                self._start(name)
            while not stopped():
                for name, process in self.processes.items():
                    if process.poll() is not None:
                        self._restart(name, process.returncode)
                time.sleep(0.2)
        finally:
            self._stop()

    def _start(self, name: str) -> None:
        if name == "master's worker":
            filebroker.give_back(config.home() / "queue" / config.MASTER_QUEUE)
        # Sessions of their own: Ctrl-C reaches this process alone, which stops them in order.
        quiet = {"PYTHONWARNINGS": "ignore:You're running the worker with superuser privileges"}
        self.processes[name] = subprocess.Popen(
            self.commands[name], cwd=APP, env=os.environ | quiet, start_new_session=True, preexec_fn=_die_with_parent
        )

    def _restart(self, name: str, code: int) -> None:
        if code == config.EXIT_REFUSED:
            raise ServerError(f"the {name} can't run here; its message is above")
        now = time.monotonic()
        self.failures = [when for when in self.failures if now - when < FAILURE_SECONDS] + [now]
        if len(self.failures) > MAX_FAILURES:
            raise ServerError(f"the {name} ended again and again, last with code {code}; its messages are above")
        print(f"datarun: the {name} ended with code {code}; it is started again", file=sys.stderr, flush=True)
        if name == "runner":
            requeue()  # the files of the messages it held are gone
        self._start(name)

    def _stop(self) -> None:
        for process in self.processes.values():
            process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for process in self.processes.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(deadline - time.monotonic(), 0))
            process.kill()
            process.wait()
        spool.forget_begun(config.spool())


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: a killed server leaves nothing behind
