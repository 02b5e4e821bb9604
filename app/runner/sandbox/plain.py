"""Run folds without isolation: DATARUN_SANDBOX=off, for a laptop and code that you trust.

A cold interpreter a fold: slow, but it needs nothing but Python (macOS too). The limits are kept as far as a process
can be limited from outside; measures and results are the fold's own word. Two halves: PlainExecutor in the
supervisor, and `python -m runner.sandbox.plain`, the fold, which may do all that this user may.
"""

import contextlib
import json
import logging
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

import runner
from runner import datasets, labels
from runner.elements import SPECIFIC
from runner.jobs import (
    STANDARD_FILES,
    DataSet,
    Failure,
    FoldJob,
    Limits,
    Outcome,
    Reason,
    SplitJob,
    most_predictions,
    rows_problem,
)
from runner.sandbox import launch, output, program, wire
from runner.sandbox.report import Hearing, OnStage, parse, why
from runner.sandbox.watch import LATE

log = logging.getLogger(__name__)

NOTE = "DATARUN_SANDBOX=off: this ran without isolation"
_START_SECONDS = 120.0


class PlainExecutor:
    """The same three methods as Executor."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.strength = "off"
        launch.environment()  # a mistake in it is said now, not by the first fold
        log.warning("DATARUN_SANDBOX=off: submissions run WITHOUT isolation, with all that this user may do")

    def close(self) -> None:
        pass

    def run_fold(self, job: FoldJob, on_stage: OnStage = lambda stage, measures: None) -> Outcome:
        outcome = Outcome(notes=[NOTE])
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            try:
                code = folder / "code" / job.submission.name
                wire.unpack_files(b"".join(wire.pack_files(job.submission, job.submission_digest)), code)
                program.prepare(code)
            except (OSError, ValueError) as error:
                outcome.failure = Failure(Reason.INFRASTRUCTURE, "train", f"the submission can't be read: {error}")
                return outcome
            data, rows = job.data, np.asarray(job.train_is, dtype=np.int64).tolist()
            options: dict[str, Any] = {"task": "fold", "elements": data.workflow_elements}
            options |= {"target_column": data.target_column, "custom": data.custom, "train_is": rows}
            options |= {"highest_test_row": job.highest_test_row}
            options |= {"data": str(data.folder.absolute())}
            options |= {"submission": str(code)}
            run = _Run(options, folder, self.limits)
            hearing: Hearing | None = None
            for word, measured in run.words():
                if word[:1] == ["ready"]:
                    try:
                        classes = _classes(data, folder / "labels")
                    except labels.LabelsError as error:
                        outcome.failure = Failure(Reason.DATA, "split", str(error))
                        return outcome  # which ends the fold
                    most = os.stat(folder / "predictions").st_size
                    hearing = Hearing(outcome, (word[1], word[2]), most, on_stage, classes)
                    hearing.heard(b'["ready"]', measured)
                elif hearing is not None:
                    hearing.heard(json.dumps(word).encode(), measured)
            outcome.output = run.output()
            if hearing is None:
                found = why(run.ended, run.last, self.limits) or (Reason.DATA, "the data set could not be read")
                outcome.failure = Failure(Reason.DATA if found[0] is Reason.USER_CODE else found[0], "split", found[1])
                return outcome
            hearing.finish(run.ended, self.limits)
            with open(folder / "predictions", "rb") as file:
                hearing.take(file.fileno())
        return outcome

    def run_split(self, job: SplitJob) -> Outcome:
        from runner.sandbox.executor import copy_files

        outcome = Outcome(notes=[NOTE])
        job.target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=job.target.parent, prefix=f".{job.target.name}-") as name:
            folder = Path(name)
            copy_files(job.source, folder / "data")
            options = asdict(job) | {
                "task": "split",
                "source": "",
                "target": "",
                "data": str((folder / "data").absolute()),
                "elements": job.workflow_elements,
            }
            run = _Run(options, folder, self.limits)
            for _ in run.words():
                pass
            outcome.output = run.output()
            if (found := why(run.ended, run.last, self.limits)) is not None:
                reason = Reason.DATA if found[0] in (Reason.USER_CODE, Reason.KILLED_ITSELF) else found[0]
                outcome.failure = Failure(reason, "split", found[1])
            else:
                outcome.rows = (run.last[1][0], run.last[1][1])
                (folder / "data").rename(job.target)
        return outcome


class _Run:
    """One cold interpreter, its words and its end."""

    def __init__(self, options: dict[str, Any], folder: Path, limits: Limits) -> None:
        self._limits, self._folder = limits, folder
        (folder / "options").write_text(json.dumps(options | {"limits": asdict(limits)}))
        with open(folder / "predictions", "wb") as file:
            file.truncate(limits.memory)
        self.last: list[Any] = []
        self.ended: dict[str, Any] = {}

    def words(self) -> Any:
        """Yields (word, measures); afterwards `ended` says how it ended."""
        hear, tell = os.pipe()
        home = str(Path(runner.__file__).parent.parent)
        folders = {"PYTHONPATH": home, "HOME": str(self._folder), "TMPDIR": str(self._folder)}
        with open(self._folder / "output", "wb") as printed:
            process = subprocess.Popen(
                [sys.executable, "-m", "runner.sandbox.plain", str(tell), str(self._folder)],
                pass_fds=[tell],
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=printed,
                env=launch.environment() | folders | {"PATH": os.environ.get("PATH", os.defpath)},
                cwd=self._folder,
                start_new_session=True,
            )
        os.close(tell)
        # The clock starts with the first word: Python's own start and reading the data are not the submission's.
        began, pending, soft, spared, killed = time.monotonic() + _START_SECONDS, b"", False, False, ""
        hard = self._limits.hard_time
        try:
            while not killed:
                now = time.monotonic() - began
                until = self._limits.soft_time if not soft else hard
                if select.select([hear], [], [], max(0.0, until - now))[0]:
                    chunk = os.read(hear, 1 << 16)
                    if not chunk:
                        break
                    *lines, pending = (pending + chunk).split(b"\n")
                    for line in lines:
                        began = min(began, time.monotonic())
                        self.last = parse(line)
                        yield self.last, _measures(process.pid)
                    if self.last[:1] in (["test"], ["failed"], ["done"]):
                        killed = "done"
                elif soft and not spared and (late := time.monotonic() - began - until) > LATE:
                    spared, hard = True, hard + late  # as watch does
                elif soft:
                    killed = "hard"
                else:
                    soft, hard = True, max(hard, now + hard - self._limits.soft_time)
                    process.send_signal(signal.SIGXCPU)
        finally:
            measured = _measures(process.pid)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            os.close(hear)
            self.ended = {"killed": killed, "soft": soft, "status": process.wait()} | measured

    def output(self) -> str:
        with open(self._folder / "output", "rb") as file:
            head, size = file.read(output.HEAD), os.fstat(file.fileno()).st_size
            file.seek(max(output.HEAD, size - output.TAIL))
            tail = file.read(output.TAIL)
        if size <= output.KEPT:
            return (head + tail).decode("utf-8", "replace")
        return output.join(head, tail, size - output.KEPT)


def _classes(data: DataSet, given: Path) -> labels.Classes | None:
    """Of a classifier's fold. given: the file of its rows and labels. Raises LabelsError, as Executor does."""
    if data.custom or "classifier" not in data.workflow_elements:
        return None
    _, fold_labels = wire.unpack_arrays(given.read_bytes())
    if "calibrator" in data.workflow_elements:
        labels.check_calibration(fold_labels)
    whole = datasets.read_standard(data.target_column, *(data.folder / name for name in STANDARD_FILES))
    both = np.concatenate([whole.y_train, whole.y_test])
    return labels.Classes(labels.classes_of(both), labels.classes_of(whole.y_train), fold_labels)


def _measures(pid: int) -> dict[str, float]:
    """From outside, where the system tells (Linux); zeros elsewhere."""
    cpu, memory = 0.0, 0
    with contextlib.suppress(OSError):
        cpu = time.clock_gettime(~pid << 3 | 2)
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        memory = sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    return {"wall": time.monotonic(), "cpu": cpu, "memory": memory}


# The fold's half


class _Lines:
    """What work.Task takes for a socket."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def send(self, data: bytes) -> None:
        os.write(self._fd, data + b"\n")

    def recv(self, length: int) -> bytes:
        """Nobody answers."""
        return b""


def main() -> None:
    from runner.sandbox import kernel, work

    if sys.platform == "linux":  # a supervisor that is killed leaves no fold behind
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    words: Any = _Lines(int(sys.argv[1]))
    folder = Path(sys.argv[2])
    options = json.loads((folder / "options").read_text())
    limits = options["limits"]
    for limit, value in ((resource.RLIMIT_FSIZE, max(limits["scratch"], limits["memory"])), (resource.RLIMIT_CORE, 0)):
        resource.setrlimit(limit, (value, value))
    data, root = Path(options["data"]), Path(options.get("submission", "/nowhere"))
    task = work.Task(words, [], options, None, None, data, root, network=True)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # in order with stderr, as in the sandbox
    program.begin(SPECIFIC)
    sys.path[:] = [path for path in sys.path if path != os.getcwd()]  # what `python -m` put there: this fold's folder
    try:
        if options["custom"]:
            task.specific = datasets.load_specific(data)
        if options["task"] == "fold":
            _load(task, np.array(options["train_is"], dtype=np.int64), folder)
        else:
            task.say("ready")
        if sys.platform == "linux":
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            space = pages * resource.getpagesize() + limits["memory"] + (64 << 20)
            resource.setrlimit(resource.RLIMIT_AS, (space, space))
    except BaseException as error:
        task.fail(error)
        return
    sys.path.insert(0, str(root.parent))
    work.run(task)


def _load(task: Any, rows: np.ndarray, folder: Path) -> None:
    arrays = [rows]
    if task.specific:
        custom = datasets.read_custom(task.specific, task.data)
        task.loaded, counts = custom[:3], custom.rows
    else:
        data = datasets.read_standard(task.options["target_column"], *(task.data / name for name in STANDARD_FILES))
        task.loaded, counts = (data.X_train, data.X_test), (len(data.X_train), len(data.X_test))
    if problem := rows_problem(rows, task.options["highest_test_row"], counts[0]):
        raise datasets.DataError(problem)
    classes = 0
    if not task.specific:
        arrays.append(data.y_train[rows])
        if "classifier" in task.options["elements"]:
            classes = len(labels.classes_of(np.concatenate([data.y_train, data.y_test])))
    os.truncate(folder / "predictions", most_predictions(counts, classes, task.options["limits"]["memory"]))
    task.options["rows"] = counts
    (folder / "labels").write_bytes(b"".join(bytes(part) for array in arrays for part in wire.pack_array(array)))
    for name in ("labels", "predictions"):
        task.fds.append(os.open(folder / name, os.O_RDWR))
    task.say("ready", *counts)


if __name__ == "__main__":
    main()
