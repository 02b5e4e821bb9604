"""A runner under a master of another release: messages as the last release sent them, and as it reads them."""

import contextlib
import json
from types import SimpleNamespace

import numpy as np
import pytest

from runner import config, heartbeat, spool, tasks
from runner.jobs import Outcome
from tests.messages import UNKNOWN, check, recorded
from tests.runner.helpers import wait_until

MEASURES = [
    "train_time",
    "validation_time",
    "test_time",
    "train_cpu_time",
    "test_cpu_time",
    "train_memory",
    "test_memory",
]
SPLIT = {"prepare_data": "", "custom_prepare_data": "custom "}
"""Task -> how the kinds of its messages to the master begin."""


class Executor:
    """Ends folds and splits at once, well."""

    def __init__(self, reported):
        self.reported = reported

    def run_fold(self, job, on_stage):
        assert job.train_is.dtype == np.int64
        wait_until(lambda: self.reported("save_progress"))
        on_stage("train", {"train_time": 0.5, "train_cpu_time": 0.25, "train_memory": 100.0})
        numbers = np.arange(6.0).reshape(3, 2)
        measures = {name: float(number) for number, name in enumerate(MEASURES)}
        return Outcome("TESTED", measures=measures, full_train_predictions=numbers, test_predictions=numbers)

    def run_split(self, job):
        assert job.name and job.source.is_dir()
        job.target.mkdir()
        return Outcome(rows=(9, 3))


@pytest.fixture
def sent(tmp_path, monkeypatch):
    """Kind -> the last message of it to the master: the name of its task, of a split with a word before it."""
    messages = {}

    def publish(name, message, **_):
        messages[name.rpartition(".")[2]] = json.loads(json.dumps(message))

    class Kept(spool.Spool):
        def begun(self, task_id, name, message):
            publish(name, message)  # as the next process does, if this one is killed
            return super().begun(task_id, name, message)

    kept = Kept(tmp_path / "spool", publish)
    monkeypatch.setattr(tasks, "kept", lambda: kept)
    monkeypatch.setattr(tasks, "_publish", publish)
    monkeypatch.setattr(tasks, "PROGRESS_AFTER", 0)
    monkeypatch.setattr(tasks, "executor", lambda: Executor(messages.get))
    return messages


@pytest.fixture(params=[{}, UNKNOWN], ids=["as it was", "with more fields"])
def more(request):
    return request.param


@pytest.fixture
def run(tmp_path, monkeypatch, sent):
    """Run the recorded message of a task; what it names is on the shared disk."""
    for name in ("DIR_DATA", "DIR_SUBMISSION"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setattr(tasks, "_is_redelivered", lambda task: False)
    monkeypatch.setattr("celery.app.task.gethostname", lambda: "celery@runner1")

    def run(task, more):
        message = recorded(task)
        data = config.dir_data() / message.get("data", message)["folder"]
        if "submission" in message:
            (data / "version").mkdir(parents=True)
            (data / "current").symlink_to("version")
            (config.dir_submission() / message["submission"]).mkdir(parents=True)
            message["data"] |= more
        else:
            (data / "raw").mkdir(parents=True)
        return getattr(tasks, task).apply(args=[message | more], task_id=f"task-of-{task}").get()

    return run


def test_it_runs_a_fold(run, more):
    message = recorded("train_test_submission_fold")
    expected = {"databoard_sf_id": message["databoard_sf_id"], "state": "TESTED"}
    assert run("train_test_submission_fold", more) == expected


@pytest.mark.parametrize("task", SPLIT)
def test_it_splits(run, task, more):
    assert run(task, more) == {"train_rows": 9, "test_rows": 3}


def test_messages_to_the_master_have_all_fields_that_the_last_release_reads(run, sent, monkeypatch):
    run("train_test_submission_fold", {})
    kinds = {kind: sent.pop(kind) for kind in ("save_fold", "save_progress", "save_lost")}
    for task, before in SPLIT.items():
        run(task, {})
        kinds[f"{before}save_split"] = sent.pop("save_split")
        kinds["split save_lost"] = sent.pop("save_lost")

    monkeypatch.setattr(tasks, "_is_redelivered", lambda task: True)
    monkeypatch.setattr(tasks, "_deliveries", lambda task: tasks.MAX_DELIVERIES)
    for before, of in (("", "databoard_sf_id"), ("split ", "raw_data_id")):
        request = type("Request", (dict,), {"id": "task-that-came-back"})()
        with contextlib.suppress(tasks.Ignore):
            tasks._check_delivery(SimpleNamespace(request=request), {of: 3})
        kinds[f"{before}save_returned"] = sent.pop("save_returned")

    queues = {"L": None, "celery": None}
    app = SimpleNamespace(amqp=SimpleNamespace(queues=SimpleNamespace(consume_from=queues)))
    worker = heartbeat.Heartbeat(SimpleNamespace(app=app, hostname="celery@runner1"), [*queues])
    kinds["save_runner"] = json.loads(json.dumps(worker._report()))

    assert check(kinds) == []
