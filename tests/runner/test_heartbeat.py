"""What a runner says of itself, and that nothing waits for it."""

import threading
import time
from types import SimpleNamespace

import pytest
from celery.signals import worker_shutdown, worker_shutting_down
from kombu.exceptions import OperationalError

from runner import heartbeat, packages, share, tasks
from runner.jobs import Outcome
from tests.runner.helpers import wait_until


class Connection:
    """What the heartbeat does with a broker."""

    default_channel = None

    def __init__(self, app):
        self.app = app

    def ensure_connection(self, max_retries):
        assert max_retries == 0  # None is for ever
        self.app.connect()

    def release(self):
        self.app.released += 1


class App:
    """A Celery application whose broker is a list."""

    def __init__(self):
        self.reports: list[dict] = []
        self.options: dict = {}
        self.connected = self.released = 0
        self.connect = lambda: None
        self.amqp = SimpleNamespace(
            queues=SimpleNamespace(consume_from={"L": 1, "celery": 1}), Producer=lambda *_, **__: None
        )

    def connection_for_write(self, **_):
        self.connected += 1
        return Connection(self)

    def send_task(self, name, args, **options):
        assert name == "runapp.tasks.save_runner"
        self.reports += args
        self.options = options


@pytest.fixture
def app(monkeypatch):
    """The application of a worker that serves L and celery; what was started is ended with the test."""
    monkeypatch.setenv("DATARUN_SLOTS", "3")
    monkeypatch.setattr(heartbeat, "busy", {})
    monkeypatch.setattr(heartbeat, "PERIOD", 1000)
    monkeypatch.setattr(heartbeat, "LAST_WORD", 60)
    yield App()
    worker_shutdown.send(sender=None)


@pytest.fixture
def started(app):
    heartbeat.start(SimpleNamespace(app=app, hostname="celery@here"))
    wait_until(lambda: app.reports)
    return app


@pytest.fixture
def hasty(app, monkeypatch):
    monkeypatch.setattr(heartbeat, "PERIOD", 0.01)


def test_it_works(started):
    report = started.reports[0]
    assert time.time() - report.pop("started_at") < 10
    assert report.pop("version")
    assert report == {
        "name": "celery@here",
        "state": "up",
        "number": 1,
        "queues": ["celery", "L"],
        "configured": ["celery", "L"],
        "slots": 3,
        "busy": [],
        "soft_time_limit": 300.0,
        "hard_time_limit": 360.0,
        "share": True,
        "packages": packages.installed(),
    }


def test_the_broker_drops_a_report_that_nobody_takes(started):
    """It counts the seconds: a moment of the runner's clock would be wrong where the clock is."""
    assert started.options["expiration"] == heartbeat.EXPIRES
    assert "expires" not in started.options
    assert started.options["retry"] is False


def test_it_reports_again_and_again_over_one_connection(hasty, started):
    wait_until(lambda: len(started.reports) > 3)
    assert [report["number"] for report in started.reports[:4]] == [1, 2, 3, 4]
    assert len({report["started_at"] for report in started.reports}) == 1
    assert started.connected == 1


def test_a_worker_that_serves_no_work_queue_reports_nothing(app):
    app.amqp.queues.consume_from = {"master_periodic": 1}
    heartbeat.start(SimpleNamespace(app=app, hostname="master@here"))
    assert heartbeat.running == []


def test_while_the_share_is_gone_it_takes_from_no_queue(hasty, started, monkeypatch):
    started.amqp.queues.consume_from = {}
    monkeypatch.setattr(share, "is_there", lambda: False)
    wait_until(lambda: not started.reports[-1]["share"])
    assert (started.reports[-1]["queues"], started.reports[-1]["configured"]) == ([], ["celery", "L"])


def test_a_worker_that_is_told_to_stop_says_so_at_once_and_again_when_it_has_stopped(started):
    worker_shutting_down.send(sender="celery@here", sig="TERM", how="Warm", exitcode=0)
    wait_until(lambda: len(started.reports) == 2)
    worker_shutdown.send(sender=None)
    assert [report["state"] for report in started.reports] == ["up", "stopping", "stopped"]
    assert [report["queues"] for report in started.reports[1:]] == [[], []]
    assert started.released == 1


def test_a_broker_that_is_away_is_no_more_than_a_debug_line(hasty, app, caplog):
    def away():
        app.tried = True
        raise OperationalError("no route")

    app.connect = away
    heartbeat.start(SimpleNamespace(app=app, hostname="celery@here"))
    wait_until(lambda: app.released > 1)
    assert caplog.text == ""
    app.connect = lambda: None
    wait_until(lambda: app.reports)


def test_a_broker_that_hangs_holds_up_no_end(app, monkeypatch):
    monkeypatch.setattr(heartbeat, "LAST_WORD", 0.1)
    goes_on = threading.Event()
    app.connect = lambda: goes_on.wait(300)
    heartbeat.start(SimpleNamespace(app=app, hostname="celery@here"))
    began = time.monotonic()
    worker_shutdown.send(sender=None)
    assert time.monotonic() - began < 60
    goes_on.set()


def test_a_disk_that_hangs_holds_up_no_last_word(started, monkeypatch):
    monkeypatch.setattr(share, "is_there", lambda: time.sleep(600))
    worker_shutdown.send(sender=None)
    assert started.reports[-1]["state"] == "stopped"


# --- what is busy


@pytest.fixture
def at_work(monkeypatch):
    """at_work(task, message): run it; returns what was busy meanwhile."""
    seen: list = []

    def look(*_):
        seen.extend([dict(one) for one in heartbeat.busy.values()])
        return Outcome()

    monkeypatch.setattr(tasks, "_send", lambda *_, **__: None)
    monkeypatch.setattr(tasks, "_fold_job", look)
    monkeypatch.setattr(tasks, "_on_share", look)

    def run(task, message):
        task.apply(args=[message], task_id="a-task")
        return seen

    return run


def test_a_fold_takes_a_slot_while_it_runs(app, at_work):
    [busy] = at_work(tasks.train_test_submission_fold, {"databoard_sf_id": 7})
    assert time.time() - busy.pop("since") < 10
    assert busy == {"databoard_sf_id": 7, "raw_data_id": None}
    assert heartbeat.busy == {}


def test_a_split_takes_a_slot_too(app, at_work):
    busy = at_work(tasks.prepare_data, {"raw_data_id": 3, "folder": "birds"})[0]
    assert (busy["databoard_sf_id"], busy["raw_data_id"]) == (None, 3)
    assert heartbeat.busy == {}


def test_a_message_that_comes_twice_takes_no_second_place(app, monkeypatch):
    """The second is dropped; the fold still runs."""
    monkeypatch.setattr(tasks, "_send", lambda *_, **__: None)
    after: list = []

    def again(*_):
        if not after:
            task, message = tasks.train_test_submission_fold, {"databoard_sf_id": 7}
            second = threading.Thread(target=lambda: task.apply(args=[message], task_id="a-task"))
            second.start()
            second.join()
            after.extend(heartbeat.busy.values())
        return Outcome()

    monkeypatch.setattr(tasks, "_fold_job", again)
    tasks.train_test_submission_fold.apply(args=[{"databoard_sf_id": 7}], task_id="a-task")
    assert [busy["databoard_sf_id"] for busy in after] == [7]


def test_it_reports_what_is_busy(hasty, started):
    heartbeat._begin(tasks.train_test_submission_fold, [{"databoard_sf_id": 7}])
    wait_until(lambda: started.reports[-1]["busy"])
    assert started.reports[-1]["busy"][0]["databoard_sf_id"] == 7
    heartbeat._end()
    wait_until(lambda: not started.reports[-1]["busy"])
