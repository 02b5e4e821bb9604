"""GET /readyz: each part that the API needs, looked at for a bounded time."""

import os
import threading
import time
from types import SimpleNamespace

import pytest
from django.core.cache import caches
from django.db import connection

from runapp.services import readiness
from runner import config
from tests.app.helpers import Api

pytestmark = pytest.mark.embedded

ALL_OK = {"database": "ok", "broker": "ok", "cache": "ok", "share": "ok"}


@pytest.fixture
def ready(db, queues):
    return Api(None)


def break_part(monkeypatch, name, read):
    monkeypatch.setitem(readiness.LOOKS, name, readiness.look(name, read))


def test_it_works(ready):
    answer = ready.get("/readyz")
    assert answer.status == 200
    assert answer.body == ALL_OK


def test_it_makes_nothing(ready, tmp_path):
    ready.get("/readyz")
    assert not (tmp_path / "disk").exists()


def test_a_broker_that_is_away_is_named(api, broker_down):
    back = broker_down()
    answer = api.get("/readyz")
    assert answer.status == 503
    assert answer.body.pop("broker").startswith("does not work (")
    assert {name: said for name, said in answer.body.items() if name != "broker"} == {
        name: said for name, said in ALL_OK.items() if name != "broker"
    }
    back()
    assert api.get("/readyz").body == ALL_OK


@pytest.mark.skipif(not config.has_broker(), reason="queues in files are made when they are used")
def test_a_queue_that_is_missing_is_named(ready, queues):
    queues.remove("H")
    try:
        assert ready.get("/readyz").body["broker"] == "has no queue H: run manage.py declare_queues"
    finally:
        queues.purge()


def test_a_folder_that_is_no_folder_is_named(ready, tmp_path, settings):
    settings.DIR_DATA = tmp_path / "file"
    settings.DIR_DATA.touch()
    answer = ready.get("/readyz")
    assert answer.status == 503
    assert answer.body["share"].startswith("does not work (NotADirectoryError)")


def test_it_does_not_read_the_names_of_all_submissions(ready, tmp_path, settings, monkeypatch):
    """There may be a hundred thousand, on a network disk, each few seconds."""
    settings.DIR_SUBMISSION = tmp_path / "many"
    settings.DIR_SUBMISSION.mkdir()
    for number in range(5):
        (settings.DIR_SUBMISSION / f"submission_{number}").touch()
    read = []

    class Names:
        def __init__(self, folder):
            self.names = scandir(folder)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.names.close()

        def __iter__(self):
            return self

        def __next__(self):
            read.append(next(self.names))
            return read[-1]

    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", Names)
    monkeypatch.setattr(os, "listdir", lambda folder: [entry.name for entry in Names(folder)])
    assert ready.get("/readyz").body["share"] == "ok"
    assert len([entry for entry in read if entry.name.startswith("submission_")]) == 1


def test_a_marker_that_is_missing_is_named(ready, tmp_path, monkeypatch):
    monkeypatch.setenv("DATARUN_SHARE_MARKER", str(tmp_path / "marker"))
    assert ready.get("/readyz").body["share"] == "DATARUN_SHARE_MARKER is not there: is the disk mounted?"
    (tmp_path / "marker").touch()
    assert ready.get("/readyz").status == 200


def test_a_cache_that_does_not_keep_is_named(ready, monkeypatch):
    monkeypatch.setattr(type(caches["default"]), "set", lambda *_: None)
    assert ready.get("/readyz").body["cache"] == "does not keep what is stored"


def test_it_says_no_secrets(ready, monkeypatch, caplog):
    """They may stand in what the client of a service says."""

    def read():
        raise OSError("can't reach amqp://ada:secret@host")

    break_part(monkeypatch, "broker", read)
    answer = ready.get("/readyz")
    assert answer.status == 503
    assert b"secret" not in answer.content
    assert answer.body["broker"] == "does not work (OSError): the server's log says more"
    assert "can't reach" in caplog.text


def test_a_part_that_hangs_does_not_hang_the_answer(ready, monkeypatch):
    """Nor does it take a thread for each who asks."""
    goes_on, looks, patience = threading.Event(), [], []

    def read():
        looks.append(1)
        goes_on.wait(120)

    hangs = readiness.look("share", read)

    def begin():
        answer = hangs.begin()
        # Waits less than it is asked to; the other parts, which are well, may take their time.
        return lambda seconds: patience.append(seconds) or answer(0.3)

    monkeypatch.setitem(readiness.LOOKS, "share", SimpleNamespace(begin=begin))
    for _ in range(3):
        answer = ready.get("/readyz")
        assert (answer.status, answer.body["share"]) == (503, "no answer within 60 s")
        assert answer.body["database"] == "ok"
    assert patience == [readiness.PATIENCE] * 3
    assert len(looks) == 1
    goes_on.set()


@pytest.mark.skipif(connection.vendor == "sqlite", reason="its connections cost nothing to leave")
def test_it_leaves_no_connection_to_the_database_behind(ready):
    def count() -> int:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE datname = current_database() AND backend_type = 'client backend'"
            )
            [number] = cursor.fetchone()
        return number

    before = count()
    for _ in range(5):
        ready.get("/readyz")
    deadline = time.monotonic() + 60
    while count() > before:
        assert time.monotonic() < deadline
