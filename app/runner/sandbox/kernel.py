"""The Linux calls that Python 3.11 has no name for. Used on all sides; assumes nothing about its process.

Each raises OSError as the os module does.
"""

import ctypes
import os
import platform
import struct
from pathlib import Path

CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS = 0x00020000, 0x02000000, 0x04000000
CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x08000000, 0x10000000, 0x20000000, 0x40000000

EVERY_NAMESPACE = (
    CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET
)

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = (
    1,
    2,
    4,
    8,
    32,
    4096,
    16384,
    1 << 18,
)

PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 1, 22, 24, 38, 47
PR_SET_CHILD_SUBREAPER, CAP_SYS_ADMIN = 36, 21
PR_CAP_AMBIENT_CLEAR_ALL, SECCOMP_MODE_FILTER = 4, 2
_MADV_COLLAPSE, _HUGE_PAGE = 25, 2 << 20

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
# The same numbers on every architecture: calls younger than Linux 5.1 are numbered alike.
_LANDLOCK_CREATE_RULESET, _LANDLOCK_ADD_RULE, _LANDLOCK_RESTRICT_SELF = 444, 445, 446


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def unshare(flags: int) -> None:
    _checked(_libc.unshare(ctypes.c_int(flags)), "unshare")


def setns(fd: int, flags: int) -> None:
    _checked(_libc.setns(ctypes.c_int(fd), ctypes.c_int(flags)), "setns")


def mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    encoded = (os.fsencode(source), os.fsencode(target), kind.encode() if kind else None)
    _checked(_libc.mount(*encoded, ctypes.c_ulong(flags), options.encode()), f"mount {target}")


def prctl(option: int, argument: int | ctypes.c_void_p = 0, argument3: int | ctypes.c_void_p = 0) -> None:
    words = (ctypes.c_ulong(word) if isinstance(word, int) else word for word in (argument, argument3, 0, 0))
    _checked(_libc.prctl(ctypes.c_int(option), *words), f"prctl {option}")


def collapse_memory() -> None:
    """Move this process's own memory into huge pages, as far as it goes: less to copy for a fork, less to free."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        where, rights, _, _, inode, *_ = line.split(maxsplit=5)
        first, end = (int(edge, 16) for edge in where.split("-"))
        if rights == "rw-p" and inode == "0":
            for place in range(-(-first // _HUGE_PAGE) * _HUGE_PAGE, end - _HUGE_PAGE + 1, _HUGE_PAGE):
                # Before Linux 6.1, and where a page has gaps, this is refused: no harm.
                _libc.madvise(ctypes.c_void_p(place), ctypes.c_size_t(_HUGE_PAGE), ctypes.c_int(_MADV_COLLAPSE))


def drop_capabilities(*kept: int) -> None:
    """Leave these capabilities, below 32, in the bounding, permitted and effective sets, and none elsewhere."""
    with open("/proc/sys/kernel/cap_last_cap") as last:
        for capability in {*range(int(last.read()) + 1)} - {*kept}:
            prctl(PR_CAPBSET_DROP, capability)
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    header = struct.pack("Ii", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process
    low = sum(1 << capability for capability in kept)
    _checked(_libc.capset(header, struct.pack("6I", low, low, 0, 0, 0, 0)), "capset")


def install_seccomp(program: bytes) -> None:
    """program: compiled BPF, an array of struct sock_filter."""
    code = ctypes.create_string_buffer(program, len(program))
    fprog = ctypes.create_string_buffer(struct.pack("HP", len(program) // 8, ctypes.addressof(code)))
    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.cast(fprog, ctypes.c_void_p))


_KCMP = {"x86_64": 312, "aarch64": 272}.get(platform.machine(), -1)


def same_memory(pid: int, other: int) -> bool:
    """Whether two processes have one address space. False where that can't be told."""
    order = _libc.syscall(_KCMP, pid, other, ctypes.c_int(1), ctypes.c_ulong(0), ctypes.c_ulong(0))  # KCMP_VM
    return int(order) == 0


_READ = 1 | 4 | 8  # execute, read file, read directory
_WRITE = 2 | 0x1FF0  # write file; remove, make and rename anything (ABI 1)
_BY_ABI = ((2, 1 << 13), (3, 1 << 14), (5, 1 << 15))  # refer, truncate, ioctl on devices


def landlock_abi() -> int:
    """The version of Landlock that this kernel has; 0: none."""
    abi = _libc.syscall(_LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint(1))
    return max(0, int(abi))


def landlock(writable: list[str]) -> None:
    """Read anything, write below `writable` alone; no TCP, no abstract sockets or signals out of this domain.

    By hand and not by PyPI's landlock: that has development versions alone, and takes a stale errno for failure.
    """
    abi = landlock_abi()
    if not abi:
        return
    everything = _READ | _WRITE
    for since, bit in _BY_ABI:
        everything |= bit if abi >= since else 0
    network, scopes = (3 if abi >= 4 else 0), (3 if abi >= 6 else 0)
    attributes = struct.pack("QQQ", everything, network, scopes)[: 8 if abi < 4 else 16 if abi < 6 else 24]
    call = _libc.syscall
    ruleset = _checked(
        call(_LANDLOCK_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint(0)), "landlock"
    )
    devices = ["/dev/null", "/dev/zero", "/dev/full"]
    of_files = 1 | 2 | 4 | (everything & (1 << 14 | 1 << 15))
    rules = [("/", _READ), *((path, everything) for path in writable), *((path, of_files) for path in devices)]
    for path, rights in rules:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        rule = struct.pack("=Qi", rights, fd)  # struct landlock_path_beneath_attr is packed
        _checked(call(_LANDLOCK_ADD_RULE, ruleset, ctypes.c_int(1), rule, ctypes.c_uint(0)), f"landlock {path}")
        os.close(fd)
    _checked(call(_LANDLOCK_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint(0)), "landlock")
    os.close(ruleset)
