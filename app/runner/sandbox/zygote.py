"""The fork servers of a runner. They run confined, without secrets, and never run a submission's code themselves.

`python -m runner.sandbox.zygote FD` is the parent: it imports what folds need, then serves the supervisor on the socket
FD. Its forks are zygotes: each enters the namespaces of a slot, or those of a data set within it, loads the features
there, and forks for each fold. Beside them the parent forks children like itself that import more packages. So a fold
finds in its memory what it may see and nothing else. The zygote of a custom data set has imported the organiser's
specific.py, and is trusted no further than that: the supervisor checks its answers too.

Single-threaded, always: a fork of a process with threads may hang.
"""

import contextlib
import gc
import importlib
import os
import signal
import socket
import sys
import traceback
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NoReturn

from runner import datasets
from runner.elements import SPECIFIC
from runner.sandbox import confine, kernel, program, wire, work
from runner.sandbox.meter import CgroupMeter
from runner.sandbox.sampling import SampledMeter
from runner.sandbox.warm import warm
from runner.sandbox.watch import Deadlines, Gone, watch

_FDS = 16


class Server:
    """Answers the supervisor: what it may ask for are the methods on_X, asked for by {"do": "X", ...}."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel

    def serve(self) -> NoReturn:
        """Until the supervisor is gone. An answer is a JSON object, with a descriptor perhaps."""
        while True:
            self.rest()
            try:
                message, fds = wire.receive(self._channel, _FDS)
            except EOFError:
                os._exit(0)
            try:
                answer, bulk = getattr(self, f"on_{message.pop('do')}")(fds, **message), None
                if isinstance(answer, tuple):
                    answer, bulk = answer
            except Gone:
                os._exit(0)
            except BaseException as error:
                text = work.explain(error, confine.SUBMISSION, confine.DATA)
                answer, bulk = {"error": work.fitting(text)}, None
            for fd in fds:
                os.close(fd)
            wire.send(self._channel, answer, [bulk] if bulk is not None else [])
            if bulk is not None:
                os.close(bulk)

    def rest(self) -> None:
        """What is done while nothing is asked for."""


class Parent(Server):
    """Forks, and holds nothing of any data set."""

    def __init__(self, channel: socket.socket) -> None:
        super().__init__(channel)
        # It waits for no child. Those whose own parent has ended become its own, and must be reaped by somebody.
        kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)

    def on_zygote(self, fds: list[int]) -> dict[str, Any]:
        """fds: 0 the zygote's channel, 1 the pidfd of a process in the namespaces that it enters."""
        if os.fork() == 0:
            channel = socket.socket(fileno=fds[0])
            try:
                kernel.setns(fds[1], kernel.EVERY_NAMESPACE)
                if os.fork():  # a child alone is in the new pid namespace
                    os._exit(0)
                _close_all_but(channel.fileno())
                _open_null()
                os.setsid()
                os.chdir("/")
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                kernel.drop_capabilities(kernel.CAP_SYS_ADMIN)  # for the namespaces of each fold; a fold has none
            except BaseException as error:
                wire.send(channel, {"error": f"no zygote: {error!r}"})
                os._exit(1)
            wire.send(channel, {})
            Zygote(channel).serve()
        return {}

    def on_packages(self, fds: list[int], packages: list[str]) -> tuple[dict[str, Any], int]:
        """fds: 0 the child's channel. Answers with the child's pidfd; the child when it has imported."""
        pid = os.fork()
        if pid == 0:
            kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
            channel = socket.socket(fileno=fds[0])
            _close_all_but(0, 1, 2, channel.fileno())
            for name in packages:
                try:
                    importlib.import_module(name)
                except BaseException:
                    continue  # what fails here fails again in the fold, and is reported there
            gc.collect()
            gc.freeze()
            wire.send(channel, {"threads": len(os.listdir("/proc/self/task"))})
            Parent(channel).serve()
        return {}, os.pidfd_open(pid)


class Zygote(Server):
    def __init__(self, channel: socket.socket) -> None:
        super().__init__(channel)
        self._own_pids = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self._seccomp = b""
        self._loaded: Any = None
        self._specific: ModuleType | None = None
        self._ahead: _Fork | None = None

    def on_start(self, fds: list[int]) -> dict[str, Any]:
        """fds: 0 the compiled seccomp filter, others: cgroups to join."""
        self._seccomp = wire.read(fds[0])
        for fd in fds[1:]:
            os.write(fd, b"0")
        return {}

    def on_specific(self, fds: list[int], memory: int, processes: int) -> dict[str, Any]:
        """Import the organiser's code of a custom data set. It may use twice what a fold may: its forks are folds."""
        confine.limit_zygote(memory, processes)
        program.begin(SPECIFIC)
        self._specific = datasets.load_specific(confine.DATA)
        gc.freeze()
        return {"threads": len(os.listdir("/proc/self/task"))}

    def on_load(self, fds: list[int]) -> dict[str, Any]:
        """fds: 0 what a reader of this same data set dumped: by trusted code, or by this data set's own."""
        self._loaded = wire.load_objects(fds[0])
        gc.freeze()
        return {}

    def on_run(
        self,
        fds: list[int],
        bounds: dict[str, Any],
        deadlines: dict[str, float],
        meters: list[str],
        name: str,
        options: dict[str, Any],
    ) -> dict[str, Any]:
        """One fork. fds: the meter's files, 0 one for the output, 1 the packed submission, others for the task.

        Reports, then answers.
        """
        files = dict(zip(meters, fds, strict=False))
        kept, *given = fds[len(meters) :]
        order = {"bounds": bounds, "name": name, "options": options}, given
        fork, self._ahead = self._ahead or self._fork(), None
        meter: CgroupMeter | SampledMeter
        meter = CgroupMeter(files, bounds["memory"]) if files else SampledMeter(bounds["memory"], order[1])
        try:
            if not fork.begin(meter, *order):  # it was killed while it waited
                fork.end()
                fork = self._fork()
                if not fork.begin(meter, *order):
                    raise OSError("no fork takes work")
            ended = watch(fork.pid, fork.words, fork.output, self._channel, Deadlines(**deadlines), meter, kept)
        finally:
            fork.close()
            if isinstance(meter, SampledMeter):
                meter.close()
        return {"ended": ended}

    def rest(self) -> None:
        """Fork for the next fold of a data set that has folds: it need not wait for that."""
        if self._loaded is not None and self._ahead is None:
            self._ahead = self._fork()

    def _fork(self) -> "_Fork":
        ours, theirs = wire.pair()
        output, output_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(output_end, True)
        kernel.unshare(kernel.CLONE_NEWPID)
        try:
            pid = os.fork()
            if pid == 0:
                self._fold(theirs, output_end)
        finally:
            kernel.setns(self._own_pids, kernel.CLONE_NEWPID)
        theirs.close()
        os.close(output_end)
        return _Fork(pid, ours, output)

    def _fold(self, words: socket.socket, output: int) -> NoReturn:
        """The fork: wait for its work, keep no descriptor that it was not given, confine itself, work."""
        try:
            kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
            os.dup2(output, 1)
            os.dup2(output, 2)
            _close_all_but(0, 1, 2, words.fileno())
            order, fds = wire.receive(words, _FDS)
            bounds, name = confine.Bounds(**order["bounds"]), order["name"]
            files = wire.read(fds[0])
            os.close(fds[0])
            scratch = confine.mount(bounds, files, name)
            if bounds.sampled:
                wire.send(words, {}, scratch)
            for fd in scratch:
                os.close(fd)
            confine.enter(bounds, self._seccomp)
            sys.path.insert(0, str(confine.SUBMISSION))
            loaded = self._loaded if not bounds.data else None
            place = confine.SUBMISSION / name
            task = work.Task(words, fds[1:], order["options"], loaded, self._specific, confine.DATA, place)
            task.say("ready")
            work.run(task)
        except BaseException:
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(1)


@dataclass
class _Fork:
    """A fork that waits for its work, or does it. words: the channel to it; output: a pipe of what it prints."""

    pid: int
    words: socket.socket
    output: int

    def begin(self, meter: CgroupMeter | SampledMeter, order: dict[str, Any], fds: list[int]) -> bool:
        """Measured from now on. False where it has ended."""
        try:
            meter.follow(self.pid)
            wire.send(self.words, order, fds)
            if isinstance(meter, SampledMeter):
                with contextlib.suppress(EOFError):  # it has ended: it will be seen why
                    meter.keep(wire.receive(self.words, len(confine.SCRATCH))[1])
        except OSError:
            return False
        return True

    def end(self) -> None:
        self.close()
        os.waitpid(self.pid, 0)

    def close(self) -> None:
        self.words.close()
        os.close(self.output)


def _close_all_but(*fds: int) -> None:
    edges = sorted(fds)
    for below, above in zip(edges, [*edges[1:], 1 << 30], strict=True):
        if above > below + 1:
            os.closerange(below + 1, above)


def _open_null() -> None:
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    if null > 2:
        os.close(null)


def main() -> None:
    channel = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What `python -m` put there is "/": a submission's data.py would not be found beside the folder /data.
    sys.path[:] = [folder for folder in sys.path if folder != os.getcwd()]
    warm()
    gc.collect()
    gc.freeze()
    kernel.collapse_memory()
    _open_null()  # the supervisor has listened to the start alone
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # a killed fold's last lines, too
    wire.send(channel, {"modules": sorted({name.partition(".")[0] for name in sys.modules})})
    Parent(channel).serve()


if __name__ == "__main__":
    main()
