"""The system call filter of a fold, compiled once by the supervisor. Trusted, outside.

A list of what numerical Python needs, by name. Nearly all else gives ENOSYS, so that a call invented tomorrow is
refused and glibc falls back where it can. What is left out on purpose: namespaces and mounts, ptrace and reading of
other processes' memory, bpf, perf, io_uring, userfaultfd, keys, modules, clocks, memory that no file system size bounds
(memfd_create, System V), and sockets of any family but AF_UNIX.

The files of the host are the same inodes in all folds. Whatever state a fold can give to an inode or its pages would
carry labels to another fold. So these are refused too: locks, leases, inotify, and calls that show or change which
pages of a file are in memory (mincore, fadvise, reads that do not wait).
"""

import contextlib
import tempfile
from typing import Any

_ALLOWED = """
access alarm arch_prctl brk capget chdir chmod clock_getres clock_gettime clock_nanosleep close close_range
copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd
eventfd2 execve execveat exit exit_group faccessat faccessat2 fallocate fchdir fchmod fchmodat fdatasync fork fstat
fstatfs fsync ftruncate futex futex_waitv get_robust_list getcpu getcwd getdents getdents64 getegid geteuid getgid
getgroups getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid getresuid getrlimit
getrusage getsid getsockname getsockopt gettid gettimeofday getuid kill link linkat listen lseek lstat membarrier
mkdir mkdirat mlock mlock2 mprotect mremap msync munlock munmap nanosleep newfstatat open openat openat2 pause
pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll pread64 preadv prlimit64
pselect6 pwrite64 pwritev read readlink readlinkat readv recvfrom recvmmsg recvmsg rename renameat renameat2
restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend
rt_sigtimedwait rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr
sched_getparam sched_getscheduler sched_yield select sendmmsg sendmsg sendto set_robust_list set_tid_address setitimer
setpgid setpriority setrlimit shutdown sigaltstack stat statfs statx symlink symlinkat sync_file_range sysinfo
tgkill time timer_create timer_delete timer_getoverrun timer_gettime timer_settime timerfd_create timerfd_gettime
timerfd_settime times tkill truncate umask uname unlink unlinkat utime utimensat utimes vfork wait4 waitid write
writev accept accept4 bind connect
""".split()

_EPERM, _EINVAL, _ENOPROTOOPT, _ESOCKTNOSUPPORT, _ENOTSUP, _EAFNOSUPPORT = 1, 22, 92, 94, 95, 97
_IGNORED = 0
"""Instead of an error: the call succeeds and does nothing."""

_REFUSED = {
    # As a file system without extended attributes answers: shutil.copy2 and others then copy none.
    _ENOTSUP: """
getxattr lgetxattr fgetxattr getxattrat setxattr lsetxattr fsetxattr setxattrat listxattr llistxattr flistxattr
listxattrat removexattr lremovexattr fremovexattr removexattrat
""".split(),
    # As it is for who is not root: `cp -a` then leaves the owner as it is.
    _EPERM: "chown fchown lchown fchownat".split(),
    # Advice, which a kernel may ignore. The CPUs of a fold are its slot's share where nothing else shares them out.
    _IGNORED: "fadvise64 readahead sched_setaffinity".split(),
}
"""Error -> calls that programs make in passing, and that they expect to fail with this error."""

_UNSEEN = "sendfile splice tee".split()
"""They leave pages of a removed file in pipes and sockets. Python copies without them where they are refused."""

# Commands of fcntl, by number, as other systems than Linux lack their names: F_DUPFD, F_GETFD, F_SETFD, F_GETFL,
# F_SETFL, F_DUPFD_QUERY, F_DUPFD_CLOEXEC, F_GETPIPE_SZ, F_GET_SEALS.
_COMMANDS = (0, 1, 2, 3, 4, 1027, 1030, 1032, 1034)
# Not: locks. ENOSYS is what HDF5 takes for a file system without locks, which it can do without, as flock's error too.
_FORBIDDEN = (1031, 1033)  # F_SETPIPE_SZ, F_ADD_SEALS
_UNSUPPORTED = (8, 9, 10, 11, 15, 16, 1024, 1025, 1026, 1035, 1036, 1037, 1038)  # signals, leases, dnotify, hints
# TCGETS, TIOCGPGRP, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX, TCGETS2
_IOCTLS = (0x5401, 0x540F, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451, 0x802C542A)
# Not: what takes pages of files out of memory (COLD, PAGEOUT), or merges those of processes (MERGEABLE).
_ADVICE = (0, 1, 2, 3, 4, 8, 10, 11, 14, 15, 16, 17, 18, 19, 22, 23)
# To read: DUMPABLE, SECCOMP, CAPBSET, SVE, AUXV. To set: PDEATHSIG, NAME, TIMERSLACK, SUBREAPER, NO_NEW_PRIVS, THP,
# CAP_AMBIENT, VMA (a name). Not: to be no longer dumpable, which hides a process from who measures it; core scheduling.
_PRCTL = (1, 2, 3, 15, 16, 21, 23, 29, 30, 36, 37, 38, 39, 41, 42, 47, 51, 0x41555856, 0x53564D41)

_INT = 0xFFFFFFFF
"""The part of an argument that the kernel reads where it wants an int."""
_NEW_NAMESPACES = 0x7E020080  # every CLONE_NEW* flag
_AF_UNIX, _STREAM, _DGRAM, _RAW, _SEQPACKET, _KIND = 1, 1, 2, 3, 5, 15
_SOL_SOCKET, _SO_ATTACH_FILTER = 1, 26
_SHARED, _ANONYMOUS = 1, 32


def compile_filter(sampled: bool) -> bytes:
    """The filter as BPF for this architecture. Raises ImportError, OSError or RuntimeError where seccomp is missing.

    sampled: no cgroup counts the memory. Then memory that no process has mapped has to be in the fold's file systems,
    stream sockets or pipes, where runner.sandbox.sampling sees it. Nor does a cgroup share out CPU then: the kernel may
    do so by sessions (autogroup), so a fold keeps its one.
    """
    import pyseccomp

    allow, error, arg = pyseccomp.ALLOW, pyseccomp.ERRNO, pyseccomp.Arg
    rules: Any = pyseccomp.SyscallFilter(defaction=error(38))  # ENOSYS

    def rule(action: Any, name: str, *conditions: Any) -> None:
        # A call that this architecture or this libseccomp does not know stays refused.
        with contextlib.suppress(OSError, RuntimeError, ValueError):
            rules.add_rule(action, name, *conditions)

    def values(action: Any, name: str, place: int, *numbers: int, mask: int = _INT) -> None:
        for number in numbers:
            rule(action, name, arg(place, pyseccomp.MASKED_EQ, mask, number))

    for name in _ALLOWED:
        rule(allow, name)
    for name in _UNSEEN if not sampled else ():
        rule(allow, name)
    for number, names in _REFUSED.items():
        for name in names:
            rule(error(number), name)
    rule(error(_IGNORED) if sampled else allow, "setsid")
    values(allow, "clone", 0, 0, mask=_NEW_NAMESPACES)  # clone3 hides its flags in memory: ENOSYS, and glibc uses clone
    values(allow, "fcntl", 1, *_COMMANDS)
    values(error(_EPERM), "fcntl", 1, *_FORBIDDEN)
    values(error(_EINVAL), "fcntl", 1, *_UNSUPPORTED)
    values(allow, "ioctl", 1, *_IOCTLS)
    values(allow, "madvise", 2, *_ADVICE)
    values(allow, "prctl", 0, *_PRCTL)
    values(error(_EPERM), "prctl", 0, 4)  # PR_SET_DUMPABLE
    for name in ("preadv2", "pwritev2"):
        values(allow, name, 5, 0)
        rule(error(_ENOTSUP), name, arg(5, pyseccomp.NE, 0))
    anonymous = _SHARED | _ANONYMOUS
    both = () if sampled else (anonymous,)
    values(allow, "mmap", 3, 0, _SHARED, _ANONYMOUS, *both, mask=anonymous)
    for name in ("socket", "socketpair"):
        rule(error(_EAFNOSUPPORT), name, arg(0, pyseccomp.NE, _AF_UNIX))
        family = arg(0, pyseccomp.EQ, _AF_UNIX)
        for kind in (_STREAM, _SEQPACKET, _DGRAM, _RAW):
            seen = kind in (_STREAM, _SEQPACKET) or not sampled
            rule(allow if seen else error(_ESOCKTNOSUPPORT), name, family, arg(1, pyseccomp.MASKED_EQ, _KIND, kind))
    # multiprocessing.Manager sets options of sockets. From SO_ATTACH_FILTER on, some load programs into the kernel.
    sockets, refused = arg(1, pyseccomp.EQ, _SOL_SOCKET), error(_ENOPROTOOPT)
    rule(allow, "setsockopt", sockets, arg(2, pyseccomp.LT, _SO_ATTACH_FILTER))
    rule(refused, "setsockopt", sockets, arg(2, pyseccomp.GE, _SO_ATTACH_FILTER))
    rule(refused, "setsockopt", arg(1, pyseccomp.NE, _SOL_SOCKET))
    with tempfile.TemporaryFile() as file:
        rules.export_bpf(file)
        file.seek(0)
        return file.read()
