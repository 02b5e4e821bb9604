"""How much CPU and memory a fold has used. Runs inside, in the zygote: out of the fold's reach.

With cgroups the zygote reads and writes files that the supervisor has opened and passed on, as it sees no cgroup
file system itself. Without, it samples /proc, where it sees the fold's processes as their ancestor.
"""

import os
import time
from pathlib import Path

_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICK = 1 / os.sysconf("SC_CLK_TCK")


class CgroupMeter:
    """files: of cgroup v1 cpu, usage, peak, oom, limit (of a slot); of v2 cpu, peak, oom, join (of a fold)."""

    interval = None

    def __init__(self, files: dict[str, int], memory: int) -> None:
        self._files = files
        self._base = 0
        self._peak_before_reset = 0
        if "limit" in files:  # v1: the zygote lives in the same group, so count from what is there already
            self._base = self._number("usage")
            os.pwrite(files["limit"], str(self._base + memory).encode(), 0)
            self._reset()
        self._ooms = self._oom_kills()

    def follow(self, pid: int) -> None:
        """The fold's process, before it does anything."""
        if "join" in self._files:
            os.write(self._files["join"], str(pid).encode())

    def cpu(self) -> float:
        text = os.pread(self._files["cpu"], 4096, 0).split()
        return int(text[0]) / 1e9 if len(text) == 1 else int(text[1]) / 1e6  # v1: ns; v2: usage_usec first

    def peak(self) -> int:
        """Bytes since the last call, if this kernel can reset its mark, else since the beginning."""
        peak = self._number("peak") - self._base
        self._reset()
        return max(0, peak)

    def over(self) -> bool:
        """Did the kernel kill for want of memory?"""
        return self._oom_kills() > self._ooms

    def _number(self, name: str) -> int:
        return int(os.pread(self._files[name], 64, 0))

    def _reset(self) -> None:
        try:
            os.pwrite(self._files["peak"], b"0", 0)
        except OSError:
            pass  # cgroup v2 before Linux 6.12

    def _oom_kills(self) -> int:
        words = os.pread(self._files["oom"], 4096, 0).split()
        return int(words[words.index(b"oom_kill") + 1]) if b"oom_kill" in words else 0


class SampledMeter:
    """Samples; `over` has to be asked every `interval` seconds, and the asker has to kill."""

    interval = 0.02

    def __init__(self, memory: int) -> None:
        self._limit = memory
        self._peak = 0
        self._pid = self._base = self._start = 0

    def follow(self, pid: int) -> None:
        self._pid = pid
        self._start = _resident(pid, "VmRSS:")
        self._base = _resident(pid, "RssAnon:", "RssShmem:")

    def cpu(self) -> float:
        try:
            total = time.clock_gettime(~self._pid << 3 | 2)  # the CPU clock of that process, see clock_getcpuclockid(3)
        except OSError:
            return 0.0
        for pid in self._tree():
            fields = _stat(pid)
            total += sum(map(int, fields[13:15])) * _TICK  # children that were waited for
            if pid != self._pid:
                total += sum(map(int, fields[11:13])) * _TICK
        return total

    def peak(self) -> int:
        """Bytes: the most seen in a sample, or the high-water mark of the fold's first process."""
        self.over()
        return max(self._peak, _resident(self._pid, "VmHWM:") - self._start)

    def over(self) -> bool:
        now = sum(max(0, _resident(pid, "RssAnon:", "RssShmem:") - self._base) for pid in self._tree())
        self._peak = max(self._peak, now)
        return self._peak > self._limit

    def _tree(self) -> list[int]:
        """The fold's processes: those in its pid namespace."""
        try:
            mine = os.readlink(f"/proc/{self._pid}/ns/pid")
        except OSError:
            return []
        return [pid for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))) if _namespace(pid) == mine]


def _namespace(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return ""


def _stat(pid: int) -> list[str]:
    """From the third field of /proc/PID/stat on: what comes after the name."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ["0"] * 50


def _resident(pid: int, *names: str) -> int:
    """Bytes: the sum of these lines of /proc/PID/status; 0 once it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(names))
