"""The system call filter of a fold, compiled once by the supervisor. Trusted, outside.

A list of what numerical Python needs, by name. Nearly all else gives ENOSYS, so that a call invented tomorrow is
refused and glibc falls back where it can. What is left out on purpose: namespaces and mounts, ptrace and reading of
other processes' memory, bpf, perf, io_uring, userfaultfd, keys, modules, clocks, memory that no file system size bounds
(memfd_create, System V), and sockets of any family but AF_UNIX.
"""

import contextlib
import tempfile
from typing import Any

_ALLOWED = """
access alarm arch_prctl brk capget chdir chmod clock_getres clock_gettime clock_nanosleep close close_range
copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd
eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64 fallocate fchdir fchmod fchmodat fcntl fdatasync
flock fork fstat fstatfs fsync ftruncate futex futex_waitv get_robust_list getcpu getcwd getdents getdents64 getegid
geteuid getgid getgroups getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid
getresuid getrlimit getrusage getsid getsockname getsockopt gettid gettimeofday getuid inotify_add_watch inotify_init
inotify_init1 inotify_rm_watch ioctl kill link linkat listen lseek lstat madvise membarrier mincore mkdir mkdirat
mlock mlock2 mmap mprotect mremap msync munlock munmap nanosleep newfstatat open openat openat2 pause pidfd_open
pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll prctl pread64 preadv preadv2 prlimit64
pselect6 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv recvfrom recvmmsg recvmsg rename renameat
renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn
rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min sched_getaffinity
sched_getattr sched_getparam sched_getscheduler sched_setaffinity sched_yield select sendfile sendmmsg sendmsg sendto
set_robust_list set_tid_address setitimer setpgid setpriority setrlimit setsid shutdown sigaltstack splice stat statfs
statx symlink symlinkat sync_file_range sysinfo tee tgkill time timer_create timer_delete timer_getoverrun
timer_gettime timer_settime timerfd_create timerfd_gettime timerfd_settime times tkill truncate umask uname unlink
unlinkat utime utimensat utimes vfork wait4 waitid write writev accept accept4 bind connect
""".split()

_EPERM, _ENOPROTOOPT, _ENOTSUP, _EAFNOSUPPORT = 1, 92, 95, 97

_REFUSED = {
    # As a file system without extended attributes answers: shutil.copy2 and others then copy none.
    _ENOTSUP: """
getxattr lgetxattr fgetxattr getxattrat setxattr lsetxattr fsetxattr setxattrat listxattr llistxattr flistxattr
listxattrat removexattr lremovexattr fremovexattr removexattrat
""".split(),
    # As it is for who is not root: `cp -a` then leaves the owner as it is.
    _EPERM: "chown fchown lchown fchownat".split(),
}
"""Error -> calls that programs make in passing, and that they expect to fail with this error."""

_NEW_NAMESPACES = 0x7E020080  # every CLONE_NEW* flag
_AF_UNIX = 1
_SOL_SOCKET, _SO_ATTACH_FILTER = 1, 26


def compile_filter() -> bytes:
    """The filter as BPF for this architecture. Raises ImportError, OSError or RuntimeError where seccomp is missing."""
    import pyseccomp

    rules: Any = pyseccomp.SyscallFilter(defaction=pyseccomp.ERRNO(38))  # ENOSYS
    for name in _ALLOWED:
        try:
            rules.add_rule(pyseccomp.ALLOW, name)
        except (OSError, RuntimeError, ValueError):
            continue  # a call that this architecture or this libseccomp does not know stays refused
    for error, names in _REFUSED.items():
        for name in names:
            with contextlib.suppress(OSError, RuntimeError, ValueError):  # as above
                rules.add_rule(pyseccomp.ERRNO(error), name)
    plain = pyseccomp.Arg(0, pyseccomp.MASKED_EQ, _NEW_NAMESPACES, 0)
    rules.add_rule(pyseccomp.ALLOW, "clone", plain)  # clone3 hides its flags in memory: ENOSYS, and glibc uses clone
    for name in ("socket", "socketpair"):
        rules.add_rule(pyseccomp.ALLOW, name, pyseccomp.Arg(0, pyseccomp.EQ, _AF_UNIX))
        rules.add_rule(pyseccomp.ERRNO(_EAFNOSUPPORT), name, pyseccomp.Arg(0, pyseccomp.NE, _AF_UNIX))
    # multiprocessing.Manager sets options of sockets. From SO_ATTACH_FILTER on, some load programs into the kernel.
    sockets, refused = pyseccomp.Arg(1, pyseccomp.EQ, _SOL_SOCKET), pyseccomp.ERRNO(_ENOPROTOOPT)
    rules.add_rule(pyseccomp.ALLOW, "setsockopt", sockets, pyseccomp.Arg(2, pyseccomp.LT, _SO_ATTACH_FILTER))
    rules.add_rule(refused, "setsockopt", sockets, pyseccomp.Arg(2, pyseccomp.GE, _SO_ATTACH_FILTER))
    rules.add_rule(refused, "setsockopt", pyseccomp.Arg(1, pyseccomp.NE, _SOL_SOCKET))
    with tempfile.TemporaryFile() as file:
        rules.export_bpf(file)
        file.seek(0)
        return file.read()
