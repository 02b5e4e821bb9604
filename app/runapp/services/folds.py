"""Folds and submissions: accepted together or refused together."""

import secrets
import uuid
from contextlib import suppress
from hmac import compare_digest
from pathlib import Path
from shutil import rmtree
from typing import Any

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import QuerySet
from django.utils import timezone
from rest_framework.exceptions import APIException, ValidationError

from runapp import storage
from runapp.models import Call, RawData, Submission, SubmissionFold, without_payloads
from runapp.services.pressure import check_bytes, check_folds, check_space, storing
from runapp.services.queueing import publish_ready
from runapp.signals import remove_files
from runner import payloads, revoked
from runner.elements import parse_elements
from runner.jobs import Reason, out_of_range


class Conflict(APIException):
    status_code = 409
    default_code = "conflict"
    default_detail = "Other requests write the same submissions or folds right now; send this one again."


class _Batch:
    """The rows that a request's folds refer to, looked up once for all of them. all_new: no fold is there already."""

    def __init__(self, items: list[dict[str, Any]], all_new: bool) -> None:
        submission_ids = {item["databoard_s_id"] for item in items}
        locked = Submission.objects.select_for_update(of=("self",)).select_related("raw_data")
        self.submissions = locked.in_bulk(submission_ids)
        data_ids = {item["raw_data"] for item in items if item.get("raw_data") is not None}
        self.data_sets = RawData.objects.in_bulk(data_ids)
        self.folds: dict[int, int | None] = {}
        if not all_new:
            known = SubmissionFold.objects.filter(pk__in={item["databoard_sf_id"] for item in items})
            self.folds = dict(known.values_list("pk", "databoard_s_id"))
        self.new_ids: set[int] = set()
        self.forced: set[int] = set()
        self.files: dict[Path, dict[str, str]] = {}  # what is to be stored where, once all items are accepted


def create_folds(items: list[dict[str, Any]], user: Any) -> list[SubmissionFold]:
    """Accept folds, all of them or none, and queue them after the commit.

    items: what NewFoldSerializer validated. Raises ValidationError: {field: message} of the one item, or for
    several a list with an entry an item.
    """
    check_space((settings.DIR_SUBMISSION,) if any(_writes(item) for item in items) else ())
    if not any(item.get("force") for item in items):
        # For the most part the folds are new, and there is nothing to be looked for and refused.
        with suppress(IntegrityError, ValidationError), storing():
            return _create_folds(items, user, all_new=True)
    for _ in range(5):
        # Where another request makes the same submission or fold at this moment, it is known the next time.
        with suppress(IntegrityError), storing():
            return _create_folds(items, user, all_new=False)
    raise Conflict


def _create_folds(items: list[dict[str, Any]], user: Any, all_new: bool) -> list[SubmissionFold]:
    folds: list[SubmissionFold] = []
    written: list[str] = []
    places: list[Path] = []
    try:
        with transaction.atomic():
            # First: what else is done after the commit may fail, and takes nothing back.
            transaction.on_commit(written.clear)
            transaction.on_commit(places.clear)
            batch = _Batch(items, all_new)
            for number, item in enumerate(items):
                try:
                    submission = _submission_for(item, batch, user)
                    folds.append(_new_fold(item, submission, batch, user, written))
                except ValidationError as error:
                    raise _at(error, number, len(items)) from None
            # In one order, so that two requests with the same ids wait for each other instead of locking up.
            SubmissionFold.objects.bulk_create(sorted(folds, key=lambda fold: fold.pk), batch_size=500)
            waiting = [fold for fold in folds if fold.state in SubmissionFold.OPEN]
            if len(waiting) < len(folds):
                ended = {fold.pk for fold in folds} - {fold.pk for fold in waiting}
                Call.record(SubmissionFold.objects.filter(pk__in=ended))
            # Before the files are stored, and after all else that may wait for another request: no two lock up.
            if waiting:
                check_folds(user, len(waiting))
            if batch.files:
                check_bytes(user, sum(batch.submissions[key].size for key in batch.forced))
            for place, files in batch.files.items():
                with storage.staged(settings.DIR_SUBMISSION) as stage:
                    storage.save_files(stage, {"files": files})
                    stage.rename(place)
                places.append(place)
    except BaseException:
        storage.delete_payloads(written)
        for place in places:
            rmtree(place, ignore_errors=True)
        raise
    transaction.on_commit(lambda: publish_ready(waiting))
    return folds


def _submission_for(item: dict[str, Any], batch: _Batch, user: Any) -> Submission:
    key, files, force = item["databoard_s_id"], item.get("files"), item.get("force") or set()
    known = batch.submissions.get(key)
    if known is None:
        missing = [name for name in ("raw_data", "files") if item.get(name) is None]
        if missing:
            raise ValidationError(
                dict.fromkeys(missing, f"Submission {key} is new: send its raw_data (the data set's id) and files.")
            )
    data_set = known.raw_data if known else None
    if item.get("raw_data") is not None:
        asked = batch.data_sets.get(item["raw_data"])
        if asked is None:
            raise ValidationError(
                {"raw_data": f"There is no data set {item['raw_data']}; GET /runapp/rawdata/ lists them."}
            )
        if data_set and asked.pk != data_set.pk and "submission" not in force:
            raise ValidationError(
                {"raw_data": f"Submission {key} belongs to data set {data_set.pk}; force='submission' replaces it."}
            )
        data_set = asked
    if data_set is None:
        raise ValidationError({"raw_data": f"Submission {key} has no data set: send it with force='submission'."})
    _check_split(data_set)
    if files is None:
        if "submission" in force and key not in batch.forced:
            raise ValidationError({"files": "force='submission' replaces the submission's files: send them."})
        assert known is not None
        _check_webhook(item, known)
        return known
    _check_files(files, data_set)
    prefix = f"submission_{key}_"
    if known and ("submission" not in force or key in batch.forced):
        if not storage.holds(known.files_path, prefix, files.digest):
            raise ValidationError(
                {"files": f"Submission {key} exists with other files; force='submission' replaces them and its folds."}
            )
        _check_webhook(item, known)
        return known
    place = settings.DIR_SUBMISSION / storage.new_name(prefix, files.digest)
    batch.files[place] = files
    return _store_submission(item, place, data_set, batch, user)


def _store_submission(item: dict[str, Any], place: Path, data_set: RawData, batch: _Batch, user: Any) -> Submission:
    key = item["databoard_s_id"]
    old = batch.submissions.get(key)
    if old:
        # The rows go one by one through the signals: their files go with them.
        gone = [pk for pk, of in batch.folds.items() if of == key]
        _replace(SubmissionFold.objects.filter(databoard_s=old))
        for pk in gone:
            del batch.folds[pk]
        old_path = old.files_path
        transaction.on_commit(lambda: remove_files(old_path))
    submission = old or Submission(databoard_s_id=key)
    submission.files_path, submission.raw_data = str(place), data_set
    submission.size, submission.digest = item["files"].size, item["files"].digest
    submission.webhook, submission.webhook_secret = item.get("webhook") or "", item.get("webhook_secret") or ""
    submission.created_by, submission.created_at = user, timezone.now()
    submission.save(force_insert=old is None)
    batch.submissions[key] = submission
    batch.forced.add(key)
    return submission


def _writes(item: dict[str, Any]) -> bool:
    """Whether a fold, as it came, has something to be stored on the shared disk."""
    return bool(item.get("files")) or max(len(item["train_is"]), len(item["test_is"])) > payloads.INLINE_BYTES


def _new_fold(
    item: dict[str, Any], submission: Submission, batch: _Batch, user: Any, written: list[str]
) -> SubmissionFold:
    key, data_set = item["databoard_sf_id"], submission.raw_data
    assert data_set is not None
    if key in batch.new_ids:
        raise ValidationError({"databoard_sf_id": f"Fold {key} stands twice in this request."})
    if key in batch.folds:
        if "submission_fold" not in (item.get("force") or set()):
            raise ValidationError(
                {"databoard_sf_id": f"Fold {key} exists; force='submission_fold' replaces it and trains it again."}
            )
        _replace(SubmissionFold.objects.filter(pk=key))
    for name in ("train_is", "test_is"):
        if problem := _rows_problem(item[name].highest, data_set):
            raise ValidationError({name: problem})
    batch.new_ids.add(key)
    task_id = str(uuid.uuid4())
    indices = {}
    for name in ("train_is", "test_is"):
        # Not named after the task: all runners can see the name, and the task's id is for the one that gets it.
        indices[name] = payloads.keep(storage.cut(item[name]), f"{secrets.token_hex(16)}.{name}")
        written.append(indices[name])
    return SubmissionFold(
        databoard_sf_id=key,
        databoard_s=submission,
        priority=item["priority"],
        task_id=task_id,
        attempts=1,
        highest_test_row=item["test_is"].highest,
        created_by=user,
        **indices,
        **_end(data_set),
    )


def _rows_problem(highest: int, data_set: RawData) -> str | None:
    """What is wrong with the largest row number of a fold. Before the split the size of the file bounds the rows."""
    if data_set.split_state == RawData.Split.DONE and data_set.n_train is not None:
        return out_of_range(highest, data_set.n_train) if highest >= data_set.n_train else None
    # A row has a character and the end of its line. A custom data set makes its rows by itself.
    if not data_set.custom and highest >= data_set.size // 2:
        return f"Row {highest} is out of range: a file of {data_set.size} bytes has fewer rows."
    return None


def _end(data_set: RawData) -> dict[str, Any]:
    """How a fold ends that is sent after the split of its data set has failed. Clients of 2016 read its log."""
    if data_set.split_state != RawData.Split.ERROR:
        return {}
    return {
        "state": SubmissionFold.State.ERROR,
        "error_reason": data_set.split_reason or Reason.DATA,
        "log_messages": data_set.split_log,
        "finished_at": timezone.now(),
    }


def _check_webhook(item: dict[str, Any], known: Submission) -> None:
    """A known submission keeps its webhook, as it keeps its files."""
    if item.get("webhook") is None:
        return
    same = compare_digest(item["webhook_secret"].encode(), known.webhook_secret.encode())
    if item["webhook"] != known.webhook or not same:
        raise ValidationError(
            {"webhook": f"Submission {known.pk} has another webhook, or none; force='submission' replaces it all."}
        )


def _replace(folds: QuerySet[SubmissionFold]) -> None:
    """Delete folds that others replace; what still runs of them is not to be run again if its runner dies."""
    running = folds.filter(state__in=SubmissionFold.OPEN).exclude(started_at=None)
    task_ids = list(running.values_list("task_id", flat=True))
    without_payloads(folds).delete()
    if task_ids:
        transaction.on_commit(lambda: revoked.revoke(*task_ids))


def _check_split(data_set: RawData) -> None:
    if data_set.split_state == RawData.Split.NONE:
        call = "customsplit" if data_set.custom else "split"
        raise ValidationError(
            {"raw_data": f"Data set {data_set.pk} was never split: POST /runapp/rawdata/{call}/ first."}
        )


def _check_files(files: dict[str, str], data_set: RawData) -> None:
    if data_set.custom:
        return
    wanted = {f"{element}.py" for element in parse_elements(data_set.workflow_elements)}
    if missing := sorted(wanted - set(files)):
        raise ValidationError(
            {
                "files": f"A submission to {data_set.name} needs {', '.join(missing)} too: it has the files "
                f"{', '.join(sorted(wanted))}, and may bring others beside them."
            }
        )


def _at(error: ValidationError, number: int, count: int) -> ValidationError:
    return error if count == 1 else ValidationError([{}] * number + [error.detail])
