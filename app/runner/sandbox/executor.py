"""Run folds and splits, each confined, from the threads of one worker process. Supervisor: trusted, outside.

Holds the labels and makes what a fold says true: order of the stages, shapes, sizes, whether it ended as it claims.
"""

import contextlib
import logging
import os
import re
import shutil
import stat
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from runner import labels
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
    rows_problem,
)
from runner.packages import installed_modules
from runner.sandbox import cgroups, launch, selftest, wire
from runner.sandbox.data import DataSets, Held
from runner.sandbox.line import Line, RefusedError, ZygoteError
from runner.sandbox.parent import NONE, Packages, PackagesError, Parent
from runner.sandbox.report import (
    Hearing,
    OnStage,
    check_ready,
    parse,
    stage_after,
    whole_numbers,
    why,
)
from runner.sandbox.slots import Slot

log = logging.getLogger(__name__)

_IMPORT = re.compile(rb"^\s*(?:import|from)\s+([A-Za-z_]\w*)", re.MULTILINE)


class Executor:
    """One a worker process; run_fold and run_split may be called from up to `slots` threads at once.

    cache: bytes of data sets that are kept. user: whom root becomes. Raises selftest.Refusal where a line of defence
    is missing.
    """

    def __init__(self, limits: Limits, slots: int, cache: int = 1 << 30, user: str = "nobody") -> None:
        compiled = selftest.before_start()
        self._groups = cgroups.best()
        self.strength = self._groups.strength
        self._notes = [self._groups.note] if self._groups.note else []
        self._user = launch.unprivileged(user)
        self._data = DataSets(cache)
        self._installed = installed_modules()
        self._threaded: set[str] = set()
        self._parent = Parent(self._user, limits.hard_time)
        self._slots = [Slot(self._parent, limits, self._groups, compiled) for _ in range(slots)]
        self._idle = list(self._slots)
        self._condition = threading.Condition()
        try:
            selftest.start(self._slots[0])  # what it lacks, all lack
            with ThreadPoolExecutor(slots) as pool:
                list(pool.map(selftest.start, self._slots[1:]))
        except BaseException:
            self.close()
            raise
        log.info(
            "sandbox: %d slots, memory by %s%s", slots, self.strength, f" ({self._groups.note})" if self._notes else ""
        )

    def close(self) -> None:
        for slot in self._slots:
            slot.close()
        self._parent.close()
        self._data = DataSets(0)

    def run_fold(self, job: FoldJob, on_stage: OnStage = lambda stage, measures: None) -> Outcome:
        outcome = Outcome(notes=list(self._notes))
        try:
            files = wire.filled("submission", *wire.pack_files(job.submission, job.submission_digest))
        except (OSError, ValueError) as error:
            outcome.failure = Failure(Reason.INFRASTRUCTURE, "train", f"the submission can't be read: {error}")
            return outcome
        packages = self._packages(wire.read(files))
        with self._closing(files), self._slot(job.data.folder, packages) as slot:
            try:
                slot.start()
                self._fold(slot, job, files, packages, outcome, on_stage)
            except _DataProblem as problem:
                outcome.failure = Failure(problem.reason, "split", str(problem))
            except Exception as error:
                log.exception("sandbox: a slot has failed")
                stage = stage_after(outcome.state)
                outcome.failure = Failure(
                    Reason.INFRASTRUCTURE, stage, f"the runner failed, not the submission: {error}"
                )
                slot.close()  # its next fold starts it anew
        return outcome

    def run_split(self, job: SplitJob) -> Outcome:
        """Makes job.target, with copies of the raw files; complete, or not at all."""
        outcome = Outcome(notes=list(self._notes))
        with self._slot(job.target, NONE) as slot:
            try:
                slot.start()
                self._split(slot, job, outcome)
            except Exception as error:
                log.exception("sandbox: a split failed")
                outcome.failure = Failure(Reason.INFRASTRUCTURE, "split", f"the runner failed: {error}")
        return outcome

    # A fold

    def _fold(
        self, slot: Slot, job: FoldJob, files: int, packages: Packages, outcome: Outcome, on_stage: OnStage
    ) -> None:
        data = job.data
        try:
            if data.custom and not slot.has(data.folder, packages):
                (data.folder / SPECIFIC).stat()
            slot.zygote(data, packages)
        except PackagesError:
            self._threaded |= packages  # left to the folds
            packages = NONE
        except (RefusedError, FileNotFoundError) as error:
            raise _DataProblem(str(error)) from None
        held = self._data.get(data.folder, lambda: self._read(slot, data, packages))
        rows = np.ascontiguousarray(job.train_is, dtype=np.int64)
        if problem := rows_problem(rows, job.highest_test_row, held.rows[0]):
            raise _DataProblem(problem)
        slot.keep(self._data.folders())
        line = slot.loaded(data, held, packages)
        classes = _classes(data, held, rows)
        parts = wire.pack_array(rows)
        if held.labels is not None:
            parts += wire.pack_array(held.labels[rows])
        name = _package_name(job.submission.name)
        options = {"task": "fold", "elements": data.workflow_elements, "rows": held.rows}
        hearing = Hearing(outcome, held.rows, slot.limits.memory, on_stage, classes)
        with self._closing(wire.filled("labels", *parts)) as given:
            with self._closing(wire.memfd("predictions", slot.limits.memory)) as predictions:
                ended, outcome.output = slot.run(line, name, files, [given, predictions], options, hearing.heard)
                hearing.finish(ended, slot.limits)
                wire.seal(predictions)
                hearing.take(predictions)

    def _packages(self, packed: bytes) -> Packages:
        """Installed packages that the files seem to import. By pattern: a parser would meet hostile text here."""
        words = {word.decode() for word in _IMPORT.findall(packed)}
        return frozenset(words & self._installed) - self._parent.modules - self._threaded

    # A data set

    def _read(self, slot: Slot, data: DataSet, packages: Packages) -> Held:
        features, labels = wire.memfd("features"), wire.memfd("labels")
        opened: list[int] = []
        try:
            if data.custom:
                line, fds = slot.zygote(data, packages), [features]
            else:
                opened = [_open(data.folder / name) for name in STANDARD_FILES]
                line, fds = slot.zygote(), [*opened, features, labels]
            options = {"task": "read", "target_column": data.target_column}
            rows = self._data_task(slot, line, fds, options, data=data.custom)
            wire.seal(features)
            wire.seal(labels)
            y, classes = (None, None) if data.custom else wire.unpack_arrays(wire.read(labels))
            if y is not None and y.shape != rows[:1]:
                raise ZygoteError("as many labels as rows were to be read")
            return Held(features, y, rows, os.fstat(features).st_size, classes)
        except BaseException as error:
            os.close(features)
            if isinstance(error, RefusedError | FileNotFoundError):
                raise _DataProblem(str(error)) from None
            raise
        finally:
            for fd in (*opened, labels):
                os.close(fd)

    def _data_task(
        self,
        slot: Slot,
        line: Line,
        fds: list[int],
        options: dict[str, Any],
        data: bool,
        outcome: Outcome | None = None,
    ) -> tuple[int, int]:
        """A fork that reads or splits. Returns the rows; raises _DataProblem."""
        words: list[bytes] = []
        with self._closing(wire.filled("nothing")) as files:
            ended, output = slot.run(line, "none", files, fds, options, lambda text, _: words.append(text), data=data)
        if outcome is not None:
            outcome.output = output
        check_ready(parse(words[0]) if words else ["broken", f"{ended} {output!r}"])
        word = parse(words[-1])
        reason = why(ended, word, slot.limits)
        if reason is not None:
            blame = Reason.DATA if reason[0] in (Reason.USER_CODE, Reason.KILLED_ITSELF) else reason[0]
            raise _DataProblem(reason[1], blame)
        if len(word) != 2 or word[0] != "done" or not whole_numbers(word[1], 2):
            raise _DataProblem("the data set's code gave no row counts")
        return word[1][0], word[1][1]

    def _split(self, slot: Slot, job: SplitJob, outcome: Outcome) -> None:
        job.target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=job.target.parent, prefix=f".{job.target.name}-") as name:
            folder = Path(name) / "data"
            copy_files(job.source, folder)
            _give(folder, self._user)
            options: dict[str, Any] = {"task": "split", "name": job.name, "target_column": job.target_column}
            options |= {"held_out_test": job.held_out_test, "random_state": job.random_state}
            options |= {"elements": job.workflow_elements}
            try:
                with slot.once(folder) as line:
                    if job.custom:
                        line.specific(slot.limits)
                    outcome.rows = self._data_task(slot, line, [], options, data=True, outcome=outcome)
            except RefusedError as error:
                outcome.failure = Failure(Reason.DATA, "split", str(error))
            except _DataProblem as problem:
                outcome.failure = Failure(problem.reason, "split", str(problem))
            if outcome.failure is None:
                _take_back(folder)
                if not job.target.exists():  # the message may come twice
                    folder.rename(job.target)

    # Slots

    @contextlib.contextmanager
    def _slot(self, folder: Path, packages: Packages) -> Iterator[Slot]:
        """A free slot, one that is warm for this if there is a choice."""
        with self._condition:
            self._condition.wait_for(lambda: self._idle)
            slot = next((slot for slot in self._idle if slot.has(folder, packages)), self._idle[0])
            self._idle.remove(slot)
        try:
            yield slot
        finally:
            with self._condition:
                self._idle.append(slot)
                self._condition.notify()

    @staticmethod
    @contextlib.contextmanager
    def _closing(fd: int) -> Iterator[int]:
        try:
            yield fd
        finally:
            os.close(fd)


def _classes(data: DataSet, held: Held, rows: np.ndarray) -> labels.Classes | None:
    """Of a classifier's fold. Raises _DataProblem where its rows do not do for a calibrator."""
    if held.labels is None or held.classes is None or "classifier" not in data.workflow_elements:
        return None
    fold_labels = held.labels[rows]
    if "calibrator" in data.workflow_elements:
        try:
            labels.check_calibration(fold_labels)
        except labels.LabelsError as error:
            raise _DataProblem(str(error)) from None
    return labels.Classes(labels.classes_of(held.classes), labels.classes_of(held.labels), fold_labels)


class _DataProblem(Exception):
    def __init__(self, message: str, reason: Reason = Reason.DATA) -> None:
        super().__init__(message)
        self.reason = reason


def _package_name(folder: str) -> str:
    """The folder's name, made importable if it is not."""
    return re.sub(r"\W", "_", folder) or "submission"


def _open(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)


def copy_files(source: Path, folder: Path) -> None:
    folder.mkdir()
    for path in sorted(source.iterdir()):
        if path.is_file() and not path.is_symlink():
            shutil.copyfile(path, folder / path.name)


def _give(folder: Path, user: launch.User | None) -> None:
    """To the unprivileged user, who works in it."""
    if user is not None:
        for path in (folder, *folder.iterdir()):
            os.chown(path, user.uid, user.gid)


def _take_back(folder: Path) -> None:
    """Owned and readable as the runner's other files; plain files and folders alone, for later readers' sake."""
    for path in (folder, *folder.rglob("*")):
        mode = path.lstat().st_mode
        if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
            if os.geteuid() == 0:
                os.chown(path, 0, 0, follow_symlinks=False)
            path.chmod(0o755 if stat.S_ISDIR(mode) else 0o644)
        else:
            path.unlink()
