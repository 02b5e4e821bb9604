"""A slot: the zygotes that one fold at a time is forked from. Supervisor: trusted, outside; believes no answer.

A slot has namespaces for standard data sets, and others for the custom one that it works for. In them is a zygote for
each data set and set of packages: a fork of the runner's parent.
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
from runner.sandbox.line import SLACK, Line, Patience, ZygoteError
from runner.sandbox.parent import NONE, Packages, Parent, ParentError
from runner.sandbox.report import Measures, check_ended
from runner.sandbox.watch import MOST_WORDS

_ZYGOTES = 4
"""Zygotes of data sets that a slot keeps."""


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
        self._places: dict[Path | None, launch.Process] = {}
        self._zygotes: OrderedDict[tuple[Path | None, Packages], Line] = OrderedDict()

    def start(self) -> None:
        """Unless it is running."""
        self._retried(lambda: self._zygote(None, NONE))

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
            if key in self._zygotes:
                self._end(key)

    def has(self, folder: Path, packages: Packages) -> bool:
        return (folder, packages) in self._zygotes

    def zygote(self, data: DataSet | None = None, packages: Packages = NONE) -> Line:
        """One for the data set, without its features yet where it is new; that of a custom one has its specific.py.

        Without a data set: one that reads standard ones.
        """
        self._end_others(data.folder if data and data.custom else None)
        return self._retried(lambda: self._zygote(data, packages))

    def _retried(self, make: Callable[[], Line]) -> Line:
        for again in (True, False):
            try:
                self._begin()
                return make()
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
                self._end((data.folder, packages))
                raise
            line.loaded = True
        return line

    @contextlib.contextmanager
    def once(self, folder: Path) -> Iterator[Line]:
        """A zygote for one split, with the folder writable."""
        self._end_others(folder)
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
        kept = wire.memfd("output", output.KEPT)
        bounds = confine.Bounds(
            *(limits.memory, limits.scratch, limits.processes, self._descriptors, data, launch.kept(), self._cpus),
            sampled=not group.files,
        )
        try:
            measures, patience = Measures(), Patience(limits.hard_time + SLACK)
            line.tell(
                "run",
                [*group.files.values(), kept, files, *fds],
                bounds=asdict(bounds),
                deadlines={"soft": limits.soft_time, "hard": limits.hard_time},
                meters=list(group.files),
                name=name,
                options=options,
            )
            for _ in range(MOST_WORDS + 1):
                answer, _ = line.hear(patience)
                if "ended" in answer:
                    ended = check_ended(answer["ended"], measures)
                    return ended, output.unroll(os.pread(kept, output.KEPT, 0), ended["printed"])
                measured = measures.checked(answer.get("said"))
                heard(line.raw(patience), measured)
            raise ZygoteError("the zygote does not stop talking")
        finally:
            os.close(kept)
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
        if key in self._zygotes and not self._zygotes[key].is_quiet():
            self._end(key)
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
        return self._places[folder]

    def _end_others(self, folder: Path | None) -> None:
        """An organiser's code may go on when its fold has ended: it does not run beside another data set's folds."""
        for other in [other for other in self._places if other not in (None, folder)]:
            self._drop(other)

    def _greet(self, line: Line) -> None:
        assert self._group is not None
        fd = wire.filled("seccomp", self._seccomp)
        try:
            line.ask("start", [fd, *self._group.join])
        finally:
            os.close(fd)

    def _end(self, key: tuple[Path | None, Packages]) -> None:
        """One zygote, or all that runs for a custom data set."""
        if key[0] is not None and key[0] in self._places:
            self._drop(key[0])
        else:
            self._zygotes.pop(key).channel.close()

    def _drop(self, folder: Path | None) -> None:
        for key in [key for key in self._zygotes if key[0] == folder]:
            self._zygotes.pop(key).channel.close()
        self._places.pop(folder).stop()
