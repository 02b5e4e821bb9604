"""Memory, CPU and process counts by cgroup. Supervisor: trusted, outside.

Three strengths, whichever this host allows:

    cgroup v2   a group a fold, in a subtree that is delegated to this user (Delegate=yes) or as root
    cgroup v1   a group a slot, with the zygote in it: moving a fold would cost 10 ms
    sampling    none is ours: the zygote samples the fold's memory and kills above the limit

CPU is shared out by the controller `cpu`, where a group can have it: however many processes a fold has, it gets no
more than another. Where not, each slot has CPUs of its own.
"""

import contextlib
import errno
import itertools
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from runner.sandbox.confine import ZYGOTES

_V1 = {
    "limit": ("memory", "memory.limit_in_bytes", os.O_RDWR),
    "usage": ("memory", "memory.usage_in_bytes", os.O_RDONLY),
    "peak": ("memory", "memory.max_usage_in_bytes", os.O_RDWR),
    "oom": ("memory", "memory.oom_control", os.O_RDONLY),
    "cpu": ("cpuacct", "cpuacct.usage", os.O_RDONLY),
}
AFFINITY = "affinity"
_V2 = {"join": "cgroup.procs", "cpu": "cpu.stat", "peak": "memory.peak", "oom": "memory.events"}
_numbers = itertools.count(1)


@dataclass
class Group:
    """Open files of one slot (v1) or one fold (v2); join: where a zygote enters."""

    folders: list[Path] = field(default_factory=list)
    files: dict[str, int] = field(default_factory=dict)
    join: list[int] = field(default_factory=list)

    def close(self) -> None:
        for fd in (*self.files.values(), *self.join):
            os.close(fd)
        self.files, self.join = {}, []
        for folder in self.folders:
            _remove(folder)


class Sampling:
    """cpu: what shares out CPU."""

    strength = "sampling"
    cpu = AFFINITY
    note = "memory is sampled, not controlled: no cgroup of this host is ours to use"

    def slot(self, processes: int) -> Group:
        return Group()

    def fold(self, slot: Group, memory: int, processes: int) -> Group:
        return Group()

    def close(self) -> None:
        pass


class V1(Sampling):
    strength = "cgroup v1"
    note = ""

    def __init__(self) -> None:
        self._own = {name: _own(name) for name in ("memory", "cpuacct", "pids")}
        with contextlib.suppress(OSError, LookupError):
            cpu = _own("cpu")
            if cpu not in self._own.values():  # elsewhere it is mounted together with cpuacct
                _remove_stale(cpu)
                _try(cpu)
                self._own["cpu"] = cpu
            self.cpu = "cpu.shares"  # by default those of all slots are equal
        for own in self._own.values():
            _remove_stale(own)
        probe = self.slot(1)
        probe.close()

    def slot(self, processes: int) -> Group:
        name = f"datarun-slot-{os.getpid()}-{next(_numbers)}"
        group = Group([own / name for own in self._own.values()])
        try:
            for folder in group.folders:
                folder.mkdir()
                group.join.append(os.open(folder / "cgroup.procs", os.O_WRONLY))
            (group.folders[2] / "pids.max").write_text(str(processes + ZYGOTES))
            for name, (controller, file, mode) in _V1.items():
                folder = group.folders[list(self._own).index(controller)]
                group.files[name] = os.open(folder / file, mode)
        except BaseException:
            group.close()
            raise
        return group

    def fold(self, slot: Group, memory: int, processes: int) -> Group:
        return slot


class V2(Sampling):
    strength = "cgroup v2"
    note = ""

    def __init__(self) -> None:
        """Moves this group's processes one level down: a group with processes can't hand controllers on."""
        self._own = _own("")
        self._home: Path | None = None
        if self._own.name == "datarun-supervisor":  # an earlier Executor of this process did it
            self._own = self._own.parent
        delegated = set((self._own / "cgroup.controllers").read_text().split())
        if not {"memory", "pids"} <= delegated:
            raise OSError("memory and pids are not delegated")
        _remove_stale(self._own)
        if (self._own / "cgroup.type").exists():  # not so in the root of all groups, which may have processes
            self._home = self._own / "datarun-supervisor"
            self._home.mkdir(exist_ok=True)
        self._hand_on("+memory +pids")
        if "cpu" in delegated:
            with contextlib.suppress(OSError):  # the kernel refuses while a process has real-time priority
                self._hand_on("+cpu")
                self.cpu = "cpu.weight"  # by default that of all folds is equal
                if self._home is not None:
                    (self._home / "cpu.weight").write_text("1000")
        self.fold(Group(), 1 << 20, 1).close()

    def _hand_on(self, controllers: str) -> None:
        """Controllers, to the groups below. A process that forks just now may leave its child behind: again then."""
        for again in range(20, -1, -1):
            if self._home is not None:
                for pid in {*(self._own / "cgroup.procs").read_text().split(), str(os.getpid())}:
                    with contextlib.suppress(ProcessLookupError):
                        (self._home / "cgroup.procs").write_text(pid)
            try:
                (self._own / "cgroup.subtree_control").write_text(controllers)
                return
            except OSError as error:
                if error.errno != errno.EBUSY or not again:
                    raise

    def _make(self, kind: str) -> Path:
        folder = self._own / f"datarun-{kind}-{os.getpid()}-{next(_numbers)}"
        folder.mkdir()
        return folder

    def slot(self, processes: int) -> Group:
        folder = self._make("zygote")
        (folder / "pids.max").write_text(str(processes + ZYGOTES))
        return Group([folder], join=[os.open(folder / "cgroup.procs", os.O_WRONLY)])

    def fold(self, slot: Group, memory: int, processes: int) -> Group:
        group = Group([self._make("fold")])
        try:
            limits = {"memory.max": memory, "memory.swap.max": 0, "memory.oom.group": 1, "pids.max": processes}
            for file, value in limits.items():
                with contextlib.suppress(FileNotFoundError):  # a kernel without swap accounting
                    (group.folders[0] / file).write_text(str(value))
            for name, file in _V2.items():
                group.files[name] = os.open(group.folders[0] / file, os.O_WRONLY if name == "join" else os.O_RDONLY)
            with contextlib.suppress(OSError):  # Linux 6.12 and later: the mark can be reset by who has it open
                again = os.open(group.folders[0] / "memory.peak", os.O_RDWR)
                os.close(group.files["peak"])
                group.files["peak"] = again
        except BaseException:
            group.close()
            raise
        return group


def best() -> Sampling:
    for kind in (V2, V1):
        with contextlib.suppress(OSError, LookupError):
            return kind()
    return Sampling()


def shares(slots: int) -> list[list[int]]:
    """The CPUs of each slot: disjoint sets where there are as many as slots, else one each, which some share."""
    cpus = sorted(os.sched_getaffinity(0))
    return [cpus[slot::slots] or [cpus[slot % len(cpus)]] for slot in range(slots)]


def _own(controller: str) -> Path:
    """The folder of this process's group, for a v1 controller or '' for v2."""
    return _mounted(controller) / _path_of(controller).lstrip("/")


def _try(own: Path) -> None:
    """Raises OSError where no group can be made below this one."""
    folder = own / f"datarun-probe-{os.getpid()}"
    folder.mkdir()
    folder.rmdir()


def _path_of(controller: str) -> str:
    """This process's group, for a v1 controller or '' for v2."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            return path
    raise LookupError(controller)


def _mounted(controller: str) -> Path:
    """Where the hierarchy is mounted."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        mount, _, source = line.partition(" - ")
        kind, _, options = source.split(" ", 2)
        if kind == ("cgroup" if controller else "cgroup2") and (not controller or controller in options.split(",")):
            return Path(mount.split(" ")[4])
    raise LookupError(controller)


def _remove_stale(own: Path) -> None:
    """What a runner that was killed has left: groups named after a process that is no more."""
    for folder in own.glob("datarun-*-*"):
        pid = next(filter(str.isdecimal, folder.name.split("-")), "0")
        if not Path("/proc", pid).exists():
            with contextlib.suppress(OSError):
                folder.rmdir()


def _remove(folder: Path) -> None:
    """A group can be removed a moment after its last process is gone."""
    for _ in range(200):
        try:
            folder.rmdir()
            return
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.005)
