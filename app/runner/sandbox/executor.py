"""Run folds and splits, each confined, from the threads of one worker process. Supervisor: trusted, outside.

Holds the labels and makes what a fold says true: order of the stages, shapes, sizes, whether it ended as it claims.
"""

import contextlib
import logging
import os
import re
import secrets
import shutil
import threading
import traceback
from collections.abc import Callable, Iterator
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
    most_predictions,
    rows_problem,
)
from runner.packages import guessed, installed_modules
from runner.sandbox import cgroups, launch, selftest, tree, wire
from runner.sandbox.data import DataSets, Held
from runner.sandbox.line import GoneError, Line, SpecificError, ZygoteError
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

_SPLIT_SPACE = 8
"""How much more than scratch space the files of a split may take."""


class Executor:
    """One a worker process; run_fold and run_split may be called from up to `slots` threads at once.

    cache: bytes of data sets that are kept. user: whom root becomes. Raises selftest.Refusal where a line of defence
    is missing.
    """

    def __init__(self, limits: Limits, slots: int, cache: int = 1 << 30, user: str = "nobody") -> None:
        self._groups = cgroups.best()
        self.strength = self._groups.strength
        sampled = self.strength == cgroups.Sampling.strength
        compiled, descriptors = selftest.before_start(limits, slots, sampled)
        self._notes = [self._groups.note] if self._groups.note else []
        self._user = launch.unprivileged(user)
        self._data = DataSets(cache)
        self._installed = installed_modules()
        self._threaded: set[str] = set()
        self._parent = Parent(self._user, limits.hard_time)
        cpus = cgroups.shares(slots) if self._groups.cpu == cgroups.AFFINITY else [[]] * slots
        self._slots = [Slot(self._parent, limits, self._groups, compiled, descriptors, own) for own in cpus]
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
            "sandbox: %d slots, memory by %s%s, CPU by %s",
            *(slots, self.strength, f" ({self._groups.note})" if self._notes else "", self._groups.cpu),
        )

    def close(self) -> None:
        for slot in self._slots:
            slot.close()
        self._parent.close()
        self._data = DataSets(0)

    def run_fold(self, job: FoldJob, on_stage: OnStage = lambda stage, measures: None) -> Outcome:
        outcome = Outcome(notes=list(self._notes))
        try:
            parts = wire.pack_files(job.submission, job.submission_digest)
        except (OSError, ValueError) as error:
            outcome.failure = Failure(Reason.INFRASTRUCTURE, "train", f"the submission can't be read: {error}")
            return outcome
        packages = self._packages(parts)

        def stage() -> str:
            return stage_after(outcome.state)

        with self._closing(wire.filled("submission", *parts)) as files, self._slot(job.data.folder, packages) as slot:
            self._judged(slot, outcome, stage, lambda: self._fold(slot, job, files, packages, outcome, on_stage))
        return outcome

    def run_split(self, job: SplitJob) -> Outcome:
        """Makes job.target, with copies of the raw files; complete, or not at all."""
        outcome = Outcome(notes=list(self._notes))
        with self._slot(job.target, NONE) as slot:
            self._judged(slot, outcome, lambda: "split", lambda: self._split(slot, job, outcome))
        return outcome

    # Whose fault it is

    def _judged(self, slot: Slot, outcome: Outcome, stage: Callable[[], str], work: Callable[[], None]) -> None:
        """Do the work in a slot. Where it fails without a verdict, another process decides whose fault that is.

        If that process can't be confined either, in a slot started anew, it is the runner's. Otherwise it is that of
        the foreign code that was running. Where none was, an earlier fold may have harmed the slot: the work is done
        once more.
        """
        for last in (False, True):
            try:
                slot.start()
                work()
                return
            except _Problem as problem:
                outcome.failure = Failure(problem.reason, "split", str(problem))
                return
            except SpecificError as error:
                outcome.failure = Failure(Reason.DATA, "split", str(error))
                return
            except Exception as error:
                log.error("sandbox: a slot has failed\n%s", traceback.format_exc())  # as text: frames hold descriptors
                slot.close()
                works = self._works(slot)
                if works and not last and not (isinstance(error, _OwnError) and error.at_once):
                    continue
                reason, why = Reason.INFRASTRUCTURE, "the runner failed, not the code that it ran"
                if works and isinstance(error, _OwnError) and error.reason is not Reason.INFRASTRUCTURE:
                    reason, why = error.reason, "the process of this code ended, or broke off its talk with the runner"
                outcome.failure = Failure(reason, "split" if reason is Reason.DATA else stage(), f"{why}: {error}")
                return

    @staticmethod
    def _works(slot: Slot) -> bool:
        try:
            selftest.start(slot)
        except Exception:
            log.error("sandbox: a slot can't be started anew\n%s", traceback.format_exc())
            return False
        return True

    # A fold

    def _fold(
        self, slot: Slot, job: FoldJob, files: int, packages: Packages, outcome: Outcome, on_stage: OnStage
    ) -> None:
        data = job.data
        try:
            if data.custom and not slot.has(data.folder, packages):
                (data.folder / SPECIFIC).stat()
        except FileNotFoundError as error:
            raise _Problem(str(error)) from None
        try:
            slot.zygote(data, packages)
        except PackagesError:
            self._threaded |= packages  # left to the folds
            packages = NONE
        held = self._data.get(data.folder, lambda: self._read(slot, data, packages))
        rows = np.ascontiguousarray(job.train_is, dtype=np.int64)
        if problem := rows_problem(rows, job.highest_test_row, held.rows[0]):
            raise _Problem(problem)
        slot.keep(self._data.folders())
        with _own(Reason.DATA, lambda: data.custom, data.custom):
            line = slot.loaded(data, held, packages)
        classes = _classes(data, held, rows)
        parts = wire.pack_array(rows)
        if held.labels is not None:
            parts += wire.pack_array(held.labels[rows])
        name = _package_name(job.submission.name)
        options = {"task": "fold", "elements": data.workflow_elements, "rows": held.rows}
        most = most_predictions(held.rows, len(classes.all) if classes else 0, slot.limits.memory)
        hearing = Hearing(outcome, held.rows, most, on_stage, classes)
        with self._closing(wire.filled("labels", *parts)) as given:
            with self._closing(wire.memfd("predictions", most)) as predictions:
                reason = Reason.DATA if data.custom else Reason.KILLED_ITSELF
                with _own(reason, lambda: data.custom or hearing.ready, data.custom):
                    ended, outcome.output = slot.run(line, name, files, [given, predictions], options, hearing.heard)
                    hearing.finish(ended, slot.limits)
                hearing.take(predictions)

    def _packages(self, parts: list[bytes | memoryview]) -> Packages:
        """Installed packages that a submission seems to import. parts: of pack_files."""
        files = (bytes(body) for name, body in zip(parts[1::4], parts[3::4], strict=True) if bytes(name)[-3:] == b".py")
        return frozenset(guessed(files) & self._installed) - self._parent.modules - self._threaded

    # A data set

    def _read(self, slot: Slot, data: DataSet, packages: Packages) -> Held:
        features, labels = wire.memfd("features"), wire.memfd("labels")
        opened: list[int] = []
        try:
            if data.custom:
                line, fds = slot.zygote(data, packages), [features]
            else:
                try:
                    for file in STANDARD_FILES:
                        opened.append(_open(data.folder / file))
                except FileNotFoundError as error:
                    raise _Problem(str(error)) from None
                line, fds = slot.zygote(), [*opened, features, labels]
            options = {"task": "read", "target_column": data.target_column}
            rows = self._data_task(slot, line, fds, options, data.custom)
            with _own(
                Reason.DATA, lambda: data.custom, data.custom
            ):  # which may have it mapped, or have sealed it in its own way
                wire.seal(features)
            if (size := os.fstat(features).st_size) > slot.limits.memory:
                raise _Problem(f"the features have {size >> 20} MiB, more than the memory of a fold")
            y, classes = (None, None) if data.custom else wire.unpack_arrays(wire.read(labels))
            if y is not None and y.shape != rows[:1]:
                raise ZygoteError("as many labels as rows were to be read")
            return Held(features, y, rows, size, classes)
        except BaseException:
            os.close(features)
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
        custom: bool,
        outcome: Outcome | None = None,
    ) -> tuple[int, int]:
        """A fork that reads or splits. Returns the rows; raises _Problem."""
        words: list[list[Any]] = []
        data = custom or outcome is not None
        with self._closing(wire.filled("nothing")) as files, _own(Reason.DATA, lambda: custom or bool(words), custom):
            ended, output = slot.run(
                line, "none", files, fds, options, lambda text, _: words.append(parse(text)), data=data
            )
            check_ready(words[0] if words else ["broken", f"{ended} {output!r}"])
        if outcome is not None:
            outcome.output = output
        word = words[-1]
        reason = why(ended, word, slot.limits)
        if reason is not None:
            blame = Reason.DATA if reason[0] in (Reason.USER_CODE, Reason.KILLED_ITSELF) else reason[0]
            raise _Problem(reason[1], blame)
        if len(word) != 2 or word[0] != "done" or not whole_numbers(word[1], 2):
            raise _Problem("the data set's code gave no row counts")
        return word[1][0], word[1][1]

    def _split(self, slot: Slot, job: SplitJob, outcome: Outcome) -> None:
        job.target.parent.mkdir(parents=True, exist_ok=True)
        # Not tempfile's, which is its owner's alone: the master removes what a killed runner left.
        place = job.target.with_name(f".{job.target.name}-{secrets.token_hex(4)}")
        place.mkdir()
        try:
            folder = place / "data"
            copy_files(job.source, folder)
            _give(folder, self._user)
            options: dict[str, Any] = {"task": "split", "name": job.name, "target_column": job.target_column}
            options |= {"held_out_test": job.held_out_test, "random_state": job.random_state}
            options |= {"elements": job.workflow_elements}
            with slot.once(folder) as line:
                if job.custom:
                    line.specific(slot.limits)
                rows = self._data_task(slot, line, [], options, job.custom, outcome)
            try:
                tree.take_over(folder, _SPLIT_SPACE * slot.limits.scratch, self._user.gid if self._user else 0)
            except tree.TreeError as error:
                raise _Problem(str(error)) from None
            if not job.target.exists():  # the message may come twice
                folder.rename(job.target)
            outcome.rows = rows
        finally:
            try:
                tree.remove(place)
            except OSError:
                log.exception("sandbox: what a split has left behind can't be removed")

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
    """Of a classifier's fold. Raises _Problem where its rows do not do for a calibrator."""
    if held.labels is None or held.classes is None or "classifier" not in data.workflow_elements:
        return None
    fold_labels = held.labels[rows]
    if "calibrator" in data.workflow_elements:
        try:
            labels.check_calibration(fold_labels)
        except labels.LabelsError as error:
            raise _Problem(str(error)) from None
    return labels.Classes(labels.classes_of(held.classes), labels.classes_of(held.labels), fold_labels)


class _OwnError(Exception):
    """What failed while foreign code, or a data set, was at work. at_once: foreign code had begun."""

    def __init__(self, message: str, reason: Reason, at_once: bool) -> None:
        super().__init__(message)
        self.reason, self.at_once = reason, at_once


@contextlib.contextmanager
def _own(reason: Reason, has_begun: Callable[[], bool], custom: bool) -> Iterator[None]:
    """What fails in here without a verdict is an _OwnError; an error of the system once foreign code has begun.

    custom: the zygote runs foreign code too. Any other one is out of the reach of its folds: who ended it was another.
    """
    try:
        yield
    except GoneError as error:
        raise _OwnError(str(error), reason if custom else Reason.INFRASTRUCTURE, has_begun()) from error
    except (_Problem, SpecificError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and not has_begun():
            raise
        raise _OwnError(str(error), reason, has_begun()) from error


class _Problem(Exception):
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
