"""The whole of datarun on one machine: web server, master's worker and runner as child processes.

`manage.py serve` runs it, on the embedded default or on the services that the environment names.
"""

import ctypes
import fcntl
import logging
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, NoReturn

from celery import current_app
from django.db import connections
from kombu import Queue

from runapp import services, tasks
from runner import config, filebroker, spool

STOP_SECONDS = 3.0
"""How long a process may take to stop; a fold that still runs then is finished after the next start."""
MAX_FAILURES = 3
"""Processes that may end by themselves within FAILURE_SECONDS before the server gives up."""
FAILURE_SECONDS = 30.0


COMMS = {"web server": "web", "master's worker": "master", "runner": "runner"}
"""What `ps` and `top` show of the processes, behind `datarun-`."""


class ServerError(Exception):
    """The server can't run; the message says why."""


def lock_home() -> IO[str]:
    """Hold the home folder for this server alone, as long as the returned file is open.

    Its forks do not hold it: a server that was killed can be started again while its runner finishes a fold.
    """
    lock = (config.home() / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ServerError(f"another server uses {config.home()}: stop it, or set another DATARUN_HOME") from None
    os.register_at_fork(after_in_child=lock.close)
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
    """The child processes, started together, restarted when one dies, stopped together.

    They are forks of this process, which has loaded Django for all of them, and does no more than look after them: it
    runs no threads, and has no connection open when it forks, which both would use. (Its queues are files.)
    """

    def __init__(self, port: int, slots: int) -> None:
        worker = ["--quiet", "worker", "-P", "threads", "--without-gossip", "--without-mingle", "--loglevel", "WARNING"]
        master = [*worker, "-Q", config.MASTER_QUEUE, "-c", "1", "-n", "master@%h"]
        runner = [*worker, "-Q", ",".join(config.QUEUES), "-c", str(slots), "-n", "runner@%h"]
        gunicorn = ["--bind", f"127.0.0.1:{port}", "--workers", "1", "--threads", "8", "--log-level", "warning"]
        gunicorn += ["--worker-class", "datarun_web.worker.Worker"]
        self.works: dict[str, Callable[[], None]] = {
            "web server": partial(_serve_web, ["gunicorn", "datarun.wsgi", *gunicorn]),
            "master's worker": partial(_serve_queues, "datarun.celery", master),
            "runner": partial(_serve_queues, "runner.celery", runner),
        }
        self.pids: dict[str, int] = {}
        self.failures: list[float] = []

    def run(self, stopped: Callable[[], bool]) -> None:
        """Keep all processes running until `stopped()`; ServerError when they don't stay alive."""
        try:
            for name in self.works:
                self._start(name)
            while not stopped():
                for name in self.works:
                    if (code := self._ended(name)) is not None:
                        self._restart(name, code)
                time.sleep(0.2)
        finally:
            self._stop()

    def _start(self, name: str) -> None:
        if name == "master's worker":
            filebroker.give_back(config.home() / "queue" / config.MASTER_QUEUE)
        connections.close_all()
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            _become(name, self.works[name])
        self.pids[name] = pid

    def _ended(self, name: str) -> int | None:
        """The exit code of a process that has ended, the negative number of the signal if one ended it."""
        pid, status = os.waitpid(self.pids[name], os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if pid else None

    def _restart(self, name: str, code: int) -> None:
        del self.pids[name]
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
        for pid in self.pids.values():
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        for name, pid in self.pids.items():
            while (code := self._ended(name)) is None and time.monotonic() < deadline:
                time.sleep(0.02)
            if code is None:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        spool.forget_begun(config.spool())


def _become(name: str, work: Callable[[], None]) -> NoReturn:
    """In a fork: do the work to its end, then exit."""
    code: int | str | None = None
    try:
        os.setsid()  # Ctrl-C reaches the first process alone, which stops the others in order
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: a killed server leaves nothing behind
            Path("/proc/self/comm").write_text(f"datarun-{COMMS[name]}")  # for ps and top
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        work()
    except SystemExit as end:
        code = end.code
    except BaseException:
        code = 1
        traceback.print_exc()
    finally:
        logging.shutdown()
        sys.stdout.flush()
        os._exit(code if isinstance(code, int) else 0 if code is None else 1)


def _serve_web(arguments: list[str]) -> None:
    from gunicorn.app.wsgiapp import run

    sys.argv = arguments
    run()


def _serve_queues(module: str, arguments: list[str]) -> None:
    """Ends with SystemExit and the worker's exit code, which `app.start` would lose."""
    from celery.bin.celery import celery

    warnings.filterwarnings("ignore", "You're running the worker with superuser privileges")
    celery.main(["-A", module, *arguments])
