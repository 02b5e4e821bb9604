"""What is done to the server's database without the server, in a process with its environment.

`python -m bench.inside COMMAND [NUMBER...]` prints one JSON value: times in seconds, sizes in bytes.
"""

import base64
import json
import os
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import django
import numpy as np

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "datarun.settings")
django.setup()

from django.db import connection, transaction  # noqa: E402  # after django.setup()
from django.db.models import F, QuerySet  # noqa: E402
from django.utils import timezone  # noqa: E402

from runapp.models import RawData, Submission, SubmissionFold  # noqa: E402
from runapp.serializers import FOLD_FIELDS, LIGHT_FIELDS, PREDICTION_FIELDS  # noqa: E402

FIRST_ID = 1_000_000
POOL = 256
TRAIN_ROWS, TEST_ROWS = 800, 200
"""One prediction a row: 1,000 a fold."""


def inserts(singles: int, bulk: int) -> dict[str, float]:
    """The rows of POSTed folds through the ORM: `singles` of them one transaction each, then `bulk` in one."""
    submission, indices = Submission.objects.all()[0], _packed(np.arange(200))

    def row(number: int) -> SubmissionFold:
        return SubmissionFold(
            databoard_sf_id=FIRST_ID + number,
            databoard_s=submission,
            train_is=indices,
            test_is=indices,
            task_id=f"{number:036}",
            queued_at=timezone.now(),
        )

    connection.ensure_connection()

    def save_each() -> None:
        for number in range(singles):
            row(number).save(force_insert=True)

    one_by_one = _seconds(save_each)
    rows = [row(singles + number) for number in range(bulk)]
    at_once = _seconds(lambda: SubmissionFold.objects.bulk_create(rows, batch_size=500))
    # Those that were POSTed too: else they would run beside what is measured next.
    SubmissionFold.objects.filter(state=SubmissionFold.State.TODO).delete()
    return {"singles": one_by_one, "bulk": at_once}


def fill(number: int) -> float:
    """Leave this many folds, all TESTED and never fetched, of 10 a submission; returns the seconds it took."""
    SubmissionFold.objects.all().delete()
    Submission.objects.all().delete()
    random = np.random.default_rng(1)
    pool = [(_packed(random.random(TRAIN_ROWS)), _packed(random.random(TEST_ROWS))) for _ in range(POOL)]
    indices = _packed(np.arange(200))
    data_set = RawData.objects.get_or_create(name="stored", workflow_elements="classifier")[0]
    now = timezone.now()

    def row(number: int) -> SubmissionFold:
        full, test = pool[number % POOL]
        return SubmissionFold(
            databoard_sf_id=number,
            databoard_s_id=number // 10,
            train_is=indices,
            test_is=indices,
            full_train_predictions=full,
            test_predictions=test,
            state="TESTED",
            task_id=f"{number:036}",
            attempts=1,
            runner="runner@localhost",
            queued_at=now,
            started_at=now,
            finished_at=now,
        )

    def work() -> None:
        submissions = range((number + 9) // 10)
        Submission.objects.bulk_create([Submission(pk=pk, raw_data=data_set) for pk in submissions], batch_size=500)
        for start in range(0, number, 500):
            SubmissionFold.objects.bulk_create([row(pk) for pk in range(start, min(start + 500, number))])

    return _seconds(work)


def selects() -> dict[str, dict[str, float]]:
    """For each list the SELECT that it makes, fetched by the driver and thrown away: seconds and rows."""
    folds = SubmissionFold.objects.all()
    queries = {
        "submissionfold-light/": folds.values(*LIGHT_FIELDS),
        "submissionfold/": folds.annotate(sent_by=F("created_by__username")).values(*FOLD_FIELDS),
        "testpredictions/new/": folds.values(*PREDICTION_FIELDS),
    }
    found = {}
    for name, query in queries.items():
        start = time.perf_counter()
        rows = sum(len(part) for part in _fetched(query))
        found[name] = {"seconds": time.perf_counter() - start, "rows": rows}
    return found


def _fetched(query: QuerySet[Any, Any]) -> Iterator[list[Any]]:
    sql, parameters = query.query.sql_with_params()
    with transaction.atomic(), connection.chunked_cursor() as cursor:  # chunked: PostgreSQL sends as we ask
        cursor.execute(sql, parameters)
        while part := cursor.fetchmany(200):
            yield part


def _packed(values: np.ndarray) -> str:
    return base64.b64encode(zlib.compress(values.tobytes(), 1)).decode()


def _seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    commands: dict[str, Callable[..., Any]] = {"inserts": inserts, "fill": fill, "selects": selects}
    print(json.dumps(commands[sys.argv[1]](*map(int, sys.argv[2:]))))
