"""What is refused under pressure: limits of a user (429), disks that are nearly full (507) or away (503)."""

import errno
import os
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from django.contrib.auth import get_user_model
from django.db import OperationalError, connection
from django.utils import timezone

from runapp import services, storage
from runapp.models import RawData, Submission, SubmissionFold
from runapp.services import pressure
from runner import payloads
from tests.app.helpers import (
    CLASSIFIER,
    IRIS,
    OTHER_CLASSIFIER,
    PASSWORD,
    Api,
    data_set,
    finish,
    fold,
    in_thread,
    new_fold,
    pack,
    progress,
    result,
)

pytestmark = pytest.mark.embedded

GIB = 1 << 30


@pytest.fixture(autouse=True)
def _forget_disks(monkeypatch):
    monkeypatch.setattr(pressure, "_disks", {})


def refused(answer, status: int = 429) -> str:
    """The text of a refusal."""
    assert answer.status == status, answer.content
    [text] = answer.body["detail"]
    return text


def start(*keys: int) -> None:
    for key in keys:
        services.advance(progress(key))


# --- folds that wait


def test_it_works(api, iris, queues, disk, settings):
    settings.MAX_WAITING = 2
    assert api.new_fold(iris, 1).status == 201
    assert api.new_fold(iris, 2, submission=2).status == 201
    queues.purge()
    before = disk()

    answer = api.new_fold(iris, 3, submission=3)

    text = refused(answer)
    assert "DATARUN_MAX_WAITING" in text
    assert "2 wait" in text
    assert 1 <= int(answer.headers["Retry-After"]) <= 3600
    assert SubmissionFold.objects.count() == Submission.objects.count() == 2
    assert queues.folds() == []
    assert disk() == before


def test_a_bulk_is_refused_as_a_whole(api, iris, settings):
    settings.MAX_WAITING = 4
    assert "this request has 5" in refused(api.post("submissionfold/bulk/", [new_fold(iris, key) for key in range(5)]))
    assert not SubmissionFold.objects.exists()
    assert not Submission.objects.exists()
    assert api.post("submissionfold/bulk/", [new_fold(iris, key) for key in range(4)]).status == 201


def test_a_refused_request_leaves_no_large_indices(api, iris, disk, settings, monkeypatch):
    monkeypatch.setattr(payloads, "INLINE_BYTES", 10)
    settings.MAX_WAITING = 1
    api.new_fold(iris)
    before = disk()
    refused(api.post("submissionfold/", fold(2)))
    assert disk() == before


@pytest.mark.parametrize("leave", [start, lambda key: finish(result(key))], ids=["started", "ended"])
def test_a_fold_that_waits_no_more_makes_room(api, iris, settings, leave):
    settings.MAX_WAITING = 1
    api.new_fold(iris)
    refused(api.post("submissionfold/", fold(2)))
    leave(1)
    assert api.post("submissionfold/", fold(2)).status == 201


def test_a_fold_that_is_replaced_counts_once(api, iris, settings):
    settings.MAX_WAITING = 1
    api.new_fold(iris)
    assert api.post("submissionfold/", fold(1, force="submission_fold")).status == 201
    other = {"classifier.py": pack(OTHER_CLASSIFIER)}
    assert api.new_fold(iris, force="submission", files=other).status == 201


def test_each_user_has_limits_of_its_own(api, iris, settings):
    settings.MAX_WAITING = 1
    get_user_model().objects.create_user("eve", "", PASSWORD)
    api.new_fold(iris)
    refused(api.post("submissionfold/", fold(2)))
    assert Api(("eve", PASSWORD)).post("submissionfold/", fold(2)).status == 201


def test_nothing_is_limited_by_zero(api, iris, settings):
    settings.MAX_WAITING = settings.MAX_RUNNING = settings.MAX_BYTES = settings.MIN_FREE_BYTES = 0
    assert api.post("submissionfold/bulk/", [new_fold(iris, key) for key in range(20)]).status == 201


def test_the_hint_is_the_pace_of_late(api, iris, settings):
    settings.MAX_WAITING = 1
    api.post("submissionfold/bulk/", [new_fold(iris, 1)])
    assert api.post("submissionfold/", fold(2)).headers["Retry-After"] == "60"  # nothing is known
    settings.MAX_WAITING = 5
    for key in range(10, 14):
        api.post("submissionfold/", fold(key))
        finish(result(key))
    settings.MAX_WAITING = 1
    # Four ended in ten minutes: one every 150 s, and two are to go.
    assert api.post("submissionfold/bulk/", [fold(2), fold(3)]).headers["Retry-After"] == "300"
    SubmissionFold.objects.filter(pk__gt=10).update(finished_at=timezone.now() - timedelta(hours=1))
    assert api.post("submissionfold/bulk/", [fold(2), fold(3)]).headers["Retry-After"] == "1200"


@pytest.mark.django_db(transaction=True)
def test_requests_at_the_same_time_do_not_pass_together(api, iris, settings):
    settings.MAX_WAITING = 5
    api.new_fold(iris, 1)
    go = threading.Barrier(8)

    def send(number):
        def run():
            mine = Api()
            go.wait(60)
            return [mine.post("submissionfold/", fold(100 * number + key)).status for key in range(3)]

        return in_thread(run)

    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(send(number)) for number in range(1, 9)]
        statuses = [status for answer in answers for status in answer.result(60)]

    assert set(statuses) == {201, 429}
    assert statuses.count(201) == 4
    assert SubmissionFold.objects.count() == 5


# --- folds that run


def test_a_user_whose_folds_run_is_refused_more(api, iris, settings):
    settings.MAX_RUNNING = 2
    for key in (1, 2, 3):
        assert api.new_fold(iris, key).status == 201
    start(1)
    assert api.post("submissionfold/", fold(4)).status == 201
    start(2)
    answer = api.post("submissionfold/", fold(5))
    text = refused(answer)
    assert "DATARUN_MAX_RUNNING" in text
    assert "2 run" in text
    assert int(answer.headers["Retry-After"]) >= 1
    finish(result(1))
    assert api.post("submissionfold/", fold(5)).status == 201


# --- bytes


def test_bytes_are_counted_as_they_are_stored(api, iris):
    assert RawData.objects.get().size == len(IRIS)
    api.new_fold(iris)
    assert Submission.objects.get().size == len(CLASSIFIER)
    other = {"classifier.py": pack(OTHER_CLASSIFIER)}
    api.new_fold(iris, force="submission", files=other)
    assert Submission.objects.get().size == len(OTHER_CLASSIFIER)


def test_a_submission_beyond_the_bytes_is_refused(api, iris, disk, settings):
    settings.MAX_BYTES = len(IRIS) + 2 * len(CLASSIFIER)
    assert api.new_fold(iris, 1).status == 201
    assert api.new_fold(iris, 2, submission=2).status == 201
    before = disk()
    answer = api.new_fold(iris, 3, submission=3)
    text = refused(answer)
    assert "DATARUN_MAX_BYTES" in text
    assert f"they have {settings.MAX_BYTES}, and this request has {len(CLASSIFIER)}" in text
    assert answer.headers["Retry-After"] == "3600"
    assert disk() == before
    assert Submission.objects.count() == 2
    # A fold of what is there needs no more.
    assert api.post("submissionfold/", fold(3)).status == 201
    Submission.objects.get(pk=2).delete()
    assert api.new_fold(iris, 4, submission=3).status == 201


def test_a_data_set_beyond_the_bytes_is_refused(api, raw, disk, settings):
    settings.MAX_BYTES = 2 * len(IRIS)
    assert api.post("rawdata/", data_set("second")).status == 201
    before = disk()
    refused(api.post("rawdata/", data_set("third")))
    assert disk() == before
    assert RawData.objects.count() == 2


@pytest.mark.django_db(transaction=True)
def test_data_sets_at_the_same_time_do_not_pass_together(api, settings):
    settings.MAX_BYTES = 2 * len(IRIS)
    go = threading.Barrier(4)

    def send(number):
        def run():
            mine = Api()
            go.wait(60)
            return mine.post("rawdata/", data_set(f"data{number}")).status

        return in_thread(run)

    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(send(number)) for number in range(4)]
        assert sorted(answer.result(60) for answer in answers) == [201, 201, 429, 429]


# --- disks


@pytest.fixture
def free(monkeypatch, settings):
    """free[folder's name] = the bytes that are free there; plenty where none is given."""
    table: dict[str, int] = {}
    monkeypatch.setattr(pressure, "free_bytes", lambda path: table.get(path.name, 100 * GIB))
    settings.MIN_FREE_BYTES = GIB
    return table


def requests(iris):
    return [
        ("rawdata/", data_set("second")),
        ("rawdata/split/", {"raw_data_id": iris.pk, "held_out_test": 0.25}),
        ("submissionfold/", new_fold(iris, 7, submission=7)),
        ("submissionfold/", fold(8)),
        ("submissionfold/bulk/", [fold(9)]),
    ]


@pytest.mark.parametrize("place", ["dir_data", "dir_submission"])
def test_a_disk_that_is_nearly_full_takes_nothing_new(api, iris, queues, disk, free, place):
    api.new_fold(iris)
    queues.purge()
    before = disk()
    free[place] = GIB - 1
    for path, body in requests(iris):
        assert f"{GIB - 1} bytes are free" in refused(api.post(path, body), 507)
    assert disk() == before
    assert SubmissionFold.objects.count() == Submission.objects.count() == RawData.objects.count() == 1
    iris.refresh_from_db()
    assert iris.split_state == "DONE"
    # What is there goes on.
    assert finish(result())
    assert api.post("testpredictions/new/", {}).ids == [1]
    free[place] = GIB
    for path, body in requests(iris):
        assert api.post(path, body).status in (200, 201)


def test_the_disk_of_the_database_counts_where_it_is_a_file(api, raw, free, settings, tmp_path, monkeypatch):
    file = {"ENGINE": "django.db.backends.sqlite3", "NAME": tmp_path / "base" / "datarun.sqlite3"}
    monkeypatch.setattr(pressure.settings, "DATABASES", {"default": file})
    free["base"] = 1
    assert "the database" in refused(api.post("rawdata/", data_set("second")), 507)


def test_it_looks_at_the_disk_where_a_folder_will_be(tmp_path):
    there = os.statvfs(tmp_path)
    found = pressure.free_bytes(tmp_path / "not" / "yet")
    assert abs(found - there.f_bavail * there.f_frsize) < GIB


@pytest.fixture
def hung(monkeypatch, settings):
    """The disk of submissions hangs until it is set."""
    settings.MIN_FREE_BYTES = 1
    back, looks = threading.Event(), []

    def look(path):
        if path.name == "dir_submission":
            looks.append(path)
            back.wait(120)
        return GIB

    monkeypatch.setattr(pressure, "free_bytes", look)
    monkeypatch.setattr(pressure, "LOOK_SECONDS", 0.05)
    yield back, looks
    back.set()


def test_a_disk_that_hangs_holds_nobody_up(api, iris, settings, hung, monkeypatch):
    back, looks = hung
    settings.MIN_FREE_BYTES = 0
    api.new_fold(iris)
    settings.MIN_FREE_BYTES = 1
    # Rows alone: accepted. Files: refused instead of a thread that hangs with the disk.
    assert api.post("submissionfold/", fold(2)).status == 201
    assert "does not answer" in refused(api.new_fold(iris, 3, submission=3), 503)
    assert len(looks) == 1  # one thread hangs, whoever asks
    back.set()
    monkeypatch.setattr(pressure, "LOOK_SECONDS", 60)
    assert api.new_fold(iris, 3, submission=3).status == 201


def test_rows_alone_have_the_disks_looked_at_once_a_while(api, iris, monkeypatch, settings):
    """What is to be written has its disk looked at each time: a thread that writes to one that hangs hangs too."""
    looks = Counter()
    monkeypatch.setattr(pressure, "free_bytes", lambda path: looks.update([path.name]) or 100 * GIB)
    monkeypatch.setattr(pressure, "REMEMBER_SECONDS", 3600)
    for key in (1, 2):
        assert api.new_fold(iris, key, submission=key).status == 201
    before = looks["dir_data"], looks["dir_submission"]
    for key in (3, 4):
        assert api.post("submissionfold/", fold(key)).status == 201
    assert (looks["dir_data"], looks["dir_submission"]) == before == (0, 2)  # the first when the data set came
    monkeypatch.setattr(pressure, "REMEMBER_SECONDS", 0)
    assert api.post("submissionfold/", fold(5)).status == 201
    assert (looks["dir_data"], looks["dir_submission"]) == (1, 3)


def test_a_disk_that_is_gone_is_not_full(api, iris, monkeypatch, settings):
    api.new_fold(iris)

    def look(path):
        raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")

    monkeypatch.setattr(pressure, "free_bytes", look)
    assert api.post("submissionfold/", fold(2)).status == 201
    refused(api.new_fold(iris, 3, submission=3), 503)


@pytest.fixture
def full_after(monkeypatch):
    """full_after(n, error): the n-th folder of files to be stored is the last that has room."""

    def set_up(count: int, number: int = errno.ENOSPC):
        left = [count]
        save = storage.save_files

        def save_files(folder, data, **how):
            if not left[0]:
                folder.mkdir(parents=True, exist_ok=True)
                (folder / "half").write_bytes(b"half of a fi")
                raise OSError(number, os.strerror(number))
            left[0] -= 1
            save(folder, data, **how)

        monkeypatch.setattr(storage, "save_files", save_files)

    return set_up


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT], ids=["ENOSPC", "EDQUOT"])
def test_a_disk_that_gets_full_while_storing_leaves_nothing(api, iris, queues, disk, full_after, number):
    before = disk()
    full_after(1, number)
    bodies = [new_fold(iris, key, submission=key) for key in (1, 2)]
    refused(api.post("submissionfold/bulk/", bodies), 507)
    assert disk() == before
    assert not Submission.objects.exists()
    assert not SubmissionFold.objects.exists()
    assert queues.folds() == []
    refused(api.post("rawdata/", data_set("second")), 507)
    assert disk() == before
    assert RawData.objects.count() == 1


def test_files_that_were_there_before_stay(api, iris, disk, full_after):
    """A forced submission with the same files finds its folder, which a refusal must not take away."""
    api.new_fold(iris)
    before = disk()
    full_after(1)
    bodies = [new_fold(iris, 1, force="submission"), new_fold(iris, 2, submission=2)]
    refused(api.post("submissionfold/bulk/", bodies), 507)
    assert disk() == before
    assert list(SubmissionFold.objects.values_list("pk", flat=True)) == [1]


def test_large_indices_that_find_no_room_leave_nothing(api, iris, disk, monkeypatch):
    api.new_fold(iris)
    before = disk()
    monkeypatch.setattr(payloads, "INLINE_BYTES", 10)
    keep = payloads.keep

    def fail(pieces, name):
        if name.endswith("test_is"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return keep(pieces, name)

    monkeypatch.setattr(payloads, "keep", fail)
    refused(api.post("submissionfold/", fold(2)), 507)
    assert disk() == before
    assert SubmissionFold.objects.count() == 1


@pytest.mark.django_db(transaction=True)
@pytest.mark.skipif(connection.vendor != "sqlite", reason="the database is a server's")
def test_a_database_without_room_is_a_full_disk(api, iris, disk):
    api.new_fold(iris)
    before = disk()
    with connection.cursor() as cursor:
        [pages] = cursor.execute("PRAGMA page_count").fetchone()
        cursor.execute(f"PRAGMA max_page_count = {pages}")
        try:
            refused(api.post("submissionfold/bulk/", [fold(key) for key in range(2, 500)]), 507)
        finally:
            cursor.execute("PRAGMA max_page_count = 1073741823")
    assert disk() == before
    assert SubmissionFold.objects.count() == 1
    assert api.post("submissionfold/", fold(2)).status == 201


@pytest.mark.parametrize(("code", "status"), [("53100", 507), ("57014", 500)], ids=["disk full", "another error"])
def test_a_server_of_the_database_without_room_is_a_full_disk(api, iris, monkeypatch, code, status):
    cause = Exception("could not extend file")
    cause.pgcode = code  # as psycopg2's has it

    def fail(*args, **more):
        raise OperationalError("could not extend file") from cause

    monkeypatch.setattr(SubmissionFold.objects, "bulk_create", fail)
    api.client.raise_request_exception = False
    assert api.new_fold(iris).status == status


def test_another_fault_of_the_disk_is_no_full_one(api, iris, full_after):
    full_after(0, errno.EIO)
    api.client.raise_request_exception = False
    assert api.new_fold(iris).status == 500
