"""How much CPU and memory a fold has used, by its cgroup. Runs inside, in the zygote: out of the fold's reach.

The zygote reads and writes files that the supervisor has opened and passed on, as it sees no cgroup file system itself.
Without cgroups there is runner.sandbox.sampling.
"""

import os


class CgroupMeter:
    """files: of cgroup v1 cpu, usage, peak, oom, limit (of a slot); of v2 cpu, peak, oom, join (of a fold)."""

    def __init__(self, files: dict[str, int], memory: int) -> None:
        self._files = files
        # The kernel kills all processes of a v2 group, but one of a v1 group: there, ask `over` as in sampling.
        self.interval = 0.1 if "limit" in files else None
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
