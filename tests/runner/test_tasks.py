"""The tasks of a runner, from the message to the result; what they would send is caught before the broker."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from celery.exceptions import Reject
from kombu.exceptions import OperationalError

from runner import config, copies, digests, intake, payloads, revoked, spool, tasks
from runner.jobs import Failure, Outcome, Reason, version_name
from test_files.kits import DIGITS, IRIS
from tests import reference
from tests.runner.helpers import split_job, wait_until

TASK_ID = "0b7e6c1a-task"
FIRST, SECOND = version_name("version-1"), version_name("version-2")

SEND = tasks._send

MEASURES = {"train_time": 0.5, "train_cpu_time": 0.25, "train_memory": 100}


@pytest.fixture(autouse=True)
def kept(tmp_path, monkeypatch):
    """What the worker must not forget, with a folder of the test's own; what it would send is refused."""

    def refuse(name, message):
        raise ConnectionRefusedError("no broker in these tests")

    kept = spool.Spool(tmp_path / "spool", refuse, pause=60)
    monkeypatch.setattr(tasks, "kept", lambda: kept)
    yield kept
    with kept._sending, kept._lock:
        kept._left.clear()  # its thread ends
    kept.close()


@pytest.fixture(autouse=True)
def share(tmp_path, monkeypatch):
    """The shared disk: a data set `birds` with its raw files, nothing split yet, and the submission `sub`."""
    monkeypatch.setenv("DIR_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("DIR_SUBMISSION", str(tmp_path / "submission"))
    raw = tmp_path / "data" / "birds"
    raw.mkdir(parents=True)
    split_job(IRIS, raw)
    shutil.copytree(IRIS.submission_folder("forest"), tmp_path / "submission" / "sub")
    return tmp_path


@pytest.fixture
def sent(monkeypatch):
    """(name, message) of all that is sent; each must be JSON. No progress, unless a test asks for it."""
    monkeypatch.setattr(tasks, "PROGRESS_AFTER", 60)
    messages = []

    def send(task, name, message, wait=True):
        messages.append((name, json.loads(json.dumps(message))))

    monkeypatch.setattr(tasks, "_send", send)
    return messages


@pytest.fixture
def real(executor, monkeypatch):
    monkeypatch.setattr(tasks, "executor", lambda: executor)


@pytest.fixture
def fake(monkeypatch):
    """fake(run) makes run(job, on_stage) the executor's run_fold and run_split."""

    def fake(run):
        class Fake:
            def run_fold(self, job, on_stage):
                return run(job, on_stage)

            def run_split(self, job):
                return run(job, None)

        monkeypatch.setattr(tasks, "executor", Fake)

    return fake


def fold_message(train_is=None, **changes):
    data = {
        "folder": "birds",
        "target_column": IRIS.target_column,
        "workflow_elements": IRIS.workflow_elements.split(","),
        "custom": False,
    }
    text = payloads.pack(np.arange(100) if train_is is None else train_is, f"{TASK_ID}.train_is")
    message = {"databoard_sf_id": 7, "data": data, "submission": "sub", "train_is": text, "highest_test_row": 0}
    return message | changes


def split_message(**changes):
    return {
        "raw_data_id": 3,
        "folder": "birds",
        "name": "iris",
        "target_column": IRIS.target_column,
        "custom": False,
        "held_out_test": IRIS.held_out_test,
        "random_state": IRIS.random_state,
        "workflow_elements": ["classifier"],
    } | changes


def run(task, message, task_id=TASK_ID):
    return task.apply(args=[message], task_id=task_id)


def use(share, version):
    """Let the folds use this version of the data set, as the master does."""
    link = share / "data" / "birds" / "current"
    link.unlink(missing_ok=True)
    link.symlink_to(version)


@pytest.fixture
def split(share, real, sent):
    run(tasks.prepare_data, split_message(), "version-1")
    use(share, FIRST)
    sent.clear()


# --- splits ------------------------------------------------------------------------------------------


def test_a_split_reports_its_rows(share, sent, real):
    result = run(tasks.prepare_data, split_message())
    assert result.get() == {"train_rows": 120, "test_rows": 30}
    [(name, message)] = sent
    assert name == "runapp.tasks.save_split"
    assert message.pop("runner")
    assert message.pop("sums") == sums(share, version_name(TASK_ID))
    assert message == {"raw_data_id": 3, "task_id": TASK_ID, "rows": [120, 30], "reason": None, "log": ""}
    assert {path.name for path in (share / "data" / "birds" / version_name(TASK_ID)).iterdir()} == {
        "iris.csv",
        "train.csv",
        "test.csv",
        "types.json",
    }


def test_a_custom_split_reports_its_rows(share, sent, real):
    (share / "data" / "digits").mkdir()
    split_job(DIGITS, share / "data" / "digits")
    message = split_message(raw_data_id=4, folder="digits", name="digits", target_column="", custom=True)
    result = run(tasks.custom_prepare_data, message)
    assert tuple(result.get().values()) == tuple(sent[0][1]["rows"]) == tuple(map(len, DIGITS.truth()))


def test_a_split_that_fails_is_a_failure_of_the_task_too(sent, real):
    result = run(tasks.prepare_data, split_message(target_column="kind"))
    assert result.state == "FAILURE"
    with pytest.raises(tasks.SplitError, match=r"^ERROR\(split data\): .*no target column 'kind'"):
        result.get()
    [(name, message)] = sent
    assert name == "runapp.tasks.save_split"
    assert (message["rows"], message["reason"]) == (None, "data")
    assert message["log"].startswith("ERROR(split data): ")


@pytest.mark.parametrize("gone", ["data", "data/birds", "data/birds/raw"])
def test_a_split_without_the_share_is_the_infrastructures_fault(gone, share, sent, real):
    shutil.rmtree(share / gone)
    assert run(tasks.prepare_data, split_message()).state == "FAILURE"
    [(_, message)] = sent
    assert message["reason"] == "infrastructure"
    assert "is the disk mounted?" in message["log"]


# --- folds -------------------------------------------------------------------------------------------


def test_a_fold_sends_its_result(split, sent):
    train_is = np.random.default_rng(1).permutation(120)[:90]
    result = run(tasks.train_test_submission_fold, fold_message(train_is))
    assert result.get() == {"databoard_sf_id": 7, "state": "TESTED"}
    [(name, message)] = sent
    assert name == "runapp.tasks.save_fold"
    assert (message["databoard_sf_id"], message["task_id"], message["state"]) == (7, TASK_ID, "TESTED")
    assert (message["log_messages"], message["error_reason"]) == ("", "")
    assert message["started_at"] <= message["finished_at"] <= message["started_at"] + 60
    assert message["runner"]
    for measure in ("train", "validation", "test"):
        assert message[f"{measure}_time"] > 0
    expected = reference.predict(IRIS, IRIS.submission_folder("forest"), train_is)
    for name, by_hand in zip(("full_train_predictions", "test_predictions"), expected, strict=True):
        assert payloads.unpack(message[name], "<f8", 1 << 30).tobytes() == by_hand.tobytes()
        assert message[f"{name}_shape"] == [*by_hand.shape]


def test_a_fold_that_fails_sends_what_was_done_before(share, split, sent):
    path = share / "submission" / "sub" / "classifier.py"
    code = path.read_text().replace(
        "def predict_proba(self, X):", "def predict_proba(self, X):\n        print('why')\n        1 / 0"
    )
    path.write_text(code.replace("self.forest.fit", "print('here'); self.forest.fit"))
    (share / "submission" / "sub" / "calibrator.py").unlink()
    message = fold_message()
    message["data"]["workflow_elements"] = ["feature_extractor", "classifier"]
    assert run(tasks.train_test_submission_fold, message).get() == {"databoard_sf_id": 7, "state": "ERROR"}
    name, message = sent[-1]
    assert name == "runapp.tasks.save_fold"
    assert (message["state"], message["error_reason"]) == ("ERROR", "user_code")
    log = message["log_messages"]
    assert log.startswith('ERROR(validation): Traceback (most recent call last):\n  File "classifier.py", line ')
    assert log.endswith("ZeroDivisionError: division by zero\nOutput:\nhere\nwhy\n")
    assert message["train_time"] > 0
    assert "test_time" not in message
    assert "full_train_predictions" not in message
    assert "full_train_predictions_shape" not in message


def test_notes_stand_in_the_log_of_a_fold_without_error(share, split, sent, fake):
    fake(lambda job, on_stage: Outcome("TESTED", notes=["validation: 3 of 30", "test: 1 of 10"]))
    run(tasks.train_test_submission_fold, fold_message())
    assert sent[-1][1]["state"] == "TESTED"
    assert sent[-1][1]["log_messages"] == "validation: 3 of 30\ntest: 1 of 10"


def test_the_job_is_what_the_message_says(share, split, sent, fake):
    jobs = []
    fake(lambda job, on_stage: jobs.append(job) or Outcome())
    run(tasks.train_test_submission_fold, fold_message(np.array([4, 2]), highest_test_row=7))
    [job] = jobs
    assert job.data.folder == share / "data" / "birds" / FIRST
    assert (job.data.target_column, job.data.custom) == ("species", False)
    assert job.data.workflow_elements == ("feature_extractor", "classifier", "calibrator")
    assert job.submission == share / "submission" / "sub"
    assert job.train_is.dtype == np.int64
    assert job.train_is.tolist() == [4, 2]
    assert job.highest_test_row == 7


def test_a_fold_keeps_the_split_that_it_started_with(share, split, sent, fake):
    (share / "data" / "birds" / SECOND).mkdir()
    jobs = []

    def split_again(job, on_stage):
        use(share, SECOND)
        jobs.append(job)
        return Outcome()

    fake(split_again)
    run(tasks.train_test_submission_fold, fold_message())
    run(tasks.train_test_submission_fold, fold_message())
    assert [job.data.folder.name for job in jobs] == [FIRST, SECOND]


def test_many_indices_and_predictions_travel_over_the_shared_disk(share, split, sent, fake):
    predictions = np.random.default_rng(1).random((30_000, 10))
    indices = np.random.default_rng(1).permutation(1_000_000)

    def check(job, on_stage):
        assert np.array_equal(job.train_is, indices)
        return Outcome("TESTED", full_train_predictions=predictions, test_predictions=predictions[:3])

    fake(check)
    message = fold_message(indices)
    assert payloads.is_file(message["train_is"])
    run(tasks.train_test_submission_fold, message)
    result = sent[-1][1]
    assert len(json.dumps(result)) < 10_000
    assert payloads.is_file(result["full_train_predictions"])
    assert not payloads.is_file(result["test_predictions"])
    assert payloads.unpack(result["full_train_predictions"], "<f8", 1 << 30).tobytes() == predictions.tobytes()


@pytest.fixture
def local(share, monkeypatch):
    """The folder in which the runner keeps copies."""
    monkeypatch.setenv("DATARUN_LOCAL_DATA", str(share / "local"))
    copies.copies.cache_clear()
    yield share / "local"
    copies.copies.cache_clear()


def test_folds_use_the_local_copy_of_the_version(local, share, split, sent, fake):
    jobs = []
    fake(lambda job, on_stage: jobs.append(job) or Outcome("TESTED"))
    run(tasks.train_test_submission_fold, fold_message())
    assert [job.data.folder for job in jobs] == [local / "birds" / FIRST]
    assert (jobs[0].data.folder / "train.csv").exists()


def test_a_damaged_data_set_is_the_infrastructures_fault(local, share, split, sent, fake):
    (share / "data" / "birds" / FIRST / "train.csv").write_text("other")
    fake(lambda job, on_stage: pytest.fail("nothing can be run"))
    run(tasks.train_test_submission_fold, fold_message())
    assert sent[-1][1]["error_reason"] == "infrastructure"
    assert "train.csv on the shared disk is not what its sums say" in sent[-1][1]["log_messages"]


def sums(share, version):
    """What the master knows of a version of the data set, from its split."""
    return hashlib.sha256((share / "data" / "birds" / f"{version}.sha256").read_bytes()).hexdigest()


def known(share, version=FIRST, **more):
    """A fold's message with all that the master knows of its files."""
    message = fold_message(**more)
    message["data"] |= {"version": version, "sums": sums(share, version)}
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (share / "submission/sub").iterdir()}
    return message | {"submission_digest": digests.of(files)}


def test_a_fold_of_files_that_the_master_knows_is_run(share, split, sent, real):
    run(tasks.train_test_submission_fold, known(share))
    assert sent[-1][1]["state"] == "TESTED"


def test_a_submission_that_was_altered_on_the_share_is_not_run(share, split, sent, real):
    message = known(share)
    file = next((share / "submission/sub").glob("*.py"))
    file.write_text(f"print('altered')\n{file.read_text()}")
    run(tasks.train_test_submission_fold, message)
    assert sent[-1][1]["error_reason"] == "infrastructure"
    assert "sub on the shared disk is not what was sent" in sent[-1][1]["log_messages"]
    assert "altered\n" not in sent[-1][1]["log_messages"]


def test_a_data_set_that_was_altered_with_its_sums_is_not_used(share, split, sent, fake):
    message = known(share)
    version = share / "data" / "birds" / FIRST
    (version / "train.csv").write_text("other")
    copies.write_sums(version)
    fake(lambda job, on_stage: pytest.fail("nothing can be run"))
    run(tasks.train_test_submission_fold, message)
    assert sent[-1][1]["error_reason"] == "infrastructure"
    assert f"{FIRST}.sha256 of data set birds" in sent[-1][1]["log_messages"]


def test_a_fold_whose_data_set_was_split_again_is_sent_anew(share, split, sent, fake):
    """The master knows of the new version, and the message of the old one."""
    message = known(share)
    jobs = []
    fake(lambda job, on_stage: (jobs.append(job), Outcome("TESTED"))[1])
    copies.write_sums(shutil.copytree(share / "data" / "birds" / FIRST, share / "data" / "birds" / SECOND))
    use(share, SECOND)
    run(tasks.train_test_submission_fold, message)
    assert sent == [("runapp.tasks.save_returned", {"databoard_sf_id": 7, "task_id": TASK_ID})]
    run(tasks.train_test_submission_fold, known(share, SECOND, returns=1))
    run(tasks.train_test_submission_fold, message | {"returns": 1})
    assert [job.data.folder.name for job in jobs] == [SECOND, FIRST]


def test_a_split_of_files_that_are_not_what_was_sent_fails(share, sent, fake):
    fake(lambda job, on_stage: pytest.fail("nothing is split"))
    with pytest.raises(tasks.SplitError, match="raw files of data set birds on the shared disk are not"):
        run(tasks.prepare_data, split_message(digest="0" * 64)).get()
    assert (sent[-1][1]["reason"], sent[-1][1]["rows"]) == ("infrastructure", None)


def test_a_split_leaves_the_sums_beside_the_version(share, split):
    subprocess.run(["sha256sum", "--strict", "-c", f"{FIRST}.sha256"], cwd=share / "data" / "birds", check=True)


def test_predictions_for_no_rows_are_sent(share, split, sent, fake):
    fake(lambda job, on_stage: Outcome("TESTED", full_train_predictions=np.ones(3), test_predictions=np.zeros((0, 2))))
    run(tasks.train_test_submission_fold, fold_message())
    assert len(payloads.unpack(sent[-1][1]["test_predictions"], "<f8", 100)) == 0


# --- faults of the infrastructure --------------------------------------------------------------------


@pytest.mark.parametrize(
    "gone", ["data", "data/birds", "data/birds/current", f"data/birds/{FIRST}", "submission", "submission/sub"]
)
def test_a_fold_without_the_share_is_the_infrastructures_fault(gone, share, split, sent, fake):
    message = fold_message()
    path = share / gone
    path.unlink() if path.is_symlink() else shutil.rmtree(path)
    fake(lambda job, on_stage: pytest.fail("nothing can be run"))
    assert run(tasks.train_test_submission_fold, message).get()["state"] == "ERROR"
    [(name, result)] = sent
    assert name == "runapp.tasks.save_fold"
    assert (result["state"], result["error_reason"]) == ("ERROR", "infrastructure")
    assert "is not on the shared disk as this runner sees it: is the disk mounted?" in result["log_messages"]
    assert str(share) not in result["log_messages"]


def _flip(path):
    path.write_bytes(path.read_bytes()[:-9] + b"AAAAAAAA=")


@pytest.mark.parametrize(
    "damage", [_flip, Path.unlink, lambda path: path.write_bytes(b"")], ids=["other bytes", "missing", "empty"]
)
def test_indices_that_are_not_those_sent_are_the_infrastructures_fault(damage, share, split, sent, fake):
    message = fold_message(np.random.default_rng(1).permutation(1_000_000))
    damage(share / "submission" / ".large" / f"{TASK_ID}.train_is")
    fake(lambda job, on_stage: pytest.fail("nothing can be run"))
    assert run(tasks.train_test_submission_fold, message).get()["state"] == "ERROR"
    [(name, result)] = sent
    assert name == "runapp.tasks.save_fold"
    assert (result["state"], result["error_reason"]) == ("ERROR", "infrastructure")


@pytest.mark.parametrize("name", ["..", ".", "../submission", "/etc", "", "sub/../sub"])
def test_names_can_not_leave_the_share(name, share, split, sent, fake):
    fake(lambda job, on_stage: pytest.fail("nothing can be run"))
    run(tasks.train_test_submission_fold, fold_message(submission=name))
    assert sent[-1][1]["error_reason"] == "infrastructure"
    sent.clear()
    run(tasks.prepare_data, split_message(folder=name))
    assert sent[-1][1]["reason"] == "infrastructure"


# --- progress ----------------------------------------------------------------------------------------


@pytest.fixture
def timers(monkeypatch):
    """The timers of the folds' first reports. They come due when a test calls their function, not of themselves."""
    made = []
    monkeypatch.setattr(tasks, "Timer", lambda *args: made.append(threading.Timer(*args)) or made[-1])
    return made


def progress(sent):
    return [message for name, message in list(sent) if name == "runapp.tasks.save_progress"]


def test_a_short_fold_reports_its_end_alone(split, sent, fake):
    def stages(job, on_stage):
        for stage in ("train", "validation", "test"):
            on_stage(stage, MEASURES)
        return Outcome("TESTED")

    fake(stages)
    run(tasks.train_test_submission_fold, fold_message())
    assert [name for name, _ in sent] == ["runapp.tasks.save_fold"]


def test_a_long_fold_reports_that_it_runs_and_then_each_stage(split, sent, fake, monkeypatch):
    monkeypatch.setattr(tasks, "PROGRESS_AFTER", 0.01)
    monkeypatch.setenv("DR_SOFT_TIME_LIMIT", "50")
    monkeypatch.setenv("DR_HARD_TIME_LIMIT", "77")

    def stages(job, on_stage):
        wait_until(lambda: len(progress(sent)) == 1)
        on_stage("train", MEASURES)
        wait_until(lambda: len(progress(sent)) == 2)
        on_stage("validation", {"validation_time": 0.1})
        wait_until(lambda: len(progress(sent)) == 3)
        on_stage("test", {"test_time": 0.1})
        return Outcome("TESTED")

    fake(stages)
    run(tasks.train_test_submission_fold, fold_message())
    started, trained, validated = progress(sent)
    assert [message["state"] for message in (started, trained, validated)] == ["TODO", "TRAINED", "VALIDATED"]
    assert MEASURES.keys().isdisjoint(started)
    assert MEASURES.items() <= trained.items()
    assert {**MEASURES, "validation_time": 0.1}.items() <= validated.items()
    for message in (started, trained, validated):
        assert (message["databoard_sf_id"], message["task_id"], message["hard_time_limit"]) == (7, TASK_ID, 77)
    assert [name for name, _ in sent][-1] == "runapp.tasks.save_fold"


def test_what_was_done_before_the_first_report_is_in_it(split, sent, fake, timers):
    def stages(job, on_stage):
        on_stage("train", MEASURES)
        timers[0].function()
        return Outcome("TRAINED", Failure(Reason.USER_CODE, "validation", "x"))

    fake(stages)
    run(tasks.train_test_submission_fold, fold_message())
    [only] = progress(sent)
    assert only["state"] == "TRAINED"
    assert MEASURES.items() <= only.items()


def test_a_long_fold_is_seen_to_have_started_and_not_after_its_end(split, sent, fake, timers):
    task, seen = tasks.train_test_submission_fold, []

    def stages(job, on_stage):
        seen.append(task.AsyncResult(TASK_ID).state)
        timers[0].function()
        seen.append(task.AsyncResult(TASK_ID).state)
        return Outcome("TESTED")

    task.backend.store_result(TASK_ID, None, "PENDING")  # whatever an earlier test has left there
    fake(stages)
    run(task, fold_message())
    task.backend.store_result(TASK_ID, {}, "SUCCESS")
    timers[0].function()  # late
    assert [*seen, task.AsyncResult(TASK_ID).state] == ["PENDING", "STARTED", "SUCCESS"]


def test_the_end_is_no_progress(split, sent, fake, timers):
    """The timer that is late, between the last stage and the result: the predictions are not there yet."""

    def stages(job, on_stage):
        on_stage("test", {"test_time": 0.1})
        timers[0].function()
        return Outcome("TESTED")

    fake(stages)
    run(tasks.train_test_submission_fold, fold_message())
    assert progress(sent) == []


def test_nothing_is_reported_after_the_end(split, sent, fake, timers):
    before = set(threading.enumerate())
    fake(lambda job, on_stage: Outcome("TESTED"))
    run(tasks.train_test_submission_fold, fold_message())
    assert timers[0].finished.is_set()  # cancelled: it was not due yet
    wait_until(lambda: set(threading.enumerate()) <= before)
    assert [name for name, _ in sent] == ["runapp.tasks.save_fold"]


def test_progress_that_can_not_be_sent_stops_no_fold(split, fake, monkeypatch):
    monkeypatch.setattr(tasks, "PROGRESS_AFTER", 0.0)
    results, refused = [], []

    def send(task, name, message, wait=True):
        if name.endswith("save_progress"):
            assert not wait
            refused.append(message)
            raise OperationalError("the broker is away")
        assert wait
        results.append(message)

    def stages(job, on_stage):
        wait_until(lambda: len(refused) == 1)
        on_stage("train", MEASURES)
        return Outcome("TESTED")

    monkeypatch.setattr(tasks, "_send", send)
    fake(stages)
    assert run(tasks.train_test_submission_fold, fold_message()).get()["state"] == "TESTED"
    assert len(refused) == 2
    assert [message["state"] for message in results] == ["TESTED"]


def test_two_runs_of_one_task_store_their_large_predictions_apart(share):
    outcome = Outcome(state="TESTED", test_predictions=np.random.default_rng(1).random(200_000))
    names = {tasks._fold_result(outcome, "task")["test_predictions"] for _ in range(2)}
    assert len(names) == 2
    for name in names:
        payloads.check(name)


# --- faults of the runner's own ----------------------------------------------------------------------


@pytest.fixture
def judged(sent, monkeypatch):
    """What is said of this runner, and when something is sent."""
    said = []
    real = tasks._send
    monkeypatch.setattr(intake, "rest", lambda why: said.append("rests"))
    monkeypatch.setattr(intake, "worked", lambda: said.append("worked"))
    monkeypatch.setattr(tasks, "_send", lambda *arguments: (said.append("sent"), real(*arguments)))
    return said


@pytest.mark.parametrize("task", ["fold", "split"])
def test_a_runner_that_fails_by_itself_turns_away_before_the_result_is_sent(task, split, judged, fake):
    fake(lambda job, on_stage: Outcome(failure=Failure(Reason.INFRASTRUCTURE, "train", "its slot can't start")))
    if task == "fold":
        run(tasks.train_test_submission_fold, fold_message())
    else:
        run(tasks.prepare_data, split_message())
    assert judged == ["rests", "sent"]


def test_a_runner_that_can_t_store_a_result_turns_away(split, judged, fake, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    message = fold_message()
    monkeypatch.setattr(payloads, "pack", full)
    fake(lambda job, on_stage: Outcome("TESTED", test_predictions=np.zeros(3)))
    run(tasks.train_test_submission_fold, message)
    assert judged == ["rests", "sent"]


@pytest.mark.parametrize("outcome", [Outcome("TESTED"), Outcome(failure=Failure(Reason.USER_CODE, "train", "no"))])
def test_a_runner_that_ends_a_fold_has_worked(outcome, split, judged, fake):
    fake(lambda job, on_stage: outcome)
    run(tasks.train_test_submission_fold, fold_message())
    assert judged == ["worked", "sent"]


def test_a_first_attempt_whose_submission_is_gone_is_no_fault_of_the_runner(share, split, judged):
    """It was replaced after it was sent, and maybe hundreds with it."""
    shutil.rmtree(share / "submission" / "sub")
    run(tasks.train_test_submission_fold, fold_message())
    assert judged == ["sent"]


def test_a_later_attempt_whose_submission_is_not_to_be_seen_is_one(share, split, judged):
    """The master has just looked: it is this runner's view of the disk that is old."""
    shutil.rmtree(share / "submission" / "sub")
    run(tasks.train_test_submission_fold, fold_message(attempt=2))
    assert judged == ["rests", "sent"]


# --- messages that come back -------------------------------------------------------------------------


def run_again(message, deliveries=1, monkeypatch=None):
    """The task as a worker runs it whose message was given to a runner before."""
    monkeypatch.setattr(tasks, "_is_redelivered", lambda task: True)
    monkeypatch.setattr(tasks, "_deliveries", lambda task: deliveries)
    return run(tasks.train_test_submission_fold, message)


def test_a_fold_has_a_mark_while_it_runs(split, sent, fake, kept):
    marks = []

    def look(job, on_stage):
        [path] = kept.own.glob("*.begun")
        marks.append(json.loads(path.read_bytes()))
        return Outcome("TESTED")

    fake(look)
    run(tasks.train_test_submission_fold, fold_message())
    [(name, mark)] = marks
    assert name == "runapp.tasks.save_lost"
    [(_, result)] = sent
    for field in ("databoard_sf_id", "task_id", "runner", "started_at"):
        assert mark[field] == result[field]
    assert list(kept.own.glob("*.begun")) == []


def test_a_split_has_a_mark_while_it_runs(share, sent, fake, kept):
    marks = []

    def look(job, on_stage):
        marks.extend(json.loads(path.read_bytes()) for path in kept.own.glob("*.begun"))
        return Outcome(failure=Failure(Reason.DATA, "split", "no"))

    fake(look)
    run(tasks.prepare_data, split_message())
    [(name, mark)] = marks
    assert (name, mark["raw_data_id"], mark["task_id"]) == ("runapp.tasks.save_lost", 3, TASK_ID)
    assert list(kept.own.glob("*.begun")) == []


def test_a_long_fold_s_mark_outlives_a_power_cut(split, sent, fake, monkeypatch):
    synced = []
    monkeypatch.setattr(tasks, "PROGRESS_AFTER", 0.01)
    monkeypatch.setattr(spool, "_sync", lambda path: synced.append(path.suffix))

    def wait(job, on_stage):
        wait_until(lambda: synced)
        return Outcome("TESTED")

    fake(wait)
    run(tasks.train_test_submission_fold, fold_message())
    assert synced == [".begun"]


def test_a_fold_whose_result_waits_for_the_broker_is_not_run_again(split, sent, fake, kept, monkeypatch):
    kept.send("runapp.tasks.save_fold", {"task_id": TASK_ID})
    fake(lambda job, on_stage: pytest.fail("its result is there"))
    run_again(fold_message(), monkeypatch=monkeypatch)
    assert sent == []


def test_a_fold_that_runs_here_is_not_run_again(split, sent, fake, monkeypatch):
    """Its message comes again when the connection was lost; whether its result is sent yet is of no matter."""
    runs = []

    def again(job, on_stage):
        runs.append(job)
        if len(runs) == 1:
            run_again(fold_message(), monkeypatch=monkeypatch)
        return Outcome("TESTED")

    fake(again)
    run(tasks.train_test_submission_fold, fold_message())
    assert len(runs) == len(sent) == 1


def test_a_fold_that_is_given_back_may_come_back_here(share, split, sent, fake, monkeypatch):
    """Its message may be here again before it is given back, when the connection was lost in between."""
    fake(lambda job, on_stage: Outcome("TESTED"))
    shutil.move(share / "submission" / "sub", share / "away")
    monkeypatch.setattr(tasks.share, "is_there", lambda: False)

    def come_back(why):
        shutil.move(share / "away", share / "submission" / "sub")
        run_again(fold_message(), monkeypatch=monkeypatch)
        raise Reject(why, requeue=True)

    monkeypatch.setattr(tasks.share, "give_back", come_back)
    run(tasks.train_test_submission_fold, fold_message())
    assert [message["state"] for _, message in sent] == ["TESTED"]


def test_a_fold_that_is_sent_anew_is_run_whatever_was_before(split, sent, fake, kept):
    kept.send("runapp.tasks.save_fold", {"task_id": TASK_ID})
    fake(lambda job, on_stage: Outcome("TESTED"))
    run(tasks.train_test_submission_fold, fold_message())
    assert sent[-1][1]["state"] == "TESTED"


def test_a_fold_that_comes_back_is_run(split, sent, fake, monkeypatch):
    fake(lambda job, on_stage: Outcome("TESTED"))
    run_again(fold_message(), tasks.MAX_DELIVERIES - 1, monkeypatch)
    assert sent[-1][1]["state"] == "TESTED"


def test_a_fold_that_comes_back_revoked_is_dropped(split, sent, fake, monkeypatch):
    monkeypatch.setattr(revoked, "is_revoked", lambda task_id: task_id == TASK_ID)
    noted = []
    monkeypatch.setattr(revoked, "revoke", noted.append)
    fake(lambda job, on_stage: pytest.fail("it is not awaited"))
    run_again(fold_message(), monkeypatch=monkeypatch)
    assert sent == []
    assert noted == [TASK_ID]


@pytest.mark.parametrize("task", ["fold", "split"])
def test_what_comes_back_too_often_is_handed_to_the_master(task, share, split, sent, fake, monkeypatch):
    fake(lambda job, on_stage: pytest.fail("it may be what ends its runners"))
    monkeypatch.setattr(tasks, "_is_redelivered", lambda task: True)
    monkeypatch.setattr(tasks, "_deliveries", lambda task: tasks.MAX_DELIVERIES)
    if task == "fold":
        run(tasks.train_test_submission_fold, fold_message())
        assert sent == [("runapp.tasks.save_returned", {"databoard_sf_id": 7, "task_id": TASK_ID})]
    else:
        run(tasks.prepare_data, split_message())
        assert sent == [("runapp.tasks.save_returned", {"raw_data_id": 3, "task_id": TASK_ID})]


def test_last_attempts_run_one_at_a_time(split, sent, fake, monkeypatch):
    """Of two folds on a runner that dies, not both are given up, however often the broker gives a message."""
    monkeypatch.setattr(tasks, "MAX_DELIVERIES", 5)
    running, most = [], []
    go = threading.Event()

    def wait(job, on_stage):
        running.append(job)
        most.append(len(running))
        go.wait(60)
        running.pop()
        return Outcome("TESTED")

    fake(wait)
    last, fresh = fold_message(attempt=3), fold_message(attempt=2)
    threads = [
        threading.Thread(target=run, args=(tasks.train_test_submission_fold, message, f"task-{number}"))
        for number, message in enumerate((last, last, fresh, fresh))
    ]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(running) == 3)
    go.set()
    for thread in threads:
        thread.join()
    assert max(most) == 3
    assert len(sent) == 4


def test_a_runner_whose_disk_is_full_sends_its_result_all_the_same(split, fake, kept, monkeypatch):
    published = []

    def full(name, message):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tasks, "_send", SEND)
    monkeypatch.setattr(kept, "send", full)
    monkeypatch.setattr(tasks, "_publish", lambda name, message, **how: published.append((message, how)))
    fake(lambda job, on_stage: Outcome("TESTED"))
    run(tasks.train_test_submission_fold, fold_message())
    [(message, how)] = published
    assert (message["state"], how) == ("TESTED", {"policy": tasks.RETRY})


# --- the start of a runner ---------------------------------------------------------------------------


@pytest.fixture
def worker():
    """As much of Celery's as is looked at when it starts."""
    pool = type("Pool", (), {"__module__": "celery.concurrency.thread"})
    queues = SimpleNamespace(consume_from=["L"])
    app = SimpleNamespace(amqp=SimpleNamespace(queues=queues))
    return SimpleNamespace(app=app, pool_cls=pool, concurrency=1)


def start(worker, monkeypatch, error):
    def fail():
        raise error

    monkeypatch.setattr(copies, "copies", lambda: None)
    monkeypatch.setattr(tasks, "executor", lambda: None)
    monkeypatch.setattr(tasks, "kept", fail)
    monkeypatch.setenv("DATARUN_SLOTS", "1")
    with pytest.raises(SystemExit) as ended:
        tasks._start_executor(worker)
    return ended.value.code


def test_a_runner_whose_disk_is_full_at_its_start_is_started_again(worker, monkeypatch, capsys):
    assert start(worker, monkeypatch, OSError(28, "No space left on device")) == 1
    assert "No space left on device" in capsys.readouterr().err


def test_a_runner_that_can_t_keep_its_promises_is_not(worker, monkeypatch):
    assert start(worker, monkeypatch, ValueError("DATARUN_SANDBOX is 'maybe'")) == config.EXIT_REFUSED


# --- what a runner is --------------------------------------------------------------------------------


def test_a_runner_knows_neither_django_nor_the_master(tmp_path):
    """Nor does a process that only sends tasks load what runs them."""
    code = """
import sys
sys.modules |= dict.fromkeys(("django", "rest_framework", "runapp", "datarun"))  # can't be imported from here on
import runner.celery
runner.celery.app.loader.import_default_modules()
assert "runapp.tasks.train_test_submission_fold" in runner.celery.app.tasks
assert {"pandas", "sklearn"}.isdisjoint(sys.modules)
import runner.sandbox.start
"""
    ours = ("DR_", "RMQ_", "DATARUN_", "DJANGO_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    environment |= {"PYTHONPATH": str(Path(tasks.__file__).parents[1]), "DATARUN_HOME": str(tmp_path)}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_a_message_outlives_the_worker_that_died_over_it():
    from runner import celeryconfig

    assert celeryconfig.task_acks_late
    assert celeryconfig.task_reject_on_worker_lost
    assert celeryconfig.worker_prefetch_multiplier == 1
    assert {queue.name for queue in celeryconfig.task_queues} == {"L", "H", "celery", "master_periodic"}
