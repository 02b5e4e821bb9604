"""What a fork does once it is confined. Inside; hostile as soon as it has imported foreign code.

Says in short messages how far it got, ["train"] for example or ["failed", stage, kind, text], and leaves the bulk
in memfds. The supervisor believes none of it without a check.
"""

import contextlib
import errno
import json
import mmap
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import numpy as np

from runner import datasets, workflow
from runner.elements import SPECIFIC
from runner.hints import hint
from runner.jobs import SOFT_LIMIT_TEXT, too_many_predictions
from runner.sandbox import kernel, program, wire
from runner.sandbox.confine import SCRATCH
from runner.tracebacks import own_frames

_FULL_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class SoftLimit(BaseException):
    """Raised in the fold's own code at the soft limit; no Exception, so that `except Exception` lets it through."""


@dataclass
class Task:
    """What to do. words: to the zygote. fds, data: as each function here says. root: the submission's folder.

    stage: where it is, for the one who reads of a failure. network: whether there is one.
    """

    words: socket.socket
    fds: list[int]
    options: dict[str, Any]
    loaded: Any
    specific: ModuleType | None
    data: Path
    root: Path
    stage: str = "split"
    network: bool = False

    def say(self, *words: Any) -> None:
        with contextlib.suppress(Exception):  # the submission may have put anything in its place
            sys.stdout.flush()
        self.words.send(json.dumps(words).encode())
        self.words.recv(8)  # the zygote has measured; after the last word it ends us instead

    def fail(self, error: BaseException) -> None:
        text = fitting(explain(error, self.root, self.data, self.network))
        try:
            kind = _kind(error)
        except Exception:  # the error is the submission's own object
            kind = "user_code"
        self.say("failed", self.stage, kind, text)


def run(task: Task) -> None:
    """Never returns: waits for its end after the last word. The zygote measures, then kills."""
    first = os.getpid()
    signal.signal(signal.SIGXCPU, _raise_soft_limit)
    is_fold = task.options["task"] == "fold"
    program.begin(task.root.name if is_fold else SPECIFIC)
    if is_fold:
        program.find_files(task.root.name, str(task.root))
    np.random.seed()  # else the same numbers in every fork; Python's own random module sees to itself
    try:
        {"fold": fold, "read": read, "split": split, "probe": probe}[task.options["task"]](task)
    except BaseException as error:  # SystemExit, SoftLimit and whatever the submission makes up
        signal.signal(signal.SIGXCPU, signal.SIG_IGN)  # raised again, it would take the words from the first one
        if os.getpid() == first:
            task.fail(error)
    if os.getpid() != first:  # a fork of the submission came back from its call
        os._exit(1)
    while True:
        signal.pause()


def _raise_soft_limit(number: int, frame: FrameType | None) -> None:
    raise SoftLimit(SOFT_LIMIT_TEXT)


# A fold


def fold(task: Task) -> None:
    """fds: 0 the training rows and labels (pack_array), 1 the memfd for the predictions, of a fixed size."""
    arrays = wire.unpack_arrays(wire.read(task.fds[0]))
    capacity = os.fstat(task.fds[1]).st_size
    task.stage = "train"

    def predict(name: str, rows: int, call: Callable[[], Any], offset: int) -> int:
        task.stage = name
        predictions = workflow.as_predictions(call(), rows)
        end = offset + predictions.nbytes
        if end > capacity:
            raise workflow.PredictionError(too_many_predictions(end // 8, capacity))
        if predictions.nbytes:
            with mmap.mmap(task.fds[1], end) as place:  # no more than needed: it counts as address space
                place[offset:end] = predictions.reshape(-1).view(np.uint8).data
        task.say(name, predictions.shape)
        return end

    train, validate, test, n_train, n_test = (_custom if task.specific else _standard)(task, arrays)
    model = train()
    task.say("train")
    offset = predict("validation", n_train, lambda: validate(model), 0)
    predict("test", n_test, lambda: test(model), offset)


Steps = tuple[Callable[[], Any], Callable[[Any], Any], Callable[[Any], Any], int, int]


def _standard(task: Task, arrays: list[np.ndarray]) -> Steps:
    X_train, X_test = task.loaded
    rows, labels = arrays
    elements, module = task.options["elements"], task.root.name
    return (
        lambda: workflow.train(elements, module, X_train.iloc[rows], labels),
        lambda model: workflow.predict(model, X_train),
        lambda model: workflow.predict(model, X_test),
        len(X_train),
        len(X_test),
    )


def _custom(task: Task, arrays: list[np.ndarray]) -> Steps:
    X_train, y_train, X_test = task.loaded
    (rows,) = arrays
    n_train, n_test = task.options["rows"]
    specific: Any = task.specific
    return (
        lambda: specific.train_submission(task.root.name, X_train, y_train, rows),
        lambda model: specific.test_submission(model, X_train, np.arange(n_train)),
        # No test data at all: get_test_data returned None twice.
        lambda model: (
            np.empty(0) if X_test is None and not n_test else specific.test_submission(model, X_test, np.arange(n_test))
        ),
        n_train,
        n_test,
    )


# A data set


def read(task: Task) -> None:
    """Standard: fds 0 to 2 the files of a split, 3 a memfd for the features, 4 one for training labels and classes.

    Custom: fds 0 a memfd for all that folds need. The test labels are dropped here and go nowhere.
    """
    if task.specific:
        rows = _keep(datasets.read_custom(task.specific, task.data), task.fds[0])
    else:
        files = (os.fdopen(fd, "rb") for fd in task.fds[:3])
        data = datasets.read_standard(task.options["target_column"], *files)
        rows = len(data.X_train), len(data.X_test)
        wire.dump_objects(task.fds[3], (data.X_train, data.X_test))
        classes = np.unique(np.concatenate([data.y_train, data.y_test]))
        wire.write(task.fds[4], *wire.pack_array(data.y_train), *wire.pack_array(classes))
    task.say("done", rows)


def split(task: Task) -> None:
    """In the folder `data`, which holds the raw files and is writable."""
    options = task.options
    if task.specific:
        task.specific.prepare_data(str(task.data))
        with open(os.devnull, "wb") as nowhere:  # what folds can't get is said now
            rows = _keep(datasets.read_custom(task.specific, task.data), nowhere.fileno())
    else:
        raw = task.data / f"{options['name']}.csv"
        column, held_out, seed = options["target_column"], options["held_out_test"], options["random_state"]
        rows = datasets.split_standard(raw, task.data, column, held_out, seed, options["elements"])
    task.say("done", rows)


def _keep(custom: datasets.Custom, fd: int) -> tuple[int, int]:
    """Write what folds need of a custom data set; returns its numbers of rows."""
    try:
        wire.dump_objects(fd, custom[:3])
    except Exception as error:
        raise datasets.DataError(f"get_train_data or get_test_data returned what can't be kept: {error}") from None
    return custom.rows


# The self-test


def probe(task: Task) -> None:
    """What this process still can: the supervisor expects nothing of it."""
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line)
    with open("/proc/net/dev") as devices:
        interfaces = [line.split(":")[0].strip() for line in devices if ":" in line]
    task.say(
        "done",
        {
            "rights": [
                os.getuid() == 0,
                int(status["CapEff"], 16),
                int(status["CapBnd"], 16),
                status["NoNewPrivs"] != "1",
            ],
            "seccomp": [
                status["Seccomp"].strip() != "2",
                _may(lambda: kernel.unshare(kernel.CLONE_NEWUSER)),
                _may(socket.socket),
            ],
            "namespaces": [os.getpid() != 1, interfaces != ["lo"], *map(_larger(task.options["scratch"]), SCRATCH)],
            "rlimits": [resource.getrlimit(limit)[1] == -1 for limit in (resource.RLIMIT_AS, resource.RLIMIT_NPROC)],
        },
    )


def _larger(size: int) -> Callable[[str], bool]:
    return lambda place: os.statvfs(place).f_blocks * os.statvfs(place).f_frsize > size


def _may(call: Callable[[], Any]) -> bool:
    try:
        call()
    except OSError:
        return False
    return True


# What went wrong


def _kind(error: BaseException) -> str:
    """A jobs.Reason; the supervisor takes only those that a fold may claim."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        if isinstance(cause, SoftLimit):
            return "time_limit"
        if isinstance(cause, MemoryError):
            return "memory_limit"
        if isinstance(cause, OSError) and cause.errno in _FULL_DISK:
            return "scratch_space"
        cause = cause.__cause__ or cause.__context__
    return "user_code"


def fitting(text: str) -> str:
    """The text, cut where it is longer than a message may be."""
    while len(json.dumps(text)) > wire.MESSAGE - 256:
        text = text[: len(text) // 2] + " [cut]"
    return text


def explain(error: BaseException, root: Path, data: Path, network: bool = False) -> str:
    """What the author of a submission, or of a data set's code, is shown. network: whether the code had one."""
    if isinstance(error, datasets.DataError | workflow.SubmissionError):
        return str(error)
    frames, help_line = own_frames(error, root, data), hint(error, root, network)
    return f"{frames}\n{help_line}" if help_line else frames
