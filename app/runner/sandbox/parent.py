"""The parent of a runner's zygotes, which has imported what folds need. Supervisor: trusted, outside.

One process a runner, and beside it one for each set of packages that submissions import, forked from the first: a slow
import is paid once a runner. They hold nothing of any data set. A zygote is a fork of one of them that has entered
namespaces of its own.
"""

import contextlib
import os
import signal
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from runner.sandbox import launch, wire
from runner.sandbox.line import SLACK, Line, Patience, RefusedError, ZygoteError

Packages = frozenset[str]
NONE: Packages = frozenset()

_MOST = 8
"""Sets of packages that are kept imported."""


class ParentError(ZygoteError):
    """The parent is gone; `start` makes another one."""


class PackagesError(RefusedError):
    """The packages can't be imported ahead of the folds that want them; the message says why."""


@dataclass
class _Child:
    """A fork of the parent that has imported packages."""

    line: Line
    pidfd: int

    def stop(self) -> None:
        self.line.channel.close()
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        os.close(self.pidfd)


class Parent:
    """Safe to use from several threads.

    user: whom root becomes. seconds: how long the import of packages may take. modules: top-level packages that it has
    imported. process: the parent that runs; namespaces that were made below an earlier one are of no use to it.
    """

    def __init__(self, user: launch.User | None, seconds: float) -> None:
        self._user = user
        self._seconds = seconds
        self._lock = threading.Lock()
        self._importing: dict[Packages, threading.Lock] = {}
        self._children: OrderedDict[Packages, _Child] = OrderedDict()
        self.process: launch.Process | None = None
        self.modules: frozenset[str] = NONE

    def start(self) -> None:
        """Unless it runs. Raises launch.LaunchError, launch.Interrupted."""
        with self._lock:
            if self.process is not None and self.process.popen.poll() is not None:
                self._stop()
            if self.process is None:
                self.process, said = launch.parent(self._user)
                self.modules = frozenset(said["modules"])

    def close(self) -> None:
        """Its zygotes live on, until their namespaces are stopped."""
        with self._lock:
            self._stop()

    def namespaces(self, data: Path | None = None, writable: bool = False) -> launch.Process:
        """What zygotes of this parent may enter; data, writable: as launch.namespaces has them. Raises ParentError."""
        with self._lock, self._is_there():
            assert self.process is not None
            owner = os.open(f"/proc/{self.process.pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return launch.namespaces(self._user, owner, data, writable)
        finally:
            os.close(owner)

    def fork(self, place: launch.Process, packages: Packages = NONE) -> Line:
        """A zygote in these namespaces, with the packages imported.

        Raises ParentError; PackagesError, ZygoteError.
        """
        if packages:
            self._import(packages)
        assert place.inside is not None
        line, _ = self._forked("zygote", [place.inside], below=packages)
        try:
            line.hear(Patience(SLACK))
        except BaseException:
            line.channel.close()
            raise
        return line

    def _import(self, packages: Packages) -> None:
        """Unless it is done. Other slots go on meanwhile."""
        with self._lock:
            importing = self._importing.setdefault(packages, threading.Lock())
        with importing:
            with self._lock:
                if packages in self._children:
                    self._children.move_to_end(packages)
                    return
            line, [pidfd] = self._forked("packages", [], packages=sorted(packages))
            child = _Child(line, pidfd)
            try:
                answer, _ = line.hear(Patience(self._seconds))
                if answer.get("threads") != 1:
                    raise PackagesError("a process with threads can't be forked")
            except ZygoteError as error:
                child.stop()
                raise PackagesError(f"the packages can't be imported ahead: {error}") from None
            except BaseException:
                child.stop()
                raise
            with self._lock:
                self._children[packages] = child
                while len(self._children) > _MOST:
                    self._children.popitem(last=False)[1].stop()

    def _forked(self, do: str, fds: list[int], below: Packages = NONE, **options: object) -> tuple[Line, list[int]]:
        """Have the parent, or its child with the packages `below`, fork: the channel to the fork, perhaps its pidfd."""
        ours, theirs = wire.pair()
        try:
            with theirs, self._lock, self._is_there(below):
                assert self.process is not None
                line = self._children[below].line if below else Line(self.process.channel)
                line.tell(do, [theirs.fileno(), *fds], **options)
                return Line(ours), line.hear(Patience(SLACK), fds=1)[1]
        except BaseException:
            ours.close()
            raise

    @contextlib.contextmanager
    def _is_there(self, packages: Packages = NONE) -> Iterator[None]:
        """With the lock held: a parent, or child, that does not answer is dropped, with a ParentError."""
        try:
            if self.process is None:
                raise ZygoteError("it was stopped")
            yield
        except (ZygoteError, OSError, KeyError) as error:
            if packages and packages in self._children:
                self._children.pop(packages).stop()
            elif not packages:
                self._stop()
            raise ParentError(f"the parent of the zygotes is gone: {error}") from None

    def _stop(self) -> None:
        for child in self._children.values():
            child.stop()
        self._children.clear()
        if self.process is not None:
            self.process.stop()
            self.process = None
