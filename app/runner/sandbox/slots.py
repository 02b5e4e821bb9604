"""A slot: the zygotes that one fold at a time is forked from. Supervisor: trusted, outside; believes no answer.

A branch a (data set, packages), forked from the slot's zygote, or from a zygote of its own for a custom data set.
"""

import contextlib
import os
import socket
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from runner.jobs import Limits
from runner.sandbox import cgroups, confine, launch, wire
from runner.sandbox.data import Held

_SLACK = 30.0
"""Seconds that a zygote may take beyond the hard limit, before it counts as lost."""


class ZygoteError(Exception):
    """A zygote is gone, or does not answer as it should: the slot has to start anew."""


class RefusedError(Exception):
    """The zygote could not do what was asked; the message says why."""


@dataclass
class Line:
    """A channel to a zygote or branch."""

    channel: socket.socket

    def ask(self, do: str, fds: list[int] | None = None, seconds: float = _SLACK, **options: Any) -> dict[str, Any]:
        self.tell(do, fds or [], **options)
        answer, bulk = self.hear(seconds)
        for fd in bulk:
            os.close(fd)
        return answer

    def tell(self, do: str, fds: list[int], **options: Any) -> None:
        try:
            wire.send(self.channel, {"do": do, **options}, fds)
        except OSError as error:
            raise ZygoteError(f"the zygote is gone: {error}") from None

    def hear(self, seconds: float) -> tuple[dict[str, Any], list[int]]:
        try:
            self.channel.settimeout(seconds)
            answer, fds = wire.receive(self.channel, 1)
        except (EOFError, OSError, ValueError) as error:
            raise ZygoteError(f"no answer from the zygote: {error!r}") from None
        if not isinstance(answer, dict):
            raise ZygoteError("an answer that is none")
        if "error" in answer:
            raise RefusedError(str(answer["error"]))
        return answer, fds

    def specific(self, limits: Limits) -> None:
        """Have the organiser's specific.py imported."""
        seconds = limits.hard_time
        try:
            answer = self.ask("specific", memory=limits.memory, processes=limits.processes, seconds=seconds)
        except ZygoteError:
            raise RefusedError(f"specific.py ends or blocks the process that imports it ({seconds:g} s)") from None
        if answer.get("threads") != 1:
            raise RefusedError("specific.py starts threads when it is imported; a process with threads can't be forked")

    def raw(self, seconds: float) -> bytes:
        try:
            self.channel.settimeout(seconds)
            return self.channel.recv(wire.MESSAGE)
        except OSError as error:
            raise ZygoteError(f"no answer from the zygote: {error}") from None


class Slot:
    def __init__(self, limits: Limits, groups: cgroups.Sampling, user: launch.User | None, seccomp: bytes) -> None:
        self.limits = limits
        self._groups = groups
        self._user = user
        self._seccomp = seccomp
        self._group: cgroups.Group | None = None
        self._processes: OrderedDict[Path | None, launch.Process] = OrderedDict()
        self._imported: set[Path] = set()
        self._branches: OrderedDict[tuple[Path, frozenset[str]], Line] = OrderedDict()
        self.modules: frozenset[str] = frozenset()
        """Top-level packages that the zygote has imported."""

    def start(self) -> None:
        """Unless it is running."""
        if self._group is not None:
            return
        self._group = self._groups.slot(self.limits.processes)
        try:
            answer = self._zygote(None)
        except BaseException:
            self.close()
            raise
        self.modules = frozenset(answer["modules"])

    def close(self) -> None:
        for line in self._branches.values():
            line.channel.close()
        for process in self._processes.values():
            process.stop()
        self._branches.clear()
        self._processes.clear()
        self._imported.clear()
        if self._group is not None:
            self._group.close()
            self._group = None

    def keep(self, folders: set[Path]) -> None:
        """Drop what is warm for data sets that are no longer held."""
        for key in [key for key in self._branches if key[0] not in folders]:
            self._drop_branch(key)

    def has(self, folder: Path, packages: frozenset[str]) -> bool:
        return (folder, packages) in self._branches

    def zygote(self, folder: Path | None) -> Line:
        """The zygote for a custom data set's folder, or the one for all others."""
        if folder not in self._processes:
            self._zygote(folder)
        if folder is not None and folder not in self._imported:
            try:
                Line(self._processes[folder].channel).specific(self.limits)
            except BaseException:
                self._drop_process(folder)
                raise
            self._imported.add(folder)
        self._processes.move_to_end(folder)
        return Line(self._processes[folder].channel)

    def branch(self, folder: Path, custom: bool, held: Held, packages: frozenset[str], most: int) -> Line:
        """With the data set loaded and the packages imported. At most `most` of them are kept."""
        key = (folder, packages)
        if key in self._branches:
            self._branches.move_to_end(key)
            return self._branches[key]
        while len(self._branches) >= most:
            self._drop_branch(next(iter(self._branches)))
        ours, theirs = wire.pair()
        with theirs:
            self.zygote(folder if custom else None).ask("branch", [theirs.fileno()])
        line = Line(ours)
        try:
            if packages:
                answer = line.ask("preload", packages=sorted(packages), seconds=self.limits.hard_time)
                if answer.get("threads") != 1:
                    raise RefusedError("threads")
            line.ask("load", [held.features], seconds=self.limits.hard_time)
        except BaseException:
            ours.close()
            raise
        self._branches[key] = line
        return line

    def once(self, folder: Path) -> launch.Process:
        """A zygote for one split, with the folder writable."""
        process = launch.start(self._user, folder, writable=True)
        try:
            self._greet(process)
        except BaseException:
            process.stop()
            raise
        return process

    def run(
        self,
        line: Line,
        name: str,
        files: int,
        fds: list[int],
        options: dict[str, Any],
        heard: Callable[[bytes, dict[str, float]], None],
        *,
        data: bool = False,
    ) -> tuple[dict[str, Any], bytes]:
        """One fork; heard(what it said, measures) for each of its words. Returns how it ended, and its output."""
        limits = self.limits
        assert self._group is not None
        group = self._groups.fold(self._group, limits.memory, limits.processes)
        try:
            line.tell(
                "run",
                [*group.files.values(), files, *fds],
                bounds=asdict(confine.Bounds(limits.memory, limits.scratch, limits.processes, data, launch.kept())),
                deadlines={"soft": limits.soft_time, "hard": limits.hard_time},
                meters=list(group.files),
                name=name,
                options=options,
            )
            while True:
                answer, bulk = line.hear(limits.hard_time + _SLACK)
                if "ended" in answer:
                    output = wire.read(bulk[0])[: 1 << 20] if bulk else b""
                    for fd in bulk:
                        os.close(fd)
                    return answer["ended"], output
                heard(line.raw(_SLACK), answer["said"])
        finally:
            if group is not self._group:
                group.close()

    def _zygote(self, folder: Path | None) -> dict[str, Any]:
        process = launch.start(self._user, folder)
        try:
            answer = self._greet(process)
        except BaseException:
            process.stop()
            raise
        self._processes[folder] = process
        custom = [key for key in self._processes if key is not None]
        for old in custom[:-_CUSTOM]:
            self._drop_process(old)
        return answer

    def _greet(self, process: launch.Process) -> dict[str, Any]:
        assert self._group is not None
        fd = wire.filled("seccomp", self._seccomp)
        try:
            return Line(process.channel).ask("start", [fd, *self._group.join])
        finally:
            os.close(fd)

    def _drop_process(self, folder: Path | None) -> None:
        for key in [key for key in self._branches if key[0] == folder]:
            self._drop_branch(key)
        self._imported -= {folder}
        with contextlib.suppress(KeyError):
            self._processes.pop(folder).stop()

    def _drop_branch(self, key: tuple[Path, frozenset[str]]) -> None:
        self._branches.pop(key).channel.close()


_CUSTOM = 2
"""Custom data sets whose zygotes a slot keeps."""
