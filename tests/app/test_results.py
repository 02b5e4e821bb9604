"""A runner's messages about a fold: its result is taken once, for the task that the fold waits for."""

import errno
import os
import threading
from collections import Counter
from datetime import timedelta

import pytest
from celery.exceptions import Reject
from celery.worker import state
from django.db import IntegrityError, OperationalError
from django.utils import timezone

from runapp import services, tasks
from runapp.models import SubmissionFold
from runapp.services import results
from runner import config, payloads, plainfile
from tests.app.helpers import failure, finish, fold, heard, predictions, progress, result, stored

pytestmark = pytest.mark.embedded


def large(rows: int = 200_000) -> str:
    """Predictions of the first fold past what a message carries, as a runner packs them: on the shared disk."""
    import numpy as np

    numbers = np.random.default_rng(rows).random(rows)
    task_id = SubmissionFold.objects.order_by("pk").values_list("task_id", flat=True).first()
    text = payloads.pack(numbers, f"{task_id}.test_predictions.{rows}")
    assert payloads.is_file(text)
    return text


def large_files() -> set[str]:
    return {path.name for path in config.dir_large().glob("*")}


def test_it_works(sent):
    assert finish(result())

    now = stored()
    assert (now.state, now.error_reason, now.log_messages, now.new) == ("TESTED", "", "", True)
    assert (now.test_predictions, now.full_train_predictions) == (predictions(3), predictions(9))
    assert (now.test_predictions_shape, now.full_train_predictions_shape) == ([3, 3], [9, 3])
    assert (now.train_time, now.validation_time, now.test_time) == (1.5, 0.25, 0.125)
    assert (now.train_cpu_time, now.test_cpu_time) == (1.25, 0.0625)
    assert (now.train_memory, now.test_memory) == (2048, 1024)
    assert now.runner == "runner@here"
    assert now.started_at < now.finished_at
    assert now.deadline is None


def test_the_tasks_of_the_master_take_messages_in(sent):
    tasks.save_progress(progress())
    assert stored().state == "TRAINED"
    tasks.save_fold(result())
    assert stored().state == "TESTED"


def test_an_error_keeps_its_log_and_reason(sent):
    assert finish(
        result(state="ERROR", error_reason="time_limit", log_messages="ERROR(train): Soft Time Limit Exceeded")
    )
    now = stored()
    assert (now.state, now.error_reason) == ("ERROR", "time_limit")
    assert now.log_messages == "ERROR(train): Soft Time Limit Exceeded"
    assert now.attempts == 1


def test_it_is_taken_once(sent):
    first = result(log_messages="first")
    assert finish(first)
    assert not finish(first)
    assert not finish(first | {"log_messages": "second", "state": "ERROR", "error_reason": "user_code"})
    assert (stored().state, stored().log_messages) == ("TESTED", "first")


def test_the_second_delivery_leaves_the_predictions_fetched(api, sent):
    message = result()
    finish(message)
    api.post("testpredictions/new/", {})
    finish(message)
    assert api.post("testpredictions/new/", {}).body == []


def test_the_second_delivery_leaves_the_files_of_the_first(sent):
    message = result(test_predictions=large())
    assert finish(message)
    assert not finish(message)
    payloads.check(stored().test_predictions)


def test_a_second_run_of_the_same_task_leaves_the_files_of_the_first(sent):
    """A submission without a seed gives other predictions each time: the row names those of the first."""
    first, second = result(test_predictions=large(200_000)), result(test_predictions=large(200_001))
    assert finish(first)
    assert not finish(second)
    payloads.check(stored().test_predictions)
    assert large_files() == {payloads.file_name(first["test_predictions"])}


def test_a_late_result_is_discarded_with_its_files(api, sent):
    late = result(test_predictions=large())
    api.post("submissionfold/", fold(force="submission_fold"))

    assert not finish(late)

    assert (stored().state, stored().test_predictions) == ("TODO", "")
    assert large_files() == set()


def test_the_result_of_a_deleted_fold_is_discarded_with_its_files(sent):
    late = result(test_predictions=large())
    SubmissionFold.objects.all().delete()
    assert not finish(late)
    assert not services.advance(late | {"state": "TRAINED", "hard_time_limit": 360.0})
    assert large_files() == set()


def test_the_result_of_a_made_up_task_is_discarded(sent):
    assert not finish(result(task_id="made up"))
    assert stored().state == "TODO"


# --- progress


def test_progress_is_seen(api, sent):
    assert services.advance(progress(state="TODO"))
    assert stored().started_at
    assert services.advance(progress(state="TRAINED", train_time=3.5))
    now = stored()
    assert (now.state, now.train_time, now.runner) == ("TRAINED", 3.5, "runner@here")
    assert now.deadline
    assert services.advance(progress(state="VALIDATED"))
    assert stored().state == "VALIDATED"


def test_progress_that_comes_late_is_ignored(sent):
    services.advance(progress(state="VALIDATED"))
    assert not services.advance(progress(state="TRAINED"))
    assert stored().state == "VALIDATED"


@pytest.mark.parametrize("state", ["TESTED", "ERROR"])
def test_progress_after_the_end_is_ignored(sent, state):
    late = progress(state="VALIDATED")
    finish(result(state=state, error_reason="" if state == "TESTED" else "user_code"))
    assert not services.advance(late)
    assert (stored().state, stored().deadline) == (state, None)


def test_progress_of_another_task_is_ignored(sent):
    assert not services.advance(progress(task_id="another"))
    assert stored().state == "TODO"


# --- what submissions print


@pytest.mark.parametrize("log", ["a\0b", "\ud800 and \udfff", "\0" * 10, "é\U0001f600"])
def test_a_log_of_any_bytes_is_stored_and_shown(api, sent, log):
    assert finish(result(state="ERROR", error_reason="user_code", log_messages=log))
    for answer in (api.get("submissionfold/"), api.post("testpredictions/list/", {"list_submission_fold": [1]})):
        assert answer.status == 200
        [record] = answer.body
        assert record["log_messages"] == log.replace("\0", "\\0").replace("\ud800", "?").replace("\udfff", "?")


def test_an_infrastructure_log_of_any_bytes_is_stored(sent):
    for _ in range(3):
        finish(failure() | {"log_messages": "\0\ud800"})
    assert stored().log_messages.endswith("failed: \\0?")


# --- faults of the infrastructure


def test_infrastructure_failures_are_tried_again_up_to_max_attempts(api, sent, queues, settings):
    seen = {stored().task_id}
    for attempt in range(1, settings.MAX_ATTEMPTS):
        services.advance(progress())
        assert finish(failure())
        now = stored()
        assert (now.state, now.attempts) == ("TODO", attempt + 1)
        assert (now.started_at, now.deadline, now.runner) == (None, None, "")
        assert now.task_id not in seen
        seen.add(now.task_id)
        [message] = queues.take("L")
        assert (message.task_id, message.content["databoard_sf_id"]) == (now.task_id, 1)
        assert now.queued_at

    assert finish(failure())

    now = stored()
    assert (now.state, now.error_reason, now.attempts) == ("ERROR", "infrastructure", settings.MAX_ATTEMPTS)
    first, *attempts = now.log_messages.splitlines()
    assert first == "ERROR(train): the infrastructure failed this fold 3 times."
    assert [line.partition(" began ")[0] for line in attempts] == [f"attempt {n} on runner@here" for n in (1, 2, 3)]
    assert all(line.endswith("failed: ERROR(train): the disk is away") for line in attempts)
    assert queues.take("L") == []


def test_a_failure_that_is_delivered_twice_counts_once(sent, queues):
    message = failure()
    assert finish(message)
    assert not finish(message)
    assert stored().attempts == 2
    assert queues.folds() == [1]


def test_a_second_attempt_can_succeed(sent):
    late = result()
    finish(failure())
    assert not finish(late)
    assert finish(result())
    assert (stored().state, stored().attempts) == ("TESTED", 2)


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"AAAA")])
def test_predictions_that_did_not_arrive_are_a_fault_of_the_infrastructure(sent, queues, damage):
    text = large()
    damage(config.dir_large() / text.partition("/")[2])

    assert finish(result(test_predictions=text))

    assert (stored().state, stored().attempts, stored().test_predictions) == ("TODO", 2, "")
    assert queues.folds() == [1]
    assert large_files() == set()


def test_predictions_that_never_arrive_end_the_fold(sent, settings):
    config.dir_large().mkdir(parents=True)
    for _ in range(settings.MAX_ATTEMPTS):
        assert stored().state == "TODO"
        finish(result(test_predictions="@0000/never.test_predictions"))
    now = stored()
    assert (now.state, now.error_reason) == ("ERROR", "infrastructure")
    assert "can't be read" in now.log_messages


def test_a_file_outside_its_folder_is_never_touched(sent, tmp_path, settings):
    """A runner names files; it cannot name those of others."""
    outside = settings.DIR_SUBMISSION / "precious"
    outside.write_bytes(b"AAAA")
    for _ in range(3):
        finish(result(test_predictions="@0000/../precious"))
    assert outside.read_bytes() == b"AAAA"


# --- the shared disk can't be read


@pytest.fixture
def marker(tmp_path, monkeypatch):
    """The file by which the master knows that the disk is there."""
    path = tmp_path / "marker"
    path.touch()
    monkeypatch.setenv("DATARUN_SHARE_MARKER", str(path))
    return path


@pytest.fixture
def take_in(queues, monkeypatch):
    """Have the master's worker take a result in; returns the messages that it put back into its queue."""
    monkeypatch.setattr(tasks, "PAUSE", 0)

    def take_in(message):
        tasks.save_fold(message)
        return [message.content for message in queues.take(config.MASTER_QUEUE)]

    return take_in


@pytest.fixture
def unreadable(monkeypatch):
    """Call it with an error: opening a large file gives it. Call what it returns, and it is readable again."""

    def fails(number: int):
        patch = pytest.MonkeyPatch()

        def fail(*_):
            raise OSError(number, os.strerror(number))

        patch.setattr(plainfile, "read", fail)
        patches.append(patch)
        return patch.undo

    patches: list[pytest.MonkeyPatch] = []
    yield fails
    for patch in patches:
        patch.undo()


def check_waits(messages):
    """The fold waits for its result, which is in the queue once, and no attempt is counted."""
    [message] = messages
    assert (stored().state, stored().attempts, stored().failed_attempts.count()) == ("TODO", 1, 0)
    return message


def test_a_result_waits_while_the_share_is_away(sent, take_in, marker):
    text = large()
    away = config.dir_large().rename(config.dir_large().with_name("elsewhere"))
    marker.unlink()
    message = check_waits(take_in(result(test_predictions=text)))
    for _ in range(5):
        message = check_waits(take_in(message))
    away.rename(config.dir_large())
    marker.touch()
    assert take_in(message) == []
    assert (stored().state, stored().attempts, stored().test_predictions) == ("TESTED", 1, text)


def test_a_result_waits_while_a_share_without_a_marker_is_not_mounted(sent, take_in, monkeypatch):
    monkeypatch.setattr(results, "MAX_UNREAD", 3)
    text = large()
    away = config.dir_large().rename(config.dir_large().with_name("elsewhere"))
    message = check_waits(take_in(result(test_predictions=text)))
    for _ in range(5):
        message = check_waits(take_in(message))
    away.rename(config.dir_large())
    assert take_in(message) == []
    assert (stored().state, stored().attempts) == ("TESTED", 1)


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOTCONN, errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTDOWN])
def test_a_result_waits_while_its_predictions_cant_be_read(sent, take_in, marker, unreadable, number):
    message = result(test_predictions=large())
    readable = unreadable(number)
    message = check_waits(take_in(message))
    readable()
    assert take_in(message) == []
    assert (stored().state, stored().attempts) == ("TESTED", 1)


def test_predictions_that_are_missing_on_a_share_that_is_there_are_lost(sent, take_in, marker):
    text = large()
    payloads.delete(text)
    assert take_in(result(test_predictions=text)) == []
    assert stored().attempts == 2


def test_predictions_that_stay_unreadable_are_lost_in_the_end(sent, take_in, marker, unreadable, monkeypatch):
    """One bad block of a disk that is there keeps no fold for ever."""
    monkeypatch.setattr(results, "MAX_UNREAD", 3)
    message = result(test_predictions=large())
    unreadable(errno.EIO)
    for _ in range(3):
        message = check_waits(take_in(message))
    assert take_in(message) == []
    assert stored().attempts == 2


def test_a_share_that_is_away_for_long_is_waited_for(sent, take_in, marker, monkeypatch):
    monkeypatch.setattr(results, "MAX_UNREAD", 3)
    marker.unlink()
    message = result(test_predictions=large())
    for _ in range(10):
        message = check_waits(take_in(message))


def test_a_fold_whose_result_waits_is_not_overdue(sent, take_in, marker, monkeypatch):
    services.advance(progress())
    SubmissionFold.objects.update(deadline=timezone.now() - timedelta(days=1))
    heard()
    marker.unlink()
    [_] = take_in(result(test_predictions=large()))
    services.mend()
    assert (stored().attempts, stored().state) == (1, "TRAINED")


def test_a_result_that_nobody_awaits_does_not_wait(api, sent, take_in, marker):
    late = result(test_predictions=large())
    api.post("submissionfold/", fold(force="submission_fold"))
    marker.unlink()
    assert take_in(late) == []


def test_a_share_that_hangs_holds_up_no_other_result(api, iris, sent, take_in, monkeypatch):
    """It is asked once, and waited for no longer than for a time."""
    api.new_fold(iris, 2)
    go, check, asked = threading.Event(), payloads.check, []

    def hangs(text):
        asked.append(text)
        go.wait(120)
        check(text)

    monkeypatch.setattr(payloads, "check", hangs)
    monkeypatch.setattr(results, "READ_SECONDS", 0.01)
    message = result(1, test_predictions=large())
    for _ in range(3):
        [message] = take_in(message)
    assert services.finish_many([message, result(2)]) == [False, True]
    assert len(asked) == 1
    go.set()
    monkeypatch.setattr(results, "READ_SECONDS", 60)
    assert take_in(message) == []
    assert {fold.state for fold in SubmissionFold.objects.all()} == {"TESTED"}


def test_the_predictions_of_many_results_are_read_at_the_same_time(api, iris, sent, monkeypatch):
    """A disk that hangs costs them one wait, and not one each."""
    for pk in range(2, 7):
        api.new_fold(iris, pk)
    check, reading = payloads.check, threading.Barrier(6)

    def together(text):
        reading.wait(60)
        check(text)

    messages = [result(pk, test_predictions=large(200_000 + pk)) for pk in range(1, 7)]
    monkeypatch.setattr(payloads, "check", together)
    monkeypatch.setattr(results, "READ_SECONDS", 120)
    assert services.finish_many(messages) == 6 * [True]


def test_a_result_is_not_lost_where_share_and_broker_are_away(sent, marker, broker_down, monkeypatch):
    monkeypatch.setattr(tasks, "PAUSE", 0)
    marker.unlink()
    message = result(test_predictions=large())
    broker_down()
    with pytest.raises(Reject) as refusal:
        tasks.save_fold(message)
    assert refusal.value.requeue


# --- the database is away


@pytest.fixture
def database_away(monkeypatch):
    """For 30 attempts. Returns how often each step was done."""
    done = Counter()
    finish = services.finish

    def away(message):
        done["tried"] += 1
        if done["tried"] > 30:
            return finish(message)
        raise OperationalError("server closed the connection")

    monkeypatch.setattr(services, "finish", away)
    monkeypatch.setattr(tasks.time, "sleep", lambda seconds: done.update(slept=seconds))
    monkeypatch.setattr(tasks.connection, "close", lambda: done.update(closed=1))
    return done


def test_a_result_waits_while_the_database_is_away(sent, database_away):
    """Longer than RabbitMQ would give it again and again."""
    tasks.save_fold(result())
    assert SubmissionFold.objects.get().state == "TESTED"
    assert database_away == {"tried": 31, "closed": 30, "slept": 30}


def test_a_result_goes_back_to_its_queue_where_the_worker_is_to_stop(sent, database_away, monkeypatch):
    monkeypatch.setattr(state, "should_stop", 0)
    with pytest.raises(Reject) as refusal:
        tasks.save_fold(result())
    assert refusal.value.requeue
    assert database_away["tried"] == 1


def test_a_result_that_makes_no_sense_is_not_delivered_for_ever(sent, monkeypatch):
    def broken(message):
        raise IntegrityError("no")

    monkeypatch.setattr(services, "finish", broken)
    with pytest.raises(IntegrityError):
        tasks.save_fold(result())
