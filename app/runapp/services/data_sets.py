"""Data sets: stored, split, and what becomes of the folds that waited for the split."""

import logging
import os
import shutil
import uuid
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import IntegrityError, transaction
from django.utils import timezone
from rest_framework.exceptions import ValidationError

from runapp import storage
from runapp.models import Call, RawData, SubmissionFold
from runapp.services.pressure import check_bytes, check_space, storing
from runapp.services.queueing import open_folds, publish, publish_split
from runner import plainfile, revoked
from runner.jobs import Reason, version_name

log = logging.getLogger(__name__)


def create_raw_data(data: dict[str, Any], user: Any) -> RawData:
    """Store a data set's files and its row, or neither. data: what RawDataSerializer validated."""
    folder = storage.new_name(f"{data['name']}_", data["digest"])
    root = settings.DIR_DATA / folder
    raw_data = RawData(
        name=data["name"],
        workflow_elements=data["workflow_elements"],
        target_column=data["target_column"],
        custom=data["custom"],
        folder=folder,
        files_path=str(root / "raw"),
        size=data["size"],
        digest=data["stored_digest"],
        created_by=user,
    )
    check_space((settings.DIR_DATA,))
    with storing(), storage.staged(settings.DIR_DATA) as stage:
        storage.save_files(stage / "raw", data, root=settings.DIR_DATA)
        try:
            with transaction.atomic():
                raw_data.save(force_insert=True)
                check_bytes(user, raw_data.size)
                stage.rename(root)
        except BaseException as error:
            shutil.rmtree(root, ignore_errors=True)
            if isinstance(error, IntegrityError):
                raise ValidationError({"name": "RawData with this name already exists."}) from None
            raise
    return raw_data


def ask_for_split(raw_data: RawData, **request: Any) -> str:
    """Queue a split; returns its task id. Folds that are sent from now on wait for it."""
    check_space()
    task_id = str(uuid.uuid4())
    RawData.objects.filter(pk=raw_data.pk).update(
        split_state=RawData.Split.QUEUED,
        split_task_id=task_id,
        split_request=request,
        split_log="",
        split_reason="",
        split_runner="",
        split_attempts=1,
        split_asked_at=timezone.now(),
        split_queued_at=None,
    )
    transaction.on_commit(lambda: publish_split(raw_data.pk))
    return task_id


def finish_split(result: dict[str, Any]) -> bool:
    """Take in a split's result; the folds that waited for it start, or end as ERROR. False if it is not awaited."""
    raw_data = RawData.objects.filter(pk=result["raw_data_id"]).first()
    if raw_data is None:
        return False  # deleted meanwhile, its files too
    task_id, rows = result["task_id"], result["rows"]
    if result["reason"] == Reason.INFRASTRUCTURE and raw_data.try_split_again(task_id):
        publish_split(raw_data.pk)
        return True
    version = raw_data.root / version_name(task_id)
    changes: dict[str, Any]
    if not rows:
        changes = {
            "split_state": RawData.Split.ERROR,
            "split_log": storage.clean_text(result["log"]),
            "split_reason": result["reason"] or Reason.DATA,
        }
    else:
        changes = {
            "split_state": RawData.Split.DONE,
            "n_train": rows[0],
            "n_test": rows[1],
            "files_path": str(version),
            "sums_digest": result.get("sums", ""),
            "split_log": storage.clean_text(result["log"]),
        }
    # A split that no runner finished has none, and so has the message of a runner that is older than the field.
    changes["split_runner"] = result.get("runner") or ""
    with transaction.atomic():
        accepted = raw_data.finish_split(task_id, **changes)
        if accepted and rows:
            storage.point(raw_data.root / "current", version.name)
    if not accepted:
        others = RawData.objects.filter(pk=raw_data.pk).exclude(split_task_id=task_id)
        if others.exclude(files_path=str(version)).exists():
            with suppress(OSError), plainfile.folder(raw_data.root) as root:
                _remove_version(root, version.name)
        return False
    waiting = open_folds().filter(databoard_s__raw_data=raw_data, queued_at=None)
    if rows:
        _remove_old_versions(raw_data, keep={"raw", "current", version.name, Path(raw_data.files_path).name})
        publish(waiting.iterator(chunk_size=100))
    else:
        _end(waiting, raw_data, changes["split_reason"], changes["split_log"])
    return True


def end_unsplit(before: datetime) -> int:
    """End the folds that were accepted before this time for a data set whose split failed at that moment."""
    count = 0
    for raw_data in RawData.objects.filter(split_state=RawData.Split.ERROR):
        waiting = open_folds().filter(databoard_s__raw_data=raw_data, queued_at=None, created_at__lt=before)
        # Split before there was the column, it has no reason.
        ended = _end(waiting, raw_data, raw_data.split_reason or Reason.DATA, raw_data.split_log)
        if ended:
            log.warning("data set %s: %s folds end that came while its split failed", raw_data.pk, ended)
        count += ended
    return count


def _end(waiting: Any, raw_data: RawData, reason: str, text: str) -> int:
    now = timezone.now()
    with transaction.atomic():
        ended: int = waiting.update(state="ERROR", error_reason=reason, log_messages=text, finished_at=now)
        # Those that it has just ended, by the moment: they are not among the waiting ones any more.
        Call.record(SubmissionFold.objects.filter(databoard_s__raw_data=raw_data, finished_at=now))
    return ended


def lost_split(message: dict[str, Any]) -> bool:
    """Count an attempt of a split that ended with its runner; the broker gives its message to another by itself.

    False where it is not awaited.
    """
    raw_data = RawData.objects.filter(pk=message["raw_data_id"]).first()
    task_id, runner = message["task_id"], message["runner"]
    if raw_data is None or (raw_data.split_task_id, raw_data.split_state) != (task_id, RawData.Split.QUEUED):
        return False
    if raw_data.try_split_again(task_id):
        RawData.objects.filter(pk=raw_data.pk, split_task_id=task_id).update(split_queued_at=timezone.now())
        log.warning("data set %s is split again: task %s ended with its runner %s", raw_data.pk, task_id, runner)
        return True
    log.warning("data set %s is given up: task %s ended with its runner %s", raw_data.pk, task_id, runner)
    revoked.revoke(task_id)
    return give_up_split(raw_data)


def give_up_split(raw_data: RawData) -> bool:
    """End the awaited split as ERROR, and the folds that wait for it; False where another one did."""
    why = f"ERROR(split data): no runner finished it, in {raw_data.split_attempts} attempts"
    result = {"raw_data_id": raw_data.pk, "task_id": raw_data.split_task_id, "rows": None, "log": why}
    return finish_split(result | {"reason": Reason.INFRASTRUCTURE})


def _remove_old_versions(raw_data: RawData, keep: set[str]) -> None:
    """Folds that run use the version before the last at the oldest: they read it when they start."""
    with suppress(OSError), plainfile.folder(raw_data.root) as root:
        for name in os.listdir(root):
            if name.removesuffix(".sha256") not in keep:
                _remove_version(root, name)


def _remove_version(root: int, name: str) -> None:
    """A version, or what lies beside one, and the sums of its files. root: the descriptor of its data set's folder."""
    shutil.rmtree(name, ignore_errors=True, dir_fd=root)
    for file in (name, f"{name}.sha256"):
        with suppress(OSError):
            os.unlink(file, dir_fd=root)
