"""Start what is confined: the bubblewrap command lines, and dropping root before them. Supervisor: trusted, outside.

The parent of all zygotes is one bubblewrap with Python in it. Each slot has another one, with namespaces and mounts
and no Python: its zygotes are forks of the parent that enter them.
"""

import contextlib
import functools
import itertools
import json
import os
import pwd
import re
import select
import signal
import site
import socket
import subprocess
import sys
import sysconfig
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import runner
from runner import config, env
from runner.sandbox import confine, wire

_CODE = "/code"
"""Where the runner package is in the sandbox; nothing else of the application is there."""
_START_SECONDS = 120.0
_END_SECONDS = 10.0

_ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "HOME": "/tmp",
    "TMPDIR": "/tmp",
    "USER": "fold",
    "LANG": "C.UTF-8",
    "PYTHONPATH": _CODE,
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONNOUSERSITE": "1",
    # One thread: OpenMP in the zygote would make its forks hang, and the slots share the cores.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}


def environment() -> dict[str, str]:
    """A fold's environment. Raises ConfigurationError where DATARUN_FOLD_VARIABLES has what the sandbox sets itself."""
    given = config.fold_variables()
    for name in given.keys() & _ENVIRONMENT.keys():
        raise env.ConfigurationError(
            f"DATARUN_FOLD_VARIABLES names {name}, which is {_ENVIRONMENT[name]!r} in every fold: leave it out"
        )
    return given | _ENVIRONMENT


class LaunchError(Exception):
    """It did not come up; the message is what it had to say."""


class Interrupted(OSError):
    """It was killed before it was up, or had no time to get there: the next start may do."""


@dataclass(frozen=True)
class User:
    """Whom root becomes; None of it matters for an ordinary user."""

    uid: int
    gid: int


def unprivileged(name: str = "nobody") -> User | None:
    if os.geteuid() != 0:
        return None
    entry = pwd.getpwnam(name)
    return User(entry.pw_uid, entry.pw_gid)


@dataclass
class Process:
    """A running bubblewrap, and the channel to what runs in it.

    told: a pipe of what its start says. inside: the process in it, as this host numbers it, and its pidfd, once
    bubblewrap has named it; in a pid namespace that is the first one, which ends after all others are gone.
    """

    popen: subprocess.Popen[bytes]
    channel: socket.socket
    told: int
    pid: int = 0
    inside: int | None = None

    def stop(self) -> None:
        """Kill all that is in it, and wait for that."""
        self.channel.close()
        # The group, not the first process alone: as root the inner bubblewrap does not die with the outer one.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait()
        if self.inside is not None:
            select.select([self.inside], [], [], _END_SECONDS)
            os.close(self.inside)
        os.close(self.told)


# A parent-death signal comes when the thread that started the child ends: one that lasts as long as this process.
_starter = ThreadPoolExecutor(1, "sandbox-starter")


def parent(user: User | None) -> tuple[Process, Any]:
    """The parent of all zygotes, warmed up, and what it says when it is."""
    ours, theirs = wire.pair()
    with theirs:
        process = _starter.submit(_spawn, parent_command(theirs.fileno(), user), ours, [theirs.fileno()]).result()
    return process, json.loads(_first_words(process))


def namespaces(user: User | None, owner: int, data: Path | None = None, writable: bool = False) -> Process:
    """Namespaces and mounts that zygotes can enter.

    owner: the parent's user namespace, in which they are made, so that its forks have the right to enter them. data:
    a custom data set's folder, or that of a split, which is writable.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        command = namespaces_command(owner, user, data, writable)
        process = _starter.submit(_spawn, command, ours, [owner], theirs.fileno()).result()
    with contextlib.suppress(BrokenPipeError):  # it has ended; why is read below
        ours.send(b".")
    _first_words(process)
    return process


def _spawn(command: list[str], ours: socket.socket, fds: list[int], stdio: int | None = None) -> Process:
    told, tell = os.pipe2(os.O_CLOEXEC)
    names, name = os.pipe2(os.O_CLOEXEC)
    try:
        popen = subprocess.Popen(
            [word if word != _INFO_FD else str(name) for word in command],
            pass_fds=[*fds, name],
            stdin=subprocess.DEVNULL if stdio is None else stdio,
            stdout=tell if stdio is None else stdio,
            stderr=tell,
            env={"PATH": os.defpath},
            start_new_session=True,  # Ctrl-C is for the supervisor, which ends its folds itself
        )
    finally:
        os.close(tell)
        os.close(name)
    process = Process(popen, ours, told)
    with os.fdopen(names) as lines, contextlib.suppress(ProcessLookupError):
        # JSON, or nothing if the start fails. To its end: bubblewrap dies of a pipe that is closed too early.
        text = "".join(itertools.takewhile(lambda line: line.strip() != "}", lines))
        if words := re.search(r'"child-pid": (\d+)', text):
            process.pid = int(words[1])
            process.inside = os.pidfd_open(process.pid)
    return process


def _first_words(process: Process) -> bytes:
    """What it says once it is up. Stops it and raises LaunchError or Interrupted where it does not get there."""
    try:
        return _wait(process)
    except BaseException:
        process.stop()
        raise


def _wait(process: Process) -> bytes:
    channel, told = process.channel, process.told
    heard, until = bytearray(), time.monotonic() + _START_SECONDS
    while True:
        ready, _, _ = select.select([channel.fileno(), told], [], [], max(0.0, until - time.monotonic()))
        if channel.fileno() in ready:
            with contextlib.suppress(ConnectionResetError):
                if words := channel.recv(wire.MESSAGE):
                    return words
            while chunk := os.read(told, 4096):
                heard += chunk
            said = heard.decode(errors="replace").strip()[-2000:]
            code = process.popen.wait()
            if code in (-signal.SIGKILL, 128 + signal.SIGKILL):  # its own, or that of bubblewrap's child
                raise Interrupted("it was killed while it started")
            raise LaunchError(said or f"it ended without a word, exit code {code}")
        if told in ready:
            heard += os.read(told, 4096)
        elif not ready:
            raise Interrupted(f"no answer within {_START_SECONDS:.0f} s")


_INTERPRETER = os.path.normpath(sys.executable)
"""Without `..`: `make serve` starts ../.venv/bin/python in the folder app, which the sandbox does not have."""

_INFO_FD = "INFO-FD"
"""Stands in a command for where bubblewrap writes which process it has made."""


def parent_command(fd: int, user: User | None) -> list[str]:
    """fd: its channel. In the host's pid namespace, since zygotes enter those that begin there."""
    apart = [f"--unshare-{kind}" for kind in ("user", "ipc", "net", "uts", "cgroup")]
    mounts = _mounts(None, False)
    inner = ["bwrap", *apart, *_confined(mounts, user), _INTERPRETER, "-m", "runner.sandbox.zygote", str(fd)]
    return _dropping_root(mounts, user) + inner


def namespaces_command(owner: int, user: User | None, data: Path | None = None, writable: bool = False) -> list[str]:
    """What runs in them says back what it is told: all is mounted then. It ends with the supervisor."""
    enter = ["nsenter", f"--user=/proc/self/fd/{owner}", "--preserve-credentials", "--"]
    mounts = _mounts(data, writable)
    return _dropping_root(mounts, user) + [*enter, "bwrap", "--unshare-all", *_confined(mounts, user), "cat"]


def _confined(mounts: list[str], user: User | None) -> list[str]:
    return [
        *("--unshare-user", "--die-with-parent", "--new-session", "--clearenv", "--info-fd", _INFO_FD),
        *("--cap-drop", "ALL", "--cap-add", "CAP_SYS_ADMIN"),
        *(word for name, value in environment().items() for word in ("--setenv", name, value)),
        *("--tmpfs", "/tmp", "--proc", "/proc", "--tmpfs", "/dev"),
        *(word for name in confine.DEVICES for word in _device(name)),
        *("--dir", "/dev/shm", "--symlink", "/proc/self/fd", "/dev/fd"),
        *("--dir", str(confine.DATA), "--dir", str(confine.SUBMISSION)),
        *(mounts if user is None else _already_there(mounts)),
        *("--remount-ro", "/", "--chdir", "/"),
    ]


def _dropping_root(mounts: list[str], user: User | None) -> list[str]:
    """Root opens the way to folders that the unprivileged user can't reach, in a first set of mounts.

    There it drops all rights, and from there on everything is as for any ordinary user.
    """
    if user is None:
        return []
    return [
        *("bwrap", "--die-with-parent", "--unshare-ipc"),
        *("--dev-bind", "/dev", "/dev", "--dev-bind", "/proc", "/proc", "--perms", "1777", "--tmpfs", "/tmp"),
        *_open_parents(mounts),
        *mounts,
        *("setpriv", "--reuid", str(user.uid), "--regid", str(user.gid), "--clear-groups"),
        *("--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", "--"),
    ]


def kept() -> list[str]:
    """What a fold needs below /tmp, where it gets a file system of its own: a virtual environment, perhaps."""
    return [path for path in _python() if path.startswith("/tmp/")]


def _device(name: str) -> tuple[str, str, str]:
    return "--dev-bind", f"/dev/{name}", f"/dev/{name}"


def _mounts(data: Path | None, writable: bool) -> list[str]:
    words = ["--ro-bind", "/usr", "/usr"]
    for name in ("bin", "sbin", "lib", "lib32", "lib64"):
        path = Path("/", name)
        if path.is_symlink():
            words += ["--symlink", os.readlink(path), str(path)]
        elif path.is_dir():
            words += ["--ro-bind", str(path), str(path)]
    for needed in ("/etc/ld.so.cache", "/etc/alternatives", "/etc/localtime", "/etc/timezone", *_python()):
        words += ["--ro-bind-try", needed, needed]
    words += ["--ro-bind", str(Path(runner.__file__).parent), f"{_CODE}/runner"]
    if data is not None:
        words += ["--bind" if writable else "--ro-bind", str(data.absolute()), str(confine.DATA)]
    return words


@functools.cache
def _python() -> list[str]:
    """The folders of this interpreter and its packages that /usr does not hold."""
    folders = [sys.base_prefix, sys.prefix, *site.getsitepackages(), sysconfig.get_path("purelib")]
    found: list[str] = []
    for folder in folders:
        if not any(Path(folder).is_relative_to(other) for other in ("/usr", *found)):
            found.append(folder)
    return found


def _already_there(mounts: list[str]) -> list[str]:
    """The same mounts where the first set has put everything into its place."""
    triples = zip(mounts[::3], mounts[1::3], mounts[2::3], strict=True)
    return [word for kind, source, target in triples for word in (kind, target if "bind" in kind else source, target)]


def _open_parents(mounts: list[str]) -> list[str]:
    """bubblewrap makes parent folders that their owner alone may enter; here another user has to pass."""
    parents: list[str] = []
    for kind, target in zip(mounts[::3], mounts[2::3], strict=True):
        if "bind" in kind:
            above = [str(path) for path in reversed(Path(target).parents) if str(path) not in ("/", "/tmp")]
            parents += [path for path in above if path not in parents and not path.startswith("/usr")]
    return [word for path in parents for word in ("--perms", "0755", "--dir", path)]
