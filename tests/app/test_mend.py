"""services.mend: what went missing is found and sent again."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from django.utils import timezone

from datarun import celery
from runapp import services, tasks
from runapp.models import Attempt, RawData, Runner, SubmissionFold
from runapp.services import attempts, mending, queueing
from runner import config, revoked
from tests.app.helpers import busy, data_set, finish, finish_split, fold, heard, in_thread, progress, result

pytestmark = pytest.mark.embedded

LONG = timedelta(minutes=10)
HARD = timedelta(seconds=config.limits().hard_time)
HELD = 3 * HARD + timedelta(minutes=1)
"""How long a runner may hold a message before it begins."""


def age(rows, **how_long: timedelta) -> None:
    """Move the given moments of rows into the past."""
    rows.update(**{name: timezone.now() - span for name, span in how_long.items()})


@pytest.fixture(autouse=True)
def _a_runner_is_up(db):
    heard()


def taken(folds) -> None:
    """The messages of these have left their queue, and a runner would have reported them by now."""
    services.mend()
    assert None not in set(folds.values_list("deadline", flat=True))
    age(folds, deadline=timedelta(seconds=1))


@pytest.fixture
def sent(api, iris, queues):
    api.new_fold(iris)
    queues.purge()
    return SubmissionFold.objects.all()


def test_it_works(sent, queues):
    """A fold that was never queued."""
    sent.update(queued_at=None)
    age(sent, created_at=LONG)

    assert services.mend() == 1
    assert services.mend() == 0

    [message] = queues.take("L")
    assert message.task_id == sent.get().task_id
    assert sent.get().queued_at


def test_it_leaves_a_healthy_system_alone(api, iris, raw, queues):
    for key in (1, 2, 3):
        api.new_fold(iris, key)
    age(SubmissionFold.objects.filter(pk=1), created_at=LONG, queued_at=LONG)  # still in its queue
    services.advance(progress(2))
    finish(result(3))
    age(SubmissionFold.objects.filter(pk__in=(2, 3)), created_at=LONG, queued_at=LONG)
    before = list(SubmissionFold.objects.values())

    assert services.mend() == 0

    assert list(SubmissionFold.objects.values()) == before
    assert queues.folds() == [1, 2, 3]


def test_it_leaves_a_fold_alone_that_runs_before_it_is_noted_as_queued(sent, queues):
    services.advance(progress(state="TODO"))
    sent.update(queued_at=None)
    age(sent, created_at=LONG)
    assert services.mend() == 0
    assert queues.folds() == []


def test_it_gives_a_fold_time_to_be_queued(sent, queues):
    sent.update(queued_at=None)
    assert services.mend() == 0


def test_it_tries_a_fold_again_that_its_queue_has_lost(api, sent, queues):
    age(sent, queued_at=LONG)
    old = sent.get().task_id
    taken(sent)

    assert services.mend() == 1
    assert services.mend() == 0

    [message] = queues.take("L")
    assert message.task_id == sent.get().task_id != old
    assert sent.get().attempts == 2
    [attempt] = api.get("submissionfold/1/").body["history"]
    assert (attempt["outcome"], attempt["started_at"]) == ("lost", None)
    assert attempt["text"] == "left its queue, and no runner reported it"
    assert revoked.is_revoked(old), "a runner may have it for all that"


def test_it_finds_a_fold_that_is_lost_while_others_wait_in_its_queue(api, iris, sent, queues):
    """Fold 2 was queued after it and has ended: it is its turn no more."""
    api.new_fold(iris, 2)
    finish(result(2))
    api.new_fold(iris, 3)
    age(sent.filter(pk=1), queued_at=LONG)
    taken(sent.filter(pk=1))

    assert services.mend() == 1

    assert dict(SubmissionFold.objects.values_list("pk", "attempts")) == {1: 2, 2: 1, 3: 1}


def test_a_fold_that_came_back_to_the_head_of_its_queue_passes_nobody(api, iris, sent, queues):
    api.new_fold(iris, 2)
    services.lost(progress(2))
    finish(result(2))
    age(sent.filter(pk=1), queued_at=LONG)
    assert services.mend() == 0
    assert sent.get(pk=1).deadline is None


def test_a_fold_that_was_queued_a_moment_after_passes_nobody(api, iris, sent, queues):
    """When it was queued is noted after it was: two that send at once may note it in another order."""
    api.new_fold(iris, 2)
    finish(result(2))
    age(sent.filter(pk=1), queued_at=services.PATIENCE - timedelta(seconds=10))
    assert services.mend() == 0
    assert sent.get(pk=1).deadline is None


def test_a_fold_whose_results_all_get_lost_is_given_up(api, sent, queues, settings):
    for _ in range(settings.MAX_ATTEMPTS):
        queues.purge()
        age(sent, queued_at=LONG)
        taken(sent)
        assert services.mend() == 1
    assert (sent.get().state, sent.get().error_reason) == ("ERROR", "infrastructure")


def test_it_gives_a_fold_time_to_start(sent, queues, still):
    age(sent, queued_at=services.PATIENCE)
    assert services.mend() == 0
    assert sent.get().deadline is None


def test_it_gives_a_fold_time_that_waits_on_its_runner_behind_others(sent, queues):
    """It was in the queue for hours, and has just left it: what counts is how long it has been out of it."""
    age(sent, queued_at=timedelta(hours=5))
    before = timezone.now()
    assert services.mend() == 0
    assert services.mend() == 0
    assert before + HELD <= sent.get().deadline <= timezone.now() + HELD


def test_it_gives_a_fold_the_time_of_the_slowest_runner(sent, queues):
    """The master's own environment names no limit."""
    heard(name="slow@here", hard_time_limit=3600.0)
    age(sent, queued_at=LONG)
    before = timezone.now()
    assert services.mend() == 0
    assert sent.get().deadline >= before + timedelta(hours=3)


def test_a_fold_that_is_reported_at_last_has_the_deadline_of_its_run(sent, queues):
    age(sent, queued_at=LONG)
    taken(sent)
    services.advance(progress(state="TODO"))
    assert services.mend() == 0
    assert sent.get().deadline > timezone.now() + HARD


def test_it_leaves_a_fold_alone_that_a_runner_says_it_runs(sent, queues):
    """Its progress did not arrive."""
    age(sent, queued_at=LONG)
    taken(sent)
    heard(number=2, busy=[busy(1)])
    assert services.mend() == 0


def test_it_leaves_a_fold_alone_whose_message_came_back_to_its_queue(api, iris, sent, queues):
    age(sent, queued_at=LONG)
    taken(sent)
    queueing.publish(sent)
    assert services.mend() == 0
    assert queues.folds() == [1]


def test_it_looks_at_each_queue_alone(api, iris, sent, queues):
    """H is empty, L is not: what is missing from L may still be in it."""
    api.post("submissionfold/", fold(2, priority="H"))
    queues.take("H")
    api.post("submissionfold/", fold(3))
    age(SubmissionFold.objects.all(), queued_at=LONG, created_at=LONG)
    taken(SubmissionFold.objects.filter(pk=2))

    assert services.mend() == 1

    assert queues.folds("H") == [2]
    assert queues.folds("L") == [3]


@pytest.fixture
def said_empty(queues, monkeypatch):
    """Each queue is said to hold nothing, as a quorum queue is whose leader does not answer at once."""
    with queues.connection.channel() as channel:
        kind = type(channel)
    declare = kind.queue_declare
    monkeypatch.setattr(kind, "queue_declare", lambda *args, **more: declare(*args, **more)._replace(message_count=0))


def test_it_leaves_alone_what_waits_in_a_queue_that_is_said_to_be_empty(api, iris, queues, said_empty):
    api.new_fold(iris)
    age(SubmissionFold.objects, queued_at=LONG, deadline=timedelta(seconds=1))
    api.post("rawdata/", data_set("others"))
    split = RawData.objects.filter(name="others")
    api.post("rawdata/split/", {"raw_data_id": split.get().pk, "held_out_test": 0.25})
    age(split, split_queued_at=2 * HELD)

    assert services.mend() == 0

    assert queues.folds() == [1]
    assert len(queues.take("celery")) == 1


def test_it_works_where_the_broker_has_lost_the_queues_themselves(sent, queues):
    age(sent, queued_at=LONG, created_at=LONG)
    queues.remove("L", "H", "celery")
    taken(sent)
    assert services.mend() == 1
    assert queues.folds() == [1]


def test_it_tries_a_fold_again_whose_runner_is_gone(sent, queues):
    services.advance(progress())
    old = sent.get().task_id
    age(sent, deadline=timedelta(seconds=1))

    assert services.mend() == 1
    assert services.mend() == 0

    now = sent.get()
    assert (now.state, now.attempts, now.runner) == ("TODO", 2, "")
    assert now.task_id != old
    [message] = queues.take("L")
    assert message.task_id == now.task_id


def test_it_gives_a_fold_up_whose_runners_go_again_and_again(sent, queues, settings):
    for _ in range(settings.MAX_ATTEMPTS):
        assert sent.get().state == "TODO"
        services.advance(progress())
        age(sent, deadline=timedelta(seconds=1))
        assert services.mend() == 1
    assert services.mend() == 0

    now = sent.get()
    assert (now.state, now.error_reason, now.attempts) == ("ERROR", "infrastructure", settings.MAX_ATTEMPTS)
    assert now.log_messages.startswith("ERROR(train): ")
    assert now.finished_at
    assert len(queues.take("L")) == settings.MAX_ATTEMPTS - 1


def test_it_keeps_the_attempt_that_it_ends(api, sent):
    services.advance(progress())
    before = sent.get()
    age(sent, deadline=timedelta(seconds=1))
    services.mend()
    [attempt] = api.get("submissionfold/1/").body["history"]
    assert (attempt["number"], attempt["outcome"], attempt["runner"]) == (1, "lost", "runner@here")
    assert attempt["task_id"] == before.task_id
    assert attempt["text"] == "did not report within the hard limit and its grace"
    assert revoked.is_revoked(before.task_id), "its message may be in the queue again"


def test_a_deadline_that_was_put_off_meanwhile_is_none(sent):
    """Its task was given to another runner, which reports between the look and the deed."""
    services.advance(progress())
    age(sent, deadline=timedelta(seconds=1))
    seen = sent.get()
    services.advance(progress(started_at=time.time()))
    assert not attempts.overdue(seen, timezone.now())
    assert sent.get().attempts == 1


def runners_away(**how_long: float) -> None:
    Runner.objects.update(heartbeat_at=timezone.now() - timedelta(**how_long))


@pytest.fixture
def missing(api, iris, sent, queues):
    """Two folds, one overdue and one not in its queue, and a split that is not in its queue either."""
    services.advance(progress())
    age(sent, deadline=timedelta(seconds=1))
    api.new_fold(iris, 2)
    api.post("rawdata/", data_set("others"))
    split = RawData.objects.filter(name="others")
    api.post("rawdata/split/", {"raw_data_id": split.get().pk, "held_out_test": 0.25})
    queues.purge()
    age(SubmissionFold.objects.filter(pk=2), queued_at=LONG, deadline=timedelta(seconds=1))
    age(split, split_queued_at=2 * HELD)


def test_it_takes_nothing_for_lost_while_results_may_wait_for_the_masters_worker(missing):
    """Which was away for minutes: the tick stands before the results in its queue, and before the runners' reports."""
    runners_away(minutes=10)
    assert services.mend() == 0
    assert set(SubmissionFold.objects.values_list("attempts", flat=True)) == {1}


def test_it_takes_nothing_for_lost_while_runners_may_still_send_what_they_kept(missing, still):
    """The broker was away for minutes, and is back: the reports come at once, the results when they are sent again."""
    runners_away(minutes=10)
    heard(number=2, steadily=False)
    assert services.mend() == 0
    age(Runner.objects, heard_since=timedelta(minutes=1) - timedelta.resolution)
    assert services.mend() == 0


def test_it_mends_once_the_runners_have_been_heard_for_a_minute(missing, still):
    runners_away(minutes=10)
    heard(number=2, steadily=False)
    age(Runner.objects, heard_since=timedelta(minutes=1))
    heard(number=3, steadily=False)
    assert services.mend() == 3


def test_it_mends_again_a_minute_after_the_clock_was_set_back(missing):
    later = timezone.now() + timedelta(hours=3)
    Runner.objects.update(heartbeat_at=later, heard_since=later)
    heard(number=2, steadily=False)
    assert services.mend() == 0
    age(Runner.objects, heard_since=timedelta(seconds=61))
    assert services.mend() == 3


def test_what_was_never_queued_is_not_a_matter_of_runners(sent, queues):
    runners_away(minutes=10)
    sent.update(queued_at=None)
    age(sent, created_at=LONG)
    assert services.mend() == 1
    assert queues.folds() == [1]


def test_its_task_is_not_run_late():
    """The ticks of an hour in which the master's worker was busy: the broker drops them."""
    assert celery.app.conf.beat_schedule["mend"]["options"]["expiration"] == 60


def test_it_says_one_line_a_fold(api, iris, raw, queues, caplog):
    """Fold 1 was never queued, 2 is lost by the broker, 3 overdue, 4 overdue for the last time, 5 and 6 are well."""
    mixed(api, iris)
    queues.purge()
    assert services.mend() == 4
    lines = [record.message for record in caplog.records if record.name.startswith("runapp")]
    assert [line.split(":")[0] for line in lines] == [
        "fold 1 is sent again",
        "fold 2 is tried again",
        "fold 3 is tried again",
        "fold 4 is given up",
    ]


def mixed(api, iris):
    for key in range(1, 7):
        api.new_fold(iris, key)
    folds = SubmissionFold.objects
    age(folds.all(), created_at=LONG)
    folds.filter(pk=1).update(queued_at=None)
    age(folds.filter(pk=2), queued_at=LONG, deadline=timedelta(seconds=1))
    folds.filter(pk=4).update(attempts=3)
    for key in (3, 4):
        services.advance(progress(key))
        age(folds.filter(pk=key), deadline=timedelta(seconds=1))
    services.advance(progress(5))
    finish(result(6))


@pytest.mark.django_db(transaction=True)
def test_two_at_once_do_everything_once(api, iris, raw, queues, monkeypatch):
    """Two beats, or a slow mending and the next one: both have looked before either has done anything."""
    mixed(api, iris)
    api.post("rawdata/", data_set("others"))
    split = RawData.objects.filter(name="others")
    api.post("rawdata/split/", {"raw_data_id": split.get().pk, "held_out_test": 0.25})
    age(split, split_asked_at=LONG, split_queued_at=2 * HELD)
    queues.purge()
    both, publish = threading.Barrier(2), mending.publish

    def look():
        both.wait(60)
        return {"L", "H", "celery"}

    monkeypatch.setattr(mending, "empty_queues", look)
    monkeypatch.setattr(mending, "publish", lambda folds: time.sleep(0.05) or publish(folds))
    monkeypatch.setattr(attempts, "publish", lambda folds: time.sleep(0.05) or publish(folds))
    with ThreadPoolExecutor(2) as pool:
        done = [pool.submit(in_thread(services.mend)) for _ in range(2)]
    assert sum(one.result() for one in done) == 5

    assert sorted(queues.folds()) == [1, 2, 3]
    assert len(queues.take("celery")) == 1
    assert split.get().split_attempts == 2
    assert dict(SubmissionFold.objects.values_list("pk", "attempts")) == {1: 1, 2: 2, 3: 2, 4: 3, 5: 1, 6: 1}
    assert list(Attempt.objects.values_list("fold", "number").order_by("fold")) == [(2, 1), (3, 1), (4, 3)]
    assert SubmissionFold.objects.get(pk=4).state == "ERROR"


def test_a_result_after_the_deadline_counts_until_it_is_mended(sent):
    services.advance(progress())
    age(sent, deadline=timedelta(seconds=1))
    assert finish(result())
    assert services.mend() == 0
    assert sent.get().state == "TESTED"


# --- splits


@pytest.fixture
def asked(api, raw, queues):
    api.post("rawdata/split/", {"raw_data_id": raw.pk, "held_out_test": 0.25})
    queues.purge()
    return RawData.objects.all()


def test_it_sends_a_split_that_was_never_queued(asked, queues):
    asked.update(split_queued_at=None)
    age(asked, split_asked_at=LONG)

    assert services.mend() == 1
    assert services.mend() == 0

    [message] = queues.take("celery")
    assert (message.name, message.task_id) == ("prepare_data", asked.get().split_task_id)
    assert message.content["held_out_test"] == 0.25


def test_it_sends_a_split_again_that_its_queue_has_lost(asked, queues):
    age(asked, split_queued_at=HELD + HARD + LONG)
    assert services.mend() == 1
    assert services.mend() == 0
    assert len(queues.take("celery")) == 1


def test_it_gives_a_split_time(asked):
    assert services.mend() == 0
    asked.update(split_queued_at=None)
    assert services.mend() == 0


def test_it_leaves_alone_what_may_still_run(asked):
    """The message of a task that runs, or waits on its runner behind others, is not in the queue either."""
    age(asked, split_queued_at=HELD + HARD)
    assert services.mend() == 0


def test_it_leaves_a_split_alone_that_a_slower_runner_may_still_run(asked):
    """The master's own environment names no limit."""
    heard(name="slow@here", hard_time_limit=3600.0)
    age(asked, split_queued_at=timedelta(hours=4))
    assert services.mend() == 0


def test_it_leaves_a_split_alone_that_a_runner_says_it_runs(asked, raw):
    age(asked, split_queued_at=timedelta(days=1))
    heard(number=2, busy=[busy(None, raw_data=raw.pk)])
    assert services.mend() == 0
    runners_away(minutes=10)
    heard(name="another@here")
    assert services.mend() == 1


def test_it_gives_a_split_up_that_got_lost_again_and_again(api, asked, raw, settings):
    api.new_fold(raw)
    asked.update(split_attempts=settings.MAX_ATTEMPTS)
    age(asked, split_queued_at=2 * HELD)

    assert services.mend() == 1

    assert asked.get().split_state == "ERROR"
    waited = SubmissionFold.objects.get()
    assert (waited.state, waited.error_reason) == ("ERROR", "infrastructure")
    assert waited.log_messages.startswith("ERROR(split data): no runner finished it")


def test_it_leaves_folds_alone_that_wait_for_a_split(api, asked, raw, queues):
    api.new_fold(raw)
    age(SubmissionFold.objects.all(), created_at=LONG)
    assert services.mend() == 0
    assert queues.folds() == []


def test_it_sends_folds_that_were_left_over_when_the_split_came(api, iris, queues):
    """The master was killed between the split's result and the queueing of what waited for it."""
    api.new_fold(iris)
    queues.purge()
    SubmissionFold.objects.update(queued_at=None, created_at=timezone.now() - LONG)
    assert services.mend() == 1
    assert queues.folds() == [1]


def test_it_ends_a_fold_that_came_while_the_split_of_its_data_failed(api, iris, queues):
    """Its row became visible after the others that waited had ended."""
    api.new_fold(iris)
    SubmissionFold.objects.update(queued_at=None)
    RawData.objects.update(split_state="ERROR", split_log="ERROR(split data): no such column")

    assert services.mend() == 0  # it may have come this moment
    age(SubmissionFold.objects, created_at=LONG)
    assert services.mend() == 1
    assert services.mend() == 0

    ended = SubmissionFold.objects.get()
    assert (ended.state, ended.error_reason) == ("ERROR", "data")
    assert ended.log_messages == "ERROR(split data): no such column"
    assert ended.finished_at


def test_a_fold_that_came_while_the_split_was_given_up_does_not_blame_the_data(api, asked, raw, settings):
    asked.update(split_attempts=settings.MAX_ATTEMPTS)
    finish_split(raw, None, reason="infrastructure")
    asked.update(split_state="DONE")
    api.new_fold(raw)
    asked.update(split_state="ERROR")
    SubmissionFold.objects.update(queued_at=None, created_at=timezone.now() - LONG)

    assert services.mend() == 1

    assert SubmissionFold.objects.get().error_reason == "infrastructure"


def test_its_task_mends(sent, queues):
    sent.update(queued_at=None)
    age(sent, created_at=LONG)
    tasks.mend()
    assert queues.folds() == [1]


def test_after_a_restart_all_that_is_open_is_queued(api, iris, raw, queues):
    for key in (1, 2, 3):
        api.new_fold(iris, key)
    services.advance(progress(2))
    finish(result(3))
    queues.purge()

    assert services.requeue_all() == 2

    assert sorted(queues.folds()) == [1, 2]
