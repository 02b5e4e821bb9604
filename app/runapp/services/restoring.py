"""After a backup was restored: what its rows promise is true again, or said not to be."""

import logging
import uuid
from pathlib import Path

from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from runapp import storage
from runapp.models import PAYLOADS, RawData, Submission, SubmissionFold
from runapp.services.data_sets import ask_for_split, end_unsplit
from runapp.services.queueing import open_folds, publish, ready_folds
from runapp.services.results import PREDICTIONS, SHAPES
from runner import copies, payloads
from runner.jobs import Reason

log = logging.getLogger(__name__)

AS_NEW = {"state": SubmissionFold.State.TODO, "queued_at": None, "started_at": None, "deadline": None, "runner": ""}
"""A fold whose message is gone, and which has not begun."""

Split = RawData.Split


def restored() -> list[str]:
    """Take up what a backup held, where no master's worker runs; says in a line each what was not as it was.

    The rows are those of one moment, and the files were read after it: what was deleted or replaced in between is
    missing. Runners and queues know nothing of these rows, or too much.

    1. Data sets are split again that were being split, or whose version is missing.
    2. Folds end that can't be run any more: their data set, submission or training rows are missing.
    3. Folds are run again whose predictions are missing.
    4. All open folds are queued. The task stays: a result that a runner still has of it is as good as a new one.

    Safe to run again. Where a message is in its queue already the fold runs twice, and one of its results counts.
    """
    with transaction.atomic():
        open_folds().update(**AS_NEW)
        said = [_data_set(raw_data) for raw_data in RawData.objects.all()]
        end_unsplit(timezone.now())
        said += [_submission(submission) for submission in Submission.objects.select_related("raw_data").iterator()]
        in_files = Q(*((f"{name}__startswith", "@") for name in PAYLOADS), _connector=Q.OR)
        folds = SubmissionFold.objects.filter(in_files).select_related("databoard_s__raw_data")
        said += [_fold(fold) for fold in folds.iterator(chunk_size=100)]
    queued = publish(ready_folds().iterator(chunk_size=100))
    later = open_folds().count() - queued
    for line in said:
        if line:
            log.warning("%s", line)
    return [*filter(None, said), f"{queued} folds are queued; {later} will be, after the split of their data set"]


def _data_set(raw_data: RawData) -> str:
    name, state = f"data set {raw_data.pk} ({raw_data.name})", raw_data.split_state
    version = Path(raw_data.files_path)
    if state == Split.DONE and copies.is_whole(version, raw_data.sums_digest):
        current = raw_data.root / "current"
        if not current.is_symlink() or current.readlink() != Path(version.name):
            storage.point(current, version.name)
        return ""
    if _holds(raw_data.root / "raw", raw_data.size):
        if state not in (Split.DONE, Split.QUEUED):
            return ""
        # Under a new task: a version of the old one may be there, in part.
        ask_for_split(raw_data, **raw_data.split_request)
        return f"{name} is split again: its split {'was under way' if state == Split.QUEUED else 'is not whole'}"
    why = "its files are not in the backup: delete it in /admin/, and send it again"
    failed = {"split_state": Split.ERROR, "split_reason": Reason.INFRASTRUCTURE}
    RawData.objects.filter(pk=raw_data.pk).update(split_log=f"ERROR(split data): {why}", **failed)
    return f"{name} is lost with its open folds: {why}"


def _submission(submission: Submission) -> str:
    if _is_there(submission):
        return ""
    why = "its files are not in the backup: send it again with force='submission'"
    folds = open_folds().filter(databoard_s=submission)
    ended = sum(_end(fold, f"{submission}: {why}") for fold in folds.defer(*PAYLOADS))
    return f"{submission}: {why}; {ended} open folds end"


def _fold(fold: SubmissionFold) -> str:
    missing = [name for name in PAYLOADS if not payloads.is_there(getattr(fold, name))]
    if not missing:
        return ""
    what = f"{fold}: {', '.join(missing)} of it are not in the backup"
    if fold.state in SubmissionFold.OPEN:
        if "train_is" not in missing:
            return what
        _end(fold, f"{what}: send it again with force='submission_fold'")
        return f"{what}: it ends"
    if not {"full_train_predictions", "test_predictions"} & {*missing}:
        return what
    submission = fold.databoard_s
    data_set = submission.raw_data if submission else None
    sets = data_set and data_set.split_state in (Split.DONE, Split.QUEUED)
    if "train_is" in missing or not sets or not submission or not _is_there(submission):
        return f"{what}, nor can they be made again: send it again with force='submission_fold'"
    # As if it had been replaced, which is what became of it after that moment.
    fold.failed_attempts.all().delete()
    nothing = dict.fromkeys(("error_reason", "log_messages", *PREDICTIONS), "") | dict.fromkeys(SHAPES)
    again = {"task_id": str(uuid.uuid4()), "attempts": 1, "returns": 0, "new": True, "finished_at": None}
    SubmissionFold.objects.filter(pk=fold.pk).update(**AS_NEW, **nothing, **again)
    return f"{what}: it is run again"


def _is_there(submission: Submission) -> bool:
    return submission.files_path is not None and _holds(Path(submission.files_path), submission.size)


def _holds(folder: Path, size: int) -> bool:
    """Whether the folder has all its bytes; where they were not counted yet (size 0), whether it is there."""
    if not folder.is_dir():
        return False
    return not size or sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) == size


def _end(fold: SubmissionFold, why: str) -> bool:
    return fold.finish(
        fold.task_id,
        state=SubmissionFold.State.ERROR,
        error_reason=Reason.INFRASTRUCTURE,
        log_messages=f"ERROR(train): {why}",
        finished_at=timezone.now(),
        new=True,
    )
