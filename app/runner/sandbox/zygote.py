"""The fork server of a slot. Runs inside bubblewrap, without secrets, and never runs a submission's code itself.

`python -m runner.sandbox.zygote FD`: imports what folds need, then serves the supervisor on the socket FD.
A zygote branches: a data set's features and the packages that a submission imports are loaded into a branch, so that
a fold finds in its memory what it may see and nothing else. The zygote of a custom data set has imported the
organiser's specific.py, and is trusted no further than that: the supervisor checks its answers too.

Single-threaded, always: a fork of a process with threads may hang.
"""

import gc
import importlib
import os
import random
import select
import signal
import socket
import sys
import traceback
from types import ModuleType
from typing import Any, NoReturn

from runner import datasets
from runner.sandbox import confine, kernel, wire, work
from runner.sandbox.meter import CgroupMeter, SampledMeter
from runner.sandbox.watch import Deadlines, Gone, watch

_FDS = 16


class Zygote:
    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._own_pids = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self._seccomp = b""
        self._loaded: Any = None
        self._specific: ModuleType | None = None
        self._branches: set[int] = set()

    def serve(self) -> None:
        """Answer until the supervisor is gone."""
        waiting = select.poll()
        waiting.register(self._channel, select.POLLIN)
        while True:
            while not waiting.poll(1000 if self._branches else None):
                self._reap()
            try:
                message, fds = wire.receive(self._channel, _FDS)
            except EOFError:
                return
            try:
                answer, output = getattr(self, f"on_{message.pop('do')}")(fds, **message), None
                if isinstance(answer, tuple):
                    answer, output = answer
            except Gone:
                return
            except BaseException as error:
                text = work.explain(error, confine.SUBMISSION, confine.DATA)
                answer, output = {"error": text[:8000], "where": traceback.format_exc()[-8000:]}, None
            for fd in fds:
                os.close(fd)
            wire.send(self._channel, answer, [output] if output is not None else [])
            if output is not None:
                os.close(output)

    # What the supervisor may ask for: on_X answers {"do": "X", ...}

    def on_start(self, fds: list[int]) -> dict[str, Any]:
        """fds: 0 the compiled seccomp filter, others: cgroups to join."""
        self._seccomp = wire.read(fds[0])
        for fd in fds[1:]:
            os.write(fd, b"0")
        return {"modules": sorted({name.partition(".")[0] for name in sys.modules})}

    def on_branch(self, fds: list[int]) -> dict[str, Any]:
        """fds: 0 the branch's own channel."""
        pid = os.fork()
        if pid == 0:
            self._branches.clear()
            self._channel.close()
            self._channel = socket.socket(fileno=os.dup(fds[0]))
            for fd in fds:
                os.close(fd)
            self.serve()
            os._exit(0)
        self._branches.add(pid)
        return {}

    def on_preload(self, fds: list[int], packages: list[str]) -> dict[str, Any]:
        """Import what a submission imports; what fails here fails again in the fold, and is reported there."""
        for name in packages:
            try:
                importlib.import_module(name)
            except BaseException:
                continue
        gc.freeze()
        return {"threads": len(os.listdir("/proc/self/task"))}

    def on_specific(self, fds: list[int], memory: int, processes: int) -> dict[str, Any]:
        """Import the organiser's code of a custom data set. It may use twice what a fold may: its forks are folds."""
        confine.limit_zygote(memory, processes)
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
    ) -> tuple[dict[str, Any], int]:
        """One fork. fds: the meter's files, 0 the packed submission, others for the task. Reports, then answers."""
        files = dict(zip(meters, fds, strict=False))
        fds = fds[len(meters) :]
        confinement = confine.Bounds(**bounds)
        meter = CgroupMeter(files, confinement.memory) if files else SampledMeter(confinement.memory)
        ours, theirs = wire.pair()
        output, output_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(output_end, True)
        kernel.unshare(kernel.CLONE_NEWPID)
        try:
            pid = os.fork()
            if pid == 0:
                self._fold(confinement, meter, theirs, output_end, fds, name, options)
        finally:
            kernel.setns(self._own_pids, kernel.CLONE_NEWPID)
        theirs.close()
        os.close(output_end)
        try:
            ended, text = watch(pid, ours, output, self._channel, Deadlines(**deadlines), meter)
        finally:
            ours.close()
            os.close(output)
        return {"ended": ended}, text

    def _reap(self) -> None:
        """Branches that have ended."""
        for pid in list(self._branches):
            if os.waitpid(pid, os.WNOHANG)[0]:
                self._branches.discard(pid)

    def _fold(
        self,
        bounds: confine.Bounds,
        meter: CgroupMeter | SampledMeter,
        words: socket.socket,
        output: int,
        fds: list[int],
        name: str,
        options: dict[str, Any],
    ) -> NoReturn:
        """The fork: confine itself, keep no descriptor that it was not given, work."""
        try:
            os.dup2(output, 1)
            os.dup2(output, 2)
            meter.join()
            files = wire.read(fds[0])
            confine.enter(bounds, files, name, self._seccomp)
            sys.path.insert(0, str(confine.SUBMISSION))
            _close_all_but(0, 1, 2, words.fileno(), *fds[1:])
            loaded = self._loaded if not bounds.data else None
            task = work.Task(words, fds[1:], options, loaded, self._specific, confine.DATA, confine.SUBMISSION / name)
            task.say("ready")
            work.run(task)
        except BaseException:
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(1)


def _close_all_but(*fds: int) -> None:
    edges = sorted(fds)
    for below, above in zip(edges, [*edges[1:], 1 << 30], strict=True):
        if above > below + 1:
            os.closerange(below + 1, above)


def _warm() -> None:
    """Import and run once what most folds use, so that no fold pays for it."""
    import numpy as np
    import pandas as pd
    import sklearn.ensemble
    import sklearn.linear_model
    import sklearn.model_selection
    import sklearn.pipeline
    import sklearn.preprocessing
    import sklearn.tree  # the same

    X, y = pd.DataFrame({"a": np.arange(40.0), "b": np.arange(40.0) % 7}), np.arange(40) % 2
    split = next(sklearn.model_selection.StratifiedShuffleSplit(n_splits=1, random_state=0).split(X.to_numpy(), y))
    for model in (sklearn.ensemble.RandomForestClassifier(n_estimators=2), sklearn.linear_model.LogisticRegression()):
        model.fit(X.to_numpy()[split[0]], y[split[0]]).predict_proba(X.to_numpy())
    sklearn.linear_model.LinearRegression().fit(X.to_numpy(), y)
    random.seed()


def main() -> None:
    channel = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _warm()
    gc.collect()
    gc.freeze()
    kernel.collapse_memory()
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):  # the supervisor has listened to the start alone
        os.dup2(null, fd)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # a killed fold's last lines, too
    wire.send(channel, {"ready": True})
    Zygote(channel).serve()


if __name__ == "__main__":
    main()
