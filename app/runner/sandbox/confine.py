"""Give up everything a fold does not need. Runs inside, in the fold's own process, before any foreign code.

Assumes: single-threaded, process 1 of a new pid namespace, a fork of the zygote with its CAP_SYS_ADMIN over the
namespaces that bubblewrap made. First comes `mount`, then `enter`; after these nothing of that is left. The order
matters: mounts need the capability, the user namespace takes it away from everything outside, seccomp forbids what the
steps before it did.
"""

import os
import resource
import signal
from dataclasses import dataclass, field
from pathlib import Path

from runner.sandbox import kernel, program, wire

SUBMISSION = Path("/submission")
"""Holds the submission's folder; on the module path."""
DATA = Path("/data")
"""Where a custom data set's folder is, for its own code alone."""
SCRATCH = ("/tmp", "/dev/shm")
DEVICES = ("null", "zero", "full", "random", "urandom")
"""Below /dev."""

# Not the network: a fold has the empty one of its slot, in which it leaves nothing. Each new one takes the kernel a
# millisecond to make and to remove.
_FRESH = kernel.CLONE_NEWNS | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS | kernel.CLONE_NEWCGROUP
_INODES_PER_MB = 64
_MARGIN = 128 << 20
_DATA_FILES = 8
"""How much larger than scratch space a file may be that a data set's own code writes."""
ZYGOTES = 24
"""Processes of a slot besides the fold's: zygotes, the fork of each that waits for its fold, and bubblewrap's own."""


@dataclass(frozen=True)
class Bounds:
    """What confines one fork. scratch, memory in bytes; processes: how many at once, threads included.

    descriptors: open ones of each process. data: it may see the data set's folder (and change it: only where bubblewrap
    mounted it writable). keep: paths below /tmp that Python needs, a virtual environment perhaps. cpus: those that it
    runs on; empty: all. sampled: no cgroup counts its memory.
    """

    memory: int
    scratch: int
    processes: int
    descriptors: int
    data: bool = False
    keep: list[str] = field(default_factory=list)
    cpus: list[int] = field(default_factory=list)
    sampled: bool = False


def mount(bounds: Bounds, files: bytes, name: str) -> list[int]:
    """File systems of its own; files: the submission's, to be put into SUBMISSION / name.

    Returns descriptors of SCRATCH, for who measures what is in them.
    """
    kernel.unshare(_FRESH)
    kernel.mount("none", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    _mounts(bounds, files, name)
    return [os.open(place, os.O_RDONLY | os.O_CLOEXEC) for place in SCRATCH]


def enter(bounds: Bounds, seccomp: bytes) -> None:
    """Confine this process for good; its file systems are mounted."""
    Path("/proc/self/oom_score_adj").write_text("1000")  # when memory runs out, this one goes and not the zygote
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    if bounds.cpus:
        os.sched_setaffinity(0, bounds.cpus)
    _user_namespace()
    os.setsid()
    os.umask(0o022)
    os.chdir("/tmp")
    _rlimits(bounds)
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    kernel.drop_capabilities()
    kernel.landlock([*SCRATCH, str(DATA)] if bounds.data else list(SCRATCH))
    kernel.install_seccomp(seccomp)


def _mounts(bounds: Bounds, files: bytes, name: str) -> None:
    private = kernel.MS_NOSUID | kernel.MS_NODEV
    kept = [(path, os.open(path, os.O_PATH | os.O_CLOEXEC)) for path in bounds.keep]
    inodes = 1024 + bounds.scratch // (1 << 20) * _INODES_PER_MB
    for place in SCRATCH:
        kernel.mount("scratch", place, "tmpfs", private, f"size={bounds.scratch},nr_inodes={inodes},mode=1777")
    for path, fd in kept:
        os.makedirs(path)
        kernel.mount(f"/proc/self/fd/{fd}", path, None, kernel.MS_BIND | kernel.MS_REC)
        os.close(fd)
    kernel.mount("proc", "/proc", "proc", private | kernel.MS_NOEXEC)
    if bounds.sampled:  # as a shared mapping of this device is memory that no one sees; another one reads as zeros, too
        kernel.mount("/dev/full", "/dev/zero", None, kernel.MS_BIND)
    for device in DEVICES:  # all folds have the same inodes, and who may write to one may set its times
        place = f"/dev/{device}"
        own = os.statvfs(place).f_flag & kernel.MS_NOEXEC  # as a unit with PrivateDevices has it: that must stay
        flags = kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY | kernel.MS_NOSUID
        kernel.mount("none", place, None, flags | own)
    if not bounds.data:
        kernel.mount("nothing", str(DATA), "tmpfs", private | kernel.MS_RDONLY, "size=4k,nr_inodes=2,mode=555")
    if files:
        # Without a size: each file takes a page, and soon nobody can write more.
        kernel.mount("submission", str(SUBMISSION), "tmpfs", private, "mode=755")
        (SUBMISSION / name).mkdir()
        wire.unpack_files(files, SUBMISSION / name)
        program.prepare(SUBMISSION / name)
        kernel.mount("none", str(SUBMISSION), None, kernel.MS_REMOUNT | kernel.MS_RDONLY | private)


def _user_namespace() -> None:
    """Own nothing of the namespaces so far; and have this fold's processes counted alone by RLIMIT_NPROC."""
    user, group = os.getuid(), os.getgid()
    kernel.unshare(kernel.CLONE_NEWUSER)
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")


def limit_zygote(memory: int, processes: int) -> None:
    """Bounds of a zygote that runs an organiser's code, wide enough for the folds that are forked from it."""
    _set_rlimits(
        (resource.RLIMIT_AS, _address_space() + 2 * memory + _MARGIN),
        (resource.RLIMIT_NPROC, processes + ZYGOTES),
        (resource.RLIMIT_CORE, 0),
    )


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _set_rlimits(*limits: tuple[int, int]) -> None:
    for limit, value in limits:
        _, hard = resource.getrlimit(limit)
        bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (bound, bound))


def _rlimits(bounds: Bounds) -> None:
    _set_rlimits(
        # The address space is inherited from the zygote; a little above the allowance, for a clean MemoryError.
        (resource.RLIMIT_AS, _address_space() + bounds.memory + _MARGIN // 2),
        (resource.RLIMIT_NPROC, bounds.processes),
        (resource.RLIMIT_FSIZE, bounds.scratch if not bounds.data else _DATA_FILES * bounds.scratch),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, bounds.descriptors),
        (resource.RLIMIT_MEMLOCK, 1 << 16),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_SIGPENDING, 1024),
        (resource.RLIMIT_NICE, 0),
        (resource.RLIMIT_RTPRIO, 0),
    )
