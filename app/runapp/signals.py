"""What goes with a row that is deleted, from wherever it is deleted (services, admin, cascade)."""

import shutil
from functools import partial
from pathlib import Path
from typing import Any

from django.db import transaction
from django.db.models.signals import post_delete, pre_delete
from django.dispatch import receiver

from runapp.models import RawData, Submission, SubmissionFold
from runner import payloads


@receiver(pre_delete, sender=SubmissionFold)
def _delete_payload_files(instance: SubmissionFold, **_: Any) -> None:
    """Reads the files' names while the row still exists: a fold may be in memory without its payload columns."""
    for file in instance.payload_files():
        transaction.on_commit(partial(payloads.delete, file))


@receiver(post_delete, sender=Submission)
def _delete_submission_files(instance: Submission, **_: Any) -> None:
    transaction.on_commit(lambda: remove_files(instance.files_path))


@receiver(post_delete, sender=RawData)
def _delete_data_files(instance: RawData, **_: Any) -> None:
    transaction.on_commit(lambda: shutil.rmtree(instance.root, ignore_errors=True))


def remove_files(files_path: str | None) -> None:
    """Remove the folder of a submission that is gone or has another one."""
    if files_path:
        shutil.rmtree(Path(files_path), ignore_errors=True)
