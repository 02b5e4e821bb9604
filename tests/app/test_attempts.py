"""Attempts of a fold: each that failed is kept, all count in one number, and that has a bound."""

import time

import pytest

from runapp import services, tasks
from runapp.models import Attempt, RawData, SubmissionFold
from runner import revoked
from runner import tasks as on_runner
from tests.app.helpers import STARTED_AT, failure, finish, fold, heard, progress, result, split_result, stored

pytestmark = pytest.mark.embedded


def lost(started_at=STARTED_AT, **more):
    """The report of a runner that finds, when it starts, that it had begun the fold before."""
    message = {"databoard_sf_id": 1, "runner": "runner@here", "started_at": started_at}
    return message | {"task_id": more.get("task_id") or stored().task_id} | more


def history(api):
    return api.get("submissionfold/1/").body["history"]


def outcomes(api):
    return [(attempt["number"], attempt["outcome"]) for attempt in history(api)]


def test_a_fold_tested_at_the_first_try_needs_no_row(api, sent):
    assert history(api) == []
    services.advance(progress())
    assert history(api) == []
    finish(result(log_messages="a note"))
    [attempt] = history(api)
    record = api.get("submissionfold/1/").body
    for name in ("task_id", "runner", "started_at", "finished_at"):
        assert attempt[name] == record[name]
    assert (attempt["number"], attempt["outcome"], attempt["text"]) == (1, "done", "a note")
    assert (record["attempts"], Attempt.objects.count()) == (1, 0)


def test_a_submissions_own_mistake_is_the_outcome(api, sent):
    finish(failure(reason="user_code"))
    assert outcomes(api) == [(1, "user_code")]


def test_the_lists_have_no_history(api, sent):
    finish(result())
    for path in ("submissionfold/", "submissionfold-light/"):
        assert "history" not in api.get(path).body[0]


def test_failed_attempts_stand_before_the_last_one(api, sent):
    old = stored().task_id
    finish(failure(runner="runner@a"))
    tasks.save_lost(lost(runner="runner@b"))
    finish(result(runner="runner@c"))

    assert outcomes(api) == [(1, "infrastructure"), (2, "lost"), (3, "done")]
    first, second, third = history(api)
    assert (first["runner"], second["runner"], third["runner"]) == ("runner@a", "runner@b", "runner@c")
    assert (first["task_id"], first["text"]) == (old, "ERROR(train): the disk is away")
    assert second["text"] == "ended with its runner"
    assert all(attempt["started_at"] <= attempt["finished_at"] for attempt in history(api))
    assert stored().attempts == 3


def test_a_lost_attempt_leaves_the_task_to_the_broker_which_gives_it_back(sent, queues):
    services.advance(progress(state="VALIDATED"))
    task_id = stored().task_id

    assert services.lost(lost())

    now = stored()
    assert (now.state, now.attempts, now.task_id) == ("TODO", 2, task_id)
    assert (now.runner, now.started_at, now.deadline) == ("", None, None)
    assert queues.folds() == []
    assert not revoked.is_revoked(task_id)
    assert finish(result())
    assert (stored().state, stored().attempts) == ("TESTED", 2)


def test_a_report_that_arrives_twice_counts_once(sent):
    message = lost()
    assert services.lost(message)
    assert not services.lost(message)
    assert stored().attempts == 2


def test_a_report_does_not_disturb_the_run_that_came_after(sent):
    services.advance(progress(runner="runner@next", started_at=time.time()))
    before = stored()
    assert services.lost(lost())
    now = stored()
    assert (now.attempts, now.state, now.runner, now.deadline) == (2, "TRAINED", "runner@next", before.deadline)
    assert finish(result())


def test_the_next_run_begins_from_the_first_state_again(sent):
    """Its progress gives it a deadline of its own, even where the report of the first is still under way."""
    services.advance(progress(state="VALIDATED"))
    first = stored().deadline
    assert services.advance(progress(state="TODO", started_at=time.time()))
    assert (stored().state, stored().deadline > first) == ("TODO", True)


def test_a_report_of_an_earlier_run_does_not_end_the_last_attempt(api, sent, settings):
    """The first runner was cut off, and comes back when the fold runs well on the third."""
    first = lost(runner="runner@first")
    for name in ("runner@second", "runner@third"):
        finish(failure(runner=name))
    services.advance(progress(runner="runner@last", started_at=time.time()))
    assert stored().attempts == settings.MAX_ATTEMPTS
    assert not services.lost(first)
    assert not services.lost(lost(runner="runner@elsewhere"))  # another run of the same task
    assert not revoked.is_revoked(stored().task_id)
    assert finish(result())
    assert outcomes(api) == [(1, "infrastructure"), (2, "infrastructure"), (3, "done")]


def test_a_fold_that_ends_its_runners_again_and_again_is_given_up(api, sent, queues, settings):
    task_id = stored().task_id
    for number in range(settings.MAX_ATTEMPTS):
        assert stored().state == "TODO"
        assert services.lost(lost(STARTED_AT + number, runner=f"runner@{number}"))

    now = stored()
    assert (now.state, now.error_reason, now.attempts) == ("ERROR", "infrastructure", settings.MAX_ATTEMPTS)
    assert now.runner == f"runner@{settings.MAX_ATTEMPTS - 1}"
    assert now.finished_at
    first, *lines = now.log_messages.splitlines()
    assert first == "ERROR(train): the infrastructure failed this fold 3 times."
    assert len(lines) == settings.MAX_ATTEMPTS
    for number, line in enumerate(lines):
        assert line.startswith(f"attempt {number + 1} on runner@{number} began 20")
        assert line.endswith(" and ended with its runner")
    assert outcomes(api) == [(number + 1, "lost") for number in range(settings.MAX_ATTEMPTS)]
    assert revoked.is_revoked(task_id), "its message is still in the broker"
    assert queues.folds() == []
    assert not services.lost(lost(STARTED_AT + 10))
    assert not finish(result())
    assert stored().attempts == settings.MAX_ATTEMPTS


def test_all_kinds_of_failures_count_in_one_number(api, sent, settings):
    finish(failure())
    services.lost(lost())
    services.advance(progress(started_at=time.time()))
    SubmissionFold.objects.update(deadline=stored().created_at)
    heard()
    assert services.mend() == 1
    assert (stored().state, stored().attempts) == ("ERROR", settings.MAX_ATTEMPTS)
    assert outcomes(api) == [(1, "infrastructure"), (2, "lost"), (3, "lost")]
    assert "did not report within the hard limit" in history(api)[2]["text"]


# --- at most one verdict, whatever comes when


def test_a_report_after_the_verdict_only_adds_to_the_history(api, sent):
    """The broker gave the fold to another runner, which was quicker than the restart of the first."""
    finish(result(runner="runner@quick", started_at=time.time(), finished_at=time.time()))
    before = api.post("testpredictions/new/", {}).body
    assert services.lost(lost())
    assert (stored().state, stored().attempts, stored().runner) == ("TESTED", 2, "runner@quick")
    assert outcomes(api) == [(1, "lost"), (2, "done")]
    assert len(before) == 1
    assert api.post("testpredictions/new/", {}).body == []


def test_a_runner_that_dies_just_after_its_result_was_sent_has_lost_nothing(api, sent):
    message = lost()
    finish(result())
    assert not services.lost(message)
    assert outcomes(api) == [(1, "done")]


def test_a_report_of_an_attempt_whose_deadline_has_passed_counts_no_more(api, sent):
    services.advance(progress())
    message = lost()
    SubmissionFold.objects.update(deadline=stored().created_at)
    heard()
    services.mend()
    assert not services.lost(message)
    assert outcomes(api) == [(1, "lost")]
    assert stored().attempts == 2


def test_a_report_of_an_earlier_task_of_the_fold_counts(api, sent):
    """The message came back, the next runner failed, and only then the first one starts again."""
    message = lost(runner="runner@first")
    finish(failure(runner="runner@second"))
    assert services.lost(message)
    assert stored().attempts == 3
    assert {attempt["runner"] for attempt in history(api)} == {"runner@first", "runner@second"}


def test_a_report_of_a_replaced_or_deleted_fold_is_nothing(api, sent):
    services.advance(progress())
    message = lost()
    api.post("submissionfold/", fold(force="submission_fold"))
    assert not services.lost(message)
    assert stored().attempts == 1
    SubmissionFold.objects.all().delete()
    assert not services.lost(message)


def test_the_history_goes_with_the_fold_that_is_replaced(api, sent):
    finish(failure())
    services.advance(progress())
    running = stored().task_id
    api.post("submissionfold/", fold(force="submission_fold"))
    assert history(api) == []
    assert Attempt.objects.count() == 0
    assert revoked.is_revoked(running), "if its runner dies, it is not run again"


def test_a_result_that_comes_before_the_progress_of_its_fold_stays(sent):
    late = progress(state="TRAINED")
    finish(result())
    assert not services.advance(late)
    assert (stored().state, stored().deadline) == ("TESTED", None)


# --- messages that come back too often


def test_a_message_that_came_back_too_often_is_sent_anew(sent, queues):
    task_id = stored().task_id
    tasks.save_returned({"databoard_sf_id": 1, "task_id": task_id})
    [message] = queues.take("L")
    assert (message.task_id, message.content["attempt"]) == (task_id, 1)
    assert (stored().attempts, stored().queued_at is None) == (1, False)


def test_a_fold_that_comes_back_too_often_again_and_again_is_given_up(api, sent, queues, settings):
    """It ends its runners, and none can tell."""
    for number in range(settings.MAX_ATTEMPTS):
        tasks.save_returned({"databoard_sf_id": 1, "task_id": stored().task_id})
        assert (stored().state, stored().attempts) == ("TODO", number + 1)
        services.advance(progress(runner=f"runner@{number}", started_at=time.time()))
    tasks.save_returned({"databoard_sf_id": 1, "task_id": stored().task_id})
    assert (stored().state, stored().error_reason) == ("ERROR", "infrastructure")
    assert [attempt["runner"] for attempt in history(api)] == ["runner@0", "runner@1", "runner@2"]
    assert history(api)[0]["text"] == "came back to its queue again and again"
    assert len(queues.folds()) == settings.MAX_ATTEMPTS


def test_what_is_not_awaited_is_not_sent_anew(sent, queues):
    message = {"databoard_sf_id": 1, "task_id": stored().task_id}
    finish(result())
    assert not services.send_anew(message)
    assert not services.send_anew({"databoard_sf_id": 2, "task_id": "another"})
    assert queues.folds() == []


# --- splits


@pytest.fixture
def asked(api, raw, queues):
    api.post("rawdata/split/", {"raw_data_id": raw.pk, "held_out_test": 0.25})
    queues.purge()
    return RawData.objects.all()


def lost_of_split(raw):
    task_id = RawData.objects.get().split_task_id
    return {"raw_data_id": raw.pk, "task_id": task_id, "runner": "runner@here", "started_at": STARTED_AT}


def test_a_split_that_ends_its_runners_again_and_again_is_given_up(api, asked, raw, queues, settings):
    api.new_fold(raw)
    task_id = asked.get().split_task_id
    for _ in range(settings.MAX_ATTEMPTS):
        assert asked.get().split_state == "QUEUED"
        tasks.save_lost(lost_of_split(raw))
    assert (asked.get().split_state, stored().state, stored().error_reason) == ("ERROR", "ERROR", "infrastructure")
    assert revoked.is_revoked(task_id)
    assert queues.take("celery") == []


def test_a_report_after_the_end_of_a_split_is_nothing(asked, raw):
    services.finish_split(split_result(raw, None))
    assert not services.lost_split(lost_of_split(raw))


def test_a_split_that_came_back_too_often_is_sent_anew(asked, raw, queues):
    tasks.save_returned({"raw_data_id": raw.pk, "task_id": asked.get().split_task_id})
    [message] = queues.take("celery")
    assert (message.task_id, asked.get().split_attempts) == (asked.get().split_task_id, 2)


def test_a_runner_knows_which_attempt_is_the_last(settings):
    assert on_runner.MAX_ATTEMPTS == settings.MAX_ATTEMPTS


def test_a_split_that_comes_back_too_often_again_and_again_is_given_up(asked, raw, queues, settings):
    for _ in range(settings.MAX_ATTEMPTS):
        assert asked.get().split_state == "QUEUED"
        tasks.save_returned({"raw_data_id": raw.pk, "task_id": asked.get().split_task_id})
    assert (asked.get().split_state, asked.get().split_reason) == ("ERROR", "infrastructure")
