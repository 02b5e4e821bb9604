"""A runner in wrong hands, with the rights that docs/configuration.md gives it: it can stop no result of others.

Each test sends what it must not, then an honest report. The report is taken in: so the master's worker goes on.
"""

import hashlib
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import time
import uuid
import zlib
from itertools import count
from pathlib import Path
from typing import Any

import amqp
import psycopg2
import pytest
from kombu import Connection

from runner import received
from tests.broker.conftest import manage
from tests.broker.test_permissions import DOCUMENTED
from tests.e2e.live import APP, until

FOLDS = """
import uuid
from django.utils import timezone
from runapp.models import *
d = RawData.objects.create(name='hostile', workflow_elements='classifier', target_column='y', split_state='DONE')
s = Submission.objects.create(databoard_s_id=1, files_path='/x/submission_1_abc', raw_data=d)
for pk in range(1, 61):
    task = {'task_id': str(uuid.uuid4()), 'attempts': 1, 'queued_at': timezone.now()}
    SubmissionFold.objects.create(databoard_sf_id=pk, databoard_s=s, **task)
"""


class Master:
    """The master's worker, and what is in its database."""

    def __init__(self, services, folder: Path) -> None:
        self.log, self.home = folder / "log", folder / "home"
        self.environment = os.environ | services.env() | {"DATARUN_HOME": str(self.home)}
        command = [sys.executable, "-m", "celery", "-A", "datarun", "worker", "-Q", "master_periodic", "-c", "1"]
        command += ["-n", "master@one", "-l", "info"]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, cwd=APP, env=self.environment, stdout=log, stderr=log)
        env = services.env()
        self.database = psycopg2.connect(
            host=env["DR_DATABASE_HOST"],
            port=env["DR_DATABASE_PORT"],
            dbname=env["DR_DATABASE_NAME"],
            user=env["DR_DATABASE_USER"],
            password=env["DR_DATABASE_PASSWORD"],
        )
        self.database.autocommit = True

    def rows(self, query: str, *values) -> list[tuple]:
        with self.database.cursor() as cursor:
            cursor.execute(query, values)
            return cursor.fetchall()

    def fold(self, pk: int) -> tuple:
        """state, runner and attempts."""
        [row] = self.rows("SELECT state, runner, attempts FROM runapp_submissionfold WHERE databoard_sf_id = %s", pk)
        return row

    def stop(self) -> None:
        self.database.close()
        self.process.terminate()
        self.process.wait(60)


class Sender:
    """Sends to the master with the rights of a user. user: what its messages say of themselves."""

    def __init__(self, address: str, user: str) -> None:
        self.user, self.connection = user, Connection(address, transport_options={"confirm_publish": True})
        self.channel: Any = self.connection.channel()

    def send(self, task: str, message, **how) -> None:
        """how: signed, and whatever of a message is to be different."""
        number = str(uuid.uuid4())
        headers = {"lang": "py", "task": f"runapp.tasks.{task}", "id": number, **how.pop("headers", {})}
        body = how.pop("body", None)
        if body is None:
            body = json.dumps([[message], how.pop("kwargs", {}), how.pop("embed", {})])
        how = {"content_type": "application/json", "content_encoding": "utf-8"} | how
        if how.pop("signed", True):
            how["user_id"] = self.user
        self.publish(amqp.Message(body, application_headers=headers, correlation_id=number, **how))

    def publish(self, message: amqp.Message) -> None:
        self.channel.basic_publish(message, exchange="datarun.results", routing_key="master_periodic")


@pytest.fixture(scope="module")
def master(declared, tmp_path_factory):
    manage(declared, "shell", "-c", FOLDS)
    master = Master(declared, tmp_path_factory.mktemp("master"))
    yield master
    master.stop()
    manage(declared, "shell", "-c", "from runapp.models import *; RawData.objects.all().delete()")


@pytest.fixture(scope="module")
def hostile(declared, master):
    """The runner `bad`."""
    rows = dict(re.findall(r"^\| (configure|write|read) \| `(.*)` \|$", DOCUMENTED, re.MULTILINE))
    rules = [rows[name].replace("\\|", "|").replace("NAME", "bad") for name in ("configure", "write", "read")]
    sender = Sender(declared.rabbitmq.add_user("runner-bad", *rules), "runner-bad")
    yield sender
    sender.connection.release()


@pytest.fixture(scope="module")
def other(declared, master):
    """The administrator's own user, who speaks for all other runners."""
    sender = Sender(declared.rabbitmq.url, declared.rabbitmq.broker_user)
    yield sender
    sender.connection.release()


numbers = count(1)


def report(name="celery@bad", **more):
    return {
        "name": name,
        "state": "up",
        "started_at": 1_700_000_000.0,
        "number": next(numbers),
        "queues": [],
        "configured": [],
        "slots": 1,
        "busy": [],
        "soft_time_limit": 1.0,
        "hard_time_limit": 2.0,
        "version": "",
        "share": True,
    } | more


@pytest.fixture
def goes_on(master, other, broker):
    """Call it: all that was sent before has been taken in or dropped, and the worker is the same."""
    pid = master.process.pid

    def check():
        message = report("celery@honest")
        other.send("save_runner", message)
        known = "SELECT 1 FROM runapp_runner WHERE name = %s AND number = %s"
        until(
            lambda: master.rows(known, message["name"], message["number"]), 60, lambda: master.log.read_text()[-3000:]
        )
        assert (master.process.pid, master.process.poll()) == (pid, None)

    return check


folds = count(1)


@pytest.fixture
def fold(master):
    """A fold that waits in its queue, and its task."""
    query = "SELECT databoard_sf_id, task_id FROM runapp_submissionfold WHERE databoard_sf_id = %s"
    [row] = master.rows(query, next(folds))
    return row


def result(fold, **more):
    now = time.time()
    return {
        "databoard_sf_id": fold[0],
        "task_id": fold[1],
        "runner": "celery@bad",
        "started_at": now - 1,
        "finished_at": now,
        "state": "TESTED",
        "error_reason": "",
        "log_messages": "",
        "test_predictions": "AAAA",
        "full_train_predictions": "AAAA",
    } | more


def progress(fold, runner):
    subject = {"databoard_sf_id": fold[0], "task_id": fold[1], "runner": runner, "started_at": time.time()}
    return subject | {"state": "TODO", "hard_time_limit": 360.0}


# --- what Celery would do with a message


WORK: dict[str, Any] = {
    "task": "runapp.tasks.train_test_submission_fold",
    "args": [{"databoard_sf_id": 666}],
    "kwargs": {},
}
WORK |= {"options": {"queue": "L"}, "subtask_type": None, "immutable": True}
LATER = "2099-01-01T00:00:00+00:00"

TAKEN = {
    "eta": {"headers": {"eta": LATER}},
    "expires": {"headers": {"expires": "2000-01-01T00:00:00+00:00"}},
    "timelimit": {"headers": {"timelimit": [0.001, 0.001]}},
    "retries": {"headers": {"retries": 10**9}},
    "shadow": {"headers": {"shadow": "x" * 1000}},
    "stamps": {"headers": {"stamped_headers": ["a"], "stamps": {"a": 1}, "group": "g", "root_id": 7}},
    "result kept": {"headers": {"ignore_result": False}, "reply_to": "L"},
    "callbacks": {"embed": {"callbacks": [WORK], "errbacks": [WORK]}},
    "chain": {"embed": {"chain": [WORK]}},
    "chord": {"embed": {"chord": WORK}, "headers": {"group": "g"}},
    "priority": {"priority": 255},
}
"""Messages that are taken in as if they had none of this."""


@pytest.mark.parametrize("what", TAKEN)
def test_what_is_not_documented_in_a_message_has_no_effect(what, hostile, master, broker, goes_on):
    message = report()
    hostile.send("save_runner", message, **TAKEN[what])
    goes_on()
    assert master.rows("SELECT number FROM runapp_runner WHERE name = 'celery@bad'") == [(message["number"],)]
    assert [broker.waiting(queue) for queue in ("L", "celery", "master_periodic")] == [0, 0, 0]


DROPPED = {
    "compressed": {"headers": {"compression": "zlib"}, "body": zlib.compress(b"[" + b" " * (64 << 20))},
    "another type": {"content_type": "application/x-python-serialize"},
    "zlib as an encoding": {"content_encoding": "zlib", "body": zlib.compress(b" " * (64 << 20))},
    "no JSON": {"body": b"\xff\xfe"},
    "nothing": {"body": b""},
    "deep": {"body": b"[" * 1_000_000},
    "two arguments": {"body": json.dumps([[{}, {}], {}, {}])},
    "an argument that is no object": {"body": json.dumps([[[]], {}, {}])},
    "named arguments": {"kwargs": {"self": 1}},
    "an object": {"body": json.dumps({"task": "runapp.tasks.save_runner", "args": [{}], "kwargs": {}, "eta": LATER})},
    "no id": {"headers": {"id": None}},
    "an id that is a table": {"headers": {"id": {"a": 1}}},
    "an id with a path": {"headers": {"id": "../../x"}},
    "a task that is a number": {"headers": {"task": 7}},
    "a task of runners": {"headers": {"task": WORK["task"]}},
    "a task that nobody has": {"headers": {"task": "celery.backend_cleanup"}},
}
"""Messages that are not taken in at all."""


@pytest.mark.parametrize("what", DROPPED)
def test_a_message_that_is_none_of_ours_is_dropped(what, hostile, master, broker, goes_on):
    before = master.rows("SELECT number FROM runapp_runner WHERE name = 'celery@bad'")
    hostile.send("save_runner", report(), **DROPPED[what])
    goes_on()
    assert broker.waiting("master_periodic") == 0
    assert master.rows("SELECT number FROM runapp_runner WHERE name = 'celery@bad'") == before


def test_a_message_without_end_is_refused_by_the_broker(hostile, goes_on):
    again = Sender(hostile.connection.as_uri(include_password=True), hostile.user)
    with again.connection, pytest.raises(amqp.PreconditionFailed, match="larger than configured"):
        again.send("save_runner", None, body=b" " * (received.MAX_BYTES + 1))
    goes_on()


class Raw(amqp.Message):
    """A message whose properties are these bytes: flags, then what they announce."""

    def __init__(self, flags: int, values: bytes) -> None:
        super().__init__(b"{}")
        self.values = struct.pack(">H", flags) + values

    def _serialize_properties(self) -> bytes:
        return self.values


HEADERS, TIMESTAMP = 1 << 13, 1 << 6


def table(content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + content


def nested(depth: int) -> bytes:
    found = b""
    for _ in range(depth):
        found = b"\x01aF" + table(found)
    return table(found)


UNREADABLE = {
    "a time beyond all": (TIMESTAMP, struct.pack(">Q", 2**64 - 1)),
    "a header with such a time": (HEADERS, table(b"\x01aT" + struct.pack(">Q", 2**64 - 1))),
    "tables in tables": (HEADERS, nested(10_000)),
    "a decimal": (HEADERS, table(b"\x01aD" + struct.pack(">Bi", 255, 1))),
    "a name that is no text": (HEADERS, table(b"\x02\xff\xfeS" + table(b"\xff"))),
}


@pytest.mark.parametrize("what", UNREADABLE)
def test_properties_that_can_not_be_read_stop_nothing(what, hostile, broker, goes_on):
    hostile.publish(Raw(*UNREADABLE[what]))
    goes_on()
    assert broker.waiting("master_periodic") == 0


def test_mending_is_asked_for_by_the_master_alone(hostile, master, goes_on):
    hostile.send("mend", None, body=json.dumps([[], {}, {}]))
    hostile.send("mend", None, body=json.dumps([[], {}, {}]), signed=False)
    goes_on()
    log = master.log.read_text()
    assert "'runner-bad' may not ask" in log and "None may not ask" in log


# --- who may speak for whom


def test_a_result_counts_that_its_runner_has_signed(hostile, master, fold, goes_on):
    hostile.send("save_fold", result(fold))
    goes_on()
    assert master.fold(fold[0]) == ("TESTED", "celery@bad", 1)


NEWS = {
    "save_fold": result,
    "save_progress": lambda fold, **more: progress(fold, more.get("runner", "celery@bad")),
    "save_lost": lambda fold, **more: {**result(fold), **more},
    "save_returned": lambda fold, **more: {"databoard_sf_id": fold[0], "task_id": fold[1], **more},
}


@pytest.mark.parametrize("kind", NEWS)
@pytest.mark.parametrize("how", ["unsigned", "in another's name"])
def test_news_of_somebody_else_count_for_nothing(kind, how, hostile, master, fold, goes_on):
    if how == "unsigned":
        hostile.send(kind, NEWS[kind](fold), signed=False)
    else:
        hostile.send(kind, NEWS[kind](fold, runner="celery@two"))
    goes_on()
    assert master.fold(fold[0]) == ("TODO", "", 1)


def test_the_name_of_another_user_is_refused_by_the_broker(hostile, declared, master):
    sender = Sender(hostile.connection.as_uri(include_password=True), "runner-two")
    with sender.connection, pytest.raises(amqp.PreconditionFailed):
        sender.send("save_runner", report("celery@two"))


@pytest.mark.parametrize("kind", NEWS)
def test_a_fold_that_another_runner_has_announced_is_not_its_own(kind, hostile, other, master, fold, goes_on):
    other.send("save_runner", report("celery@two"))
    other.send("save_progress", progress(fold, "celery@two"))
    hostile.send(kind, NEWS[kind](fold))
    goes_on()
    assert master.fold(fold[0]) == ("TODO", "celery@two", 1)
    other.send("save_fold", result(fold, runner="celery@two"))
    until(lambda: master.fold(fold[0])[:2] == ("TESTED", "celery@two"), 60, master.log.read_text)


def test_the_next_runner_s_result_counts_once_the_first_one_is_gone(hostile, other, master, fold, goes_on):
    other.send("save_runner", report("celery@three"))
    other.send("save_progress", progress(fold, "celery@three"))
    hostile.send("save_progress", progress(fold, "celery@bad"))
    hostile.send("save_fold", result(fold))
    goes_on()
    assert master.fold(fold[0]) == ("TODO", "celery@three", 1)
    later = "UPDATE runapp_submissionfold SET reported_at = reported_at - interval '10 s' WHERE databoard_sf_id = %s"
    master.rows(f"{later} RETURNING 1", fold[0])
    other.send("save_runner", report("celery@three", state="stopped"))
    until(lambda: master.fold(fold[0]) == ("TESTED", "celery@bad", 1), 60, master.log.read_text)


def test_a_report_in_another_s_name_or_unsigned_is_refused(hostile, other, master, goes_on):
    other.send("save_runner", report("celery@two"))
    before = "SELECT number FROM runapp_runner WHERE name = 'celery@two'"
    goes_on()
    known = master.rows(before)
    hostile.send("save_runner", report("celery@two"))
    hostile.send("save_runner", report("celery@two"), signed=False)
    hostile.send("save_runner", report("celery@made-up"), signed=False)
    goes_on()
    assert master.rows(before) == known
    assert master.rows("SELECT name FROM runapp_runner WHERE name = 'celery@made-up'") == []


# --- files on the share


def link(path: Path) -> None:
    path.symlink_to("/dev/zero")


def folder_as_link(path: Path) -> None:
    shutil.rmtree(path.parent)
    path.parent.symlink_to("/dev")


def too_large(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(3 << 30)


BAD_FILES = {
    "a link to a device": link,
    "a pipe": os.mkfifo,
    "a folder": Path.mkdir,
    "a file of 3 GiB": too_large,
    "text that would end the JSON": lambda path: path.write_bytes(b'","new":"'),
    "nothing": lambda path: None,
    "a folder of payloads that is a link": folder_as_link,
}


@pytest.mark.parametrize("what", BAD_FILES)
def test_a_bad_file_on_the_share_is_a_fault_of_the_infrastructure(what, hostile, master, fold, goes_on):
    large = master.home / "submission" / ".large"
    if large.is_symlink():
        large.unlink()
    large.mkdir(parents=True, exist_ok=True)
    name = f"{fold[1]}.test_predictions.x"
    BAD_FILES[what](large / name)
    content = (large / name).read_bytes() if what.startswith("text") else b""
    digest = hashlib.sha256(content).hexdigest()
    hostile.send("save_fold", result(fold, test_predictions=f"@{digest}/{name}"))
    goes_on()
    until(lambda: master.fold(fold[0]) == ("TODO", "", 2), 60, master.log.read_text)


def test_the_files_of_another_fold_stay(hostile, master, fold, goes_on):
    file = master.home / "submission" / ".large" / f"{uuid.uuid4()}.test_predictions.x"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("AAAA")
    named = {"test_predictions": f"@{'0' * 64}/{file.name}"}
    hostile.send("save_fold", result(fold, **named))
    hostile.send("save_fold", result(fold, state="ERROR", error_reason="infrastructure", train_is=f"@0/{file.name}"))
    goes_on()
    assert file.read_text() == "AAAA"
