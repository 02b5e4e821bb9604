"""What a fold has in memory, where no cgroup counts it. Runs inside, in the zygote: out of the fold's reach.

The zygote reads /proc, where it sees the fold's processes as their ancestor. Whatever a fold may do it can't hide from
the tree of its processes (orphans go to its first one) nor from their `status`, which anybody may read.

Memory that belongs to no process is where the system call filter leaves it: in the fold's file systems, in the memfds
that it was given, in stream sockets and in pipes.
"""

import os
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from runner.sandbox import kernel

_TICK = 1 / os.sysconf("SC_CLK_TCK")
_DESCRIPTOR = 8 << 10
"""Bytes that an open descriptor may stand for: an empty pipe of a user who has many holds two pages."""
_INODE = 1 << 10
_STATUS = ("PPid:", "Threads:", "FDSize:", "VmHWM:", "VmRSS:", "RssAnon:", "VmSwap:", "VmPTE:")
_REST = 5
"""How many times as long as an exact count takes it is not repeated."""
_SELDOM = 0.1
"""Seconds between two looks at sockets, which are filled more slowly than memory."""

Status = dict[str, int]


class SampledMeter:
    """Samples; `over` has to be asked every `interval` seconds, and the asker has to kill.

    memory: the limit in bytes. memfds: what else the fold may write to.
    """

    interval = 0.02

    def __init__(self, memory: int, memfds: Sequence[int]) -> None:
        self._limit = memory
        self._memfds = memfds
        self._scratch: list[int] = []
        self._peak = 0
        self._pid = 0
        self._others: set[str] = set()
        self._first: Status = {}
        self._elsewhere = 0
        self._exact, self._again = 0, 0.0
        self._sockets, self._look_again = 0, 0.0

    def follow(self, pid: int) -> None:
        """The fold's process, before it does anything."""
        self._pid = pid
        self._others = {name for name in os.listdir("/proc") if name.isdecimal()} - {str(pid)}
        self._first = _status(pid)
        self._elsewhere = self._outside()

    def keep(self, scratch: list[int]) -> None:
        """scratch: descriptors of the fold's own file systems, which are empty still. Closes them in the end."""
        self._scratch = scratch

    def close(self) -> None:
        for fd in self._scratch:
            os.close(fd)
        self._scratch = []

    def cpu(self) -> float:
        try:
            total = time.clock_gettime(~self._pid << 3 | 2)  # the CPU clock of that process, see clock_getcpuclockid(3)
        except OSError:
            return 0.0
        for pid in self._family():
            fields = _stat(pid)
            total += sum(map(int, fields[13:15])) * _TICK  # children that were waited for
            if pid != self._pid:
                total += sum(map(int, fields[11:13])) * _TICK
        return total

    def peak(self) -> int:
        """Bytes: the most seen in a sample, or the high-water mark of the fold's first process."""
        self.over()
        return max(self._peak, _status(self._pid).get("VmHWM:", 0) - self._first.get("VmRSS:", 0))

    def over(self) -> bool:
        family = _distinct(self._family())
        base = self._first.get("RssAnon:", 0)
        anonymous = [status.get("RssAnon:", 0) for status in family.values()]
        rest = self._outside() - self._elsewhere + sum(map(self._kernel, family.values()))
        # Forks share pages with each other and with the zygote, but which ones is costly to find out.
        now = sum(max(0, size - base) for size in anonymous) + rest
        if sum(anonymous) - base + rest > self._limit and len(family) > 1:
            now = self._counted(family, base) + rest
        self._peak = max(self._peak, now)
        return self._peak > self._limit

    def _kernel(self, status: Status) -> int:
        tables = status.get("VmPTE:", 0) - self._first.get("VmPTE:", 0)
        descriptors = status.get("FDSize:", 0) - self._first.get("FDSize:", 0)
        return status.get("VmSwap:", 0) + max(0, tables) + max(0, descriptors) * _DESCRIPTOR

    def _counted(self, family: dict[int, Status], base: int) -> int:
        """Bytes of the processes' own memory; what several share counts once. If asked too often: as it was before."""
        began = time.monotonic()
        if began >= self._again:
            # All that have a page of the zygote's count the same share of it.
            shared = min(base, len(family) * _proportional(os.getpid()))
            self._exact = sum(map(_proportional, family)) - shared
            now = time.monotonic()
            self._again = now + _REST * (now - began)
        return self._exact

    def _outside(self) -> int:
        """Bytes of files, memfds and sockets."""
        size = sum(os.fstat(fd).st_blocks * 512 for fd in self._memfds)
        for fd in self._scratch:
            used = os.fstatvfs(fd)
            size += (used.f_blocks - used.f_bfree) * used.f_frsize + (used.f_files - used.f_ffree) * _INODE
        if (now := time.monotonic()) > self._look_again:
            self._sockets, self._look_again = sockets(), now + _SELDOM
        return size + self._sockets

    def _family(self) -> dict[int, Status]:
        """The fold's first process and those below it."""
        found = {
            int(name): _status(int(name))
            for name in os.listdir("/proc")
            if name.isdecimal() and name not in self._others
        }
        family, new = list[int](), {self._pid} & found.keys()
        while new:
            family += new
            new = {pid for pid, status in found.items() if status.get("PPid:") in new} - {*family}
        return {pid: found[pid] for pid in family}


def _distinct(family: dict[int, Status]) -> dict[int, Status]:
    """Without processes that have another one's memory: a child has its parent's from vfork until it executes."""
    kept = dict[int, Status]()
    for pid, status in family.items():
        if not ("VmRSS:" in status and any(kernel.same_memory(pid, other) for other in kept)):
            kept[pid] = status
    return kept


def _stat(pid: int) -> list[str]:
    """From the third field of /proc/PID/stat on: what comes after the name."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ["0"] * 50


def _status(pid: int) -> Status:
    """Numbers of /proc/PID/status, sizes in bytes; empty once it is gone."""
    status = _read_status(f"/proc/{pid}/status")
    if "VmRSS:" not in status and status.get("Threads:", 0) > 1:  # its first thread has ended: others have the memory
        for thread in _listed(f"/proc/{pid}/task"):
            other = _read_status(f"/proc/{pid}/task/{thread}/status")
            if "VmRSS:" in other:
                return {name: number for name, number in other.items() if name != "VmRSS:"}
    return status


def _read_status(path: str) -> Status:
    try:
        with open(path, "rb", 0) as file:
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return {}
    words = [line.split() for line in lines if line.startswith(_STATUS)]
    return {name: int(number) << (10 if unit else 0) for name, number, *unit in words}


def _proportional(pid: int) -> int:
    """Bytes of anonymous memory, of pages that others have too its share; all of them if nobody may see that."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss_Anon:"))
    except (OSError, StopIteration):
        return _status(pid).get("RssAnon:", 0)


def _listed(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


# Sockets: what is sent and not yet received. From the kernel's sock_diag(7), for all of this network namespace.

_HEADER, _MESSAGE, _ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("=BBBBI8x"), struct.Struct("=HH")
_DUMP = _HEADER.pack(40, 20, 0x301, 1, 0) + struct.pack("=BBHIIIII", socket.AF_UNIX, 0, 0, 0xFFFFFFFF, 0, 0x34, 0, 0)
_DONE, _ERROR, _PEER, _QUEUES, _MEMORY, _LISTENING = 3, 2, 2, 4, 5, 10
_SOCKET = 3 << 10
_FEW = 64
"""Sockets that are not counted where their contents can't be seen: an ordinary program with processes has some."""
_MOST_QUEUED = 2 * 212_992 + (64 << 10)
"""Bytes of the largest send buffer with the message that overflows it, at the kernel's default of wmem_max."""


def sockets() -> int:
    """Bytes that the AF_UNIX sockets of this network namespace hold; without unix_diag, the most that they may."""
    size, inodes, left = 0, set[int](), list[int]()
    try:
        dumped = list(_dumped())
    except OSError:
        return _MOST_QUEUED * max(0, len(Path("/proc/net/unix").read_text().splitlines()) - _FEW)
    for inode, state, attributes in dumped:
        inodes.add(inode)
        size += _SOCKET + struct.unpack_from("=3I", attributes[_MEMORY])[2]
        if state != _LISTENING and struct.unpack_from("=I", attributes[_QUEUES])[0]:
            left.append(struct.unpack("=I", attributes.get(_PEER, bytes(4)))[0])
    # The kernel charges the sender, whose socket may be closed.
    return size + sum(_MOST_QUEUED for peer in left if peer not in inodes)


def _dumped() -> Iterator[tuple[int, int, dict[int, bytes]]]:
    """Inode, state and attributes of each socket."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4) as link:  # NETLINK_SOCK_DIAG
        link.send(_DUMP)
        while True:
            data, place = link.recv(1 << 16), 0
            while place < len(data):
                length, kind, *_ = _HEADER.unpack_from(data, place)
                if kind == _ERROR:
                    raise OSError(-struct.unpack_from("=i", data, place + 16)[0], "sockets are not to be seen")
                if kind == _DONE:
                    return
                _, _, state, _, inode = _MESSAGE.unpack_from(data, place + 16)
                yield inode, state, dict(_attributes(data[place + 32 : place + length]))
                place += length + -length % 4


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    place = 0
    while place + 4 <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, place)
        yield kind, data[place + 4 : place + length]
        place += length + -length % 4
