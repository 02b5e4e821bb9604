"""A slot: the zygotes that one fold at a time is forked from. Supervisor: trusted, outside; believes no answer.

A slot has namespaces for standard data sets, and others for each custom one. In them is a zygote for each data set and
set of packages: a fork of the runner's parent.
"""

import contextlib
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from runner.jobs import DataSet, Limits
from runner.sandbox import cgroups, confine, launch, output, wire
from runner.sandbox.data import Held
from runner.sandbox.line import SLACK, Line
from runner.sandbox.parent import NONE, Packages, Parent, ParentError

_ZYGOTES = 4
"""Zygotes of data sets that a slot keeps."""
_CUSTOM = 2
"""Custom data sets whose namespaces a slot keeps."""


class Slot:
    """descriptors: that a process of a fold may have open. cpus: of its folds; empty: all."""

    def __init__(
        self,
        parent: Parent,
        limits: Limits,
        groups: cgroups.Sampling,
        seccomp: bytes,
        descriptors: int,
        cpus: list[int],
    ) -> None:
        self.limits = limits
        self._descriptors = descriptors
        self._cpus = cpus
        self._parent = parent
        self._groups = groups
        self._seccomp = seccomp
        self._group: cgroups.Group | None = None
        self._below: launch.Process | None = None
        self._places: OrderedDict[Path | None, launch.Process] = OrderedDict()
        self._zygotes: OrderedDict[tuple[Path | None, Packages], Line] = OrderedDict()

    def start(self) -> None:
        """Unless it is running."""
        self.zygote()

    def close(self) -> None:
        for line in self._zygotes.values():
            line.channel.close()
        for place in self._places.values():
            place.stop()
        self._zygotes.clear()
        self._places.clear()
        if self._group is not None:
            self._group.close()
            self._group = None

    def keep(self, folders: set[Path]) -> None:
        """Drop what is warm for data sets that are no longer held."""
        for key in [key for key in self._zygotes if key[0] is not None and key[0] not in folders]:
            self._zygotes.pop(key).channel.close()

    def has(self, folder: Path, packages: Packages) -> bool:
        return (folder, packages) in self._zygotes

    def zygote(self, data: DataSet | None = None, packages: Packages = NONE) -> Line:
        """One for the data set, without its features yet where it is new; that of a custom one has its specific.py.

        Without a data set: one that reads standard ones.
        """
        for again in (True, False):
            try:
                self._begin()
                return self._zygote(data, packages)
            except ParentError:
                if not again:
                    raise
            except BaseException:
                if not self._zygotes:  # the first one
                    self.close()
                raise
        raise AssertionError

    def loaded(self, data: DataSet, held: Held, packages: Packages) -> Line:
        """A zygote that holds the data set's features."""
        line = self.zygote(data, packages)
        if not line.loaded:
            try:
                line.ask("load", [held.features], seconds=self.limits.hard_time)
            except BaseException:
                self._zygotes.pop((data.folder, packages)).channel.close()
                raise
            line.loaded = True
        return line

    @contextlib.contextmanager
    def once(self, folder: Path) -> Iterator[Line]:
        """A zygote for one split, with the folder writable."""
        for again in (True, False):
            self._begin()
            try:
                place = self._parent.namespaces(folder, writable=True)
                try:
                    line = self._parent.fork(place)
                    self._greet(line)
                except BaseException:
                    place.stop()
                    raise
                break
            except ParentError:
                if not again:
                    raise
        try:
            yield line
        finally:
            line.channel.close()
            place.stop()

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
    ) -> tuple[dict[str, Any], str]:
        """One fork; heard(what it said, measures) for each of its words. Returns how it ended, and its output."""
        limits = self.limits
        assert self._group is not None
        group = self._groups.fold(self._group, limits.memory, limits.processes)
        bounds = confine.Bounds(
            *(limits.memory, limits.scratch, limits.processes, self._descriptors, data, launch.kept(), self._cpus),
            sampled=not group.files,
        )
        try:
            line.tell(
                "run",
                [*group.files.values(), files, *fds],
                bounds=asdict(bounds),
                deadlines={"soft": limits.soft_time, "hard": limits.hard_time},
                meters=list(group.files),
                name=name,
                options=options,
            )
            while True:
                answer, bulk = line.hear(limits.hard_time + SLACK)
                if "ended" in answer:
                    ended = answer["ended"]
                    kept = os.pread(bulk[0], output.KEPT, 0) if bulk else b""
                    for fd in bulk:
                        os.close(fd)
                    return ended, output.unroll(kept, int(ended.get("printed", 0)))
                heard(line.raw(SLACK), answer["said"])
        finally:
            if group is not self._group:
                group.close()

    def _begin(self) -> None:
        """A slot whose parent had to be started anew begins anew: the forks of this one can't enter its namespaces."""
        self._parent.start()
        if self._below is not self._parent.process:
            self.close()
            self._below = self._parent.process
        if self._group is None:
            self._group = self._groups.slot(self.limits.processes)

    def _zygote(self, data: DataSet | None, packages: Packages) -> Line:
        key = data.folder if data else None, packages
        if key not in self._zygotes:
            others = [other for other in self._zygotes if other[0] is not None]
            for old in others[: len(others) + 1 - _ZYGOTES]:
                self._zygotes.pop(old).channel.close()
            folder = data.folder if data and data.custom else None
            line = self._parent.fork(self._place(folder), packages)
            try:
                self._greet(line)
                if folder is not None:
                    line.specific(self.limits)
            except BaseException:
                line.channel.close()
                if folder is not None:
                    self._drop(folder)  # with what its code has left running
                raise
            self._zygotes[key] = line
        self._zygotes.move_to_end(key)
        return self._zygotes[key]

    def _place(self, folder: Path | None) -> launch.Process:
        """The namespaces for zygotes of a custom data set, or for all others."""
        if folder not in self._places:
            self._places[folder] = self._parent.namespaces(folder)
            custom = [key for key in self._places if key is not None]
            for old in custom[:-_CUSTOM]:
                self._drop(old)
        self._places.move_to_end(folder)
        return self._places[folder]

    def _greet(self, line: Line) -> None:
        assert self._group is not None
        fd = wire.filled("seccomp", self._seccomp)
        try:
            line.ask("start", [fd, *self._group.join])
        finally:
            os.close(fd)

    def _drop(self, folder: Path) -> None:
        for key in [key for key in self._zygotes if key[0] == folder]:
            self._zygotes.pop(key).channel.close()
        self._places.pop(folder).stop()
