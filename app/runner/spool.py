"""What a runner must not forget: results that the broker has not confirmed, and which folds have begun.

A file is a message to the master, as JSON [task name, message]:

- `<task id>.<random>.result`, how a task ended: sent until the broker has confirmed it;
- `<task id>.<random>.report`, what else the master must know: likewise;
- `<task id>.<random>.begun`: becomes a report if this process ends before it removes the file.

Each process has a folder of its own below DATARUN_SPOOL, and holds a lock on it. What lies in a folder that nobody
holds was left by a process that has ended: the next one takes it over.
"""

import contextlib
import fcntl
import json
import os
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

from celery.utils.log import get_task_logger

log = get_task_logger(__name__)

Publish = Callable[[str, dict[str, Any]], Any]
"""publish(task name, message) returns once the broker has confirmed the message, and raises where it has not."""

PAUSE = 2.0
"""Seconds between two attempts to send what is left."""

RESULTS = "runapp.tasks.save_fold", "runapp.tasks.save_split"
LOST = "runapp.tasks.save_lost"
"""Counts an attempt that ended with its runner."""
RETURNED = "runapp.tasks.save_returned"
"""Asks for a new message in place of one that has come back too often."""

_REMEMBERED = 1000
"""How many of the last results are known by their tasks."""


class Spool:
    """The folder of this process. Safe to use from several threads."""

    def __init__(self, folder: Path, publish: Publish, pause: float = PAUSE) -> None:
        self._parent, self._publish, self._pause = folder, publish, pause
        self._known: deque[str] = deque(maxlen=_REMEMBERED)
        self._left: list[Path] = []
        self._lock, self._sending = threading.Lock(), threading.Lock()
        self._thread: threading.Thread | None = None
        folder.mkdir(parents=True, exist_ok=True)
        name = secrets.token_hex(8)
        fresh = folder / f".{name}"  # nobody takes it over before it is held
        fresh.mkdir()
        held = _hold(fresh)
        assert held is not None
        self._held = held
        self.own = fresh.rename(folder / name)

    def take_over(self) -> None:
        """Make what processes left that have ended this one's own, to be sent by `flush`."""
        for other in [path for path in self._parent.iterdir() if path.is_dir() and path.name[0] != "."]:
            if other == self.own or (held := _hold(other)) is None:
                continue
            with held, contextlib.suppress(FileNotFoundError):  # another process that starts now was faster
                self._adopt(other)

    def start(self) -> None:
        """Send what was left behind: now, or, where the broker is away, in the background."""
        self.take_over()
        if not self.flush():
            self._work_on()

    def close(self) -> None:
        """Let go of the folder, and remove it where nothing is left in it."""
        _remove(self.own)
        self._held.close()

    def knows(self, task_id: str) -> bool:
        """Whether a result of the task, as it was run last, was sent by this process or is to be sent."""
        return task_id in self._known

    @contextlib.contextmanager
    def begun(self, task_id: str, name: str, message: dict[str, Any]) -> Iterator[Callable[[], None]]:
        """The message is sent by the next process if this one ends before the block does.

        Yields what makes it outlive a power cut too, which takes milliseconds: the shortest tasks do without.
        """
        with self._lock, contextlib.suppress(ValueError):
            self._known.remove(task_id)
        try:
            path = self._write(task_id, "begun", name, message)
        except OSError as error:  # the disk is full: no reason not to run
            log.warning("task %s begins without a mark: %s", task_id, error)
            yield lambda: None
            return
        try:
            yield partial(_sync, path)
        finally:
            path.unlink(missing_ok=True)

    def send(self, name: str, message: dict[str, Any]) -> None:
        """Send a message now or, where the broker does not confirm it, in the background. message: with its task_id.

        OSError where the disk can't keep it.
        """
        task_id = message["task_id"]
        path = self._write(task_id, "result" if name in RESULTS else "report", name, message)
        if path.suffix == ".result":
            with self._lock:
                self._known.append(task_id)
        try:
            self._publish(name, message)
        except Exception as error:
            log.warning("task %s: its %s is kept until the broker takes it (%s)", task_id, path.suffix[1:], error)
            _sync(path)
            with self._lock:
                self._left.append(path)
            self._work_on()
        else:
            path.unlink(missing_ok=True)

    def flush(self) -> bool:
        """Try once to send what is left; whether that is done."""
        with self._sending:
            with self._lock:
                left = [*self._left]
            for path in left:
                if not self._send_file(path):
                    return False
                with self._lock:
                    self._left.remove(path)
        return True

    def _send_file(self, path: Path) -> bool:
        try:
            name, message = json.loads(path.read_bytes())
        except ValueError:  # the power went before it was whole: its task was not acknowledged
            log.warning("%s is not whole, and is not sent", path.name)
            path.unlink()
            return True
        try:
            self._publish(name, message)
        except Exception as error:
            log.warning("%s of task %s is still kept: %s", name, message["task_id"], error)
            return False
        path.unlink()
        log.warning("%s of task %s is sent now", name, message["task_id"])
        return True

    def _work_on(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, daemon=True)
                self._thread.start()

    def _work(self) -> None:
        while True:
            time.sleep(self._pause)
            try:
                self.flush()
            except Exception:  # a disk that can't be read now
                log.exception("the spool")
            with self._lock:
                if not self._left:
                    self._thread = None
                    return

    def _adopt(self, other: Path) -> None:
        done = {_task(path) for path in other.glob("*.result")}
        for path in sorted(other.iterdir()):
            if path.suffix == ".part" or (path.suffix == ".begun" and _task(path) in done):
                path.unlink()  # half a file, or the mark of what came to its end: the result is there
            elif path.suffix in (".result", ".report", ".begun"):
                kind = ".result" if path.suffix == ".result" else ".report"
                with self._lock:
                    if kind == ".result":
                        self._known.append(_task(path))
                    self._left.append(path.rename(self.own / path.with_suffix(kind).name))
        _remove(other)

    def _write(self, task_id: str, kind: str, name: str, message: dict[str, Any]) -> Path:
        path = self.own / f"{task_id}.{secrets.token_hex(4)}.{kind}"
        part = path.with_suffix(".part")
        try:
            part.write_text(json.dumps([name, message]))
            return part.rename(path)
        except OSError:
            part.unlink(missing_ok=True)
            raise


def forget_begun(folder: Path) -> None:
    """Remove the marks of processes that were ended on purpose: what they ran counts as never begun."""
    for path in folder.glob("*/*.begun"):
        path.unlink(missing_ok=True)


def _task(path: Path) -> str:
    return path.name.rsplit(".", 2)[0]


def _hold(folder: Path) -> IO[str] | None:
    """The folder's lock, held as long as the file is open; None where a process holds it."""
    try:
        file = (folder / "lock").open("w")
    except FileNotFoundError:  # it was taken over just now
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def _remove(folder: Path) -> None:
    """Unless something is left in it, or another process looks into it now: then a later start does."""
    with contextlib.suppress(OSError):
        if {path.name for path in folder.iterdir()} <= {"lock"}:
            (folder / "lock").unlink(missing_ok=True)
            folder.rmdir()


def _sync(path: Path) -> None:
    """Make a file and its name outlive a power cut, as far as the disk can."""
    for target in (path, path.parent):
        with contextlib.suppress(OSError):
            descriptor = os.open(target, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
