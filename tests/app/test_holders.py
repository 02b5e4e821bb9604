"""News of a fold count from the runner that has announced it, until that one is gone."""

import time
from datetime import timedelta

import pytest
from django.utils import timezone

from runapp import services, tasks
from runapp.models import Runner, SubmissionFold
from runner import config
from tests.app.helpers import busy, failure, progress, report, result, stored

pytestmark = pytest.mark.embedded

FIRST, SECOND = "celery@first", "celery@second"


@pytest.fixture
def begun(sent, queues, monkeypatch):
    """The first runner has announced the fold; what waits is taken in again at once."""
    monkeypatch.setattr(tasks, "PAUSE", 0)
    queues.purge()
    services.save_runner(report(FIRST))
    tasks.save_progress(progress(state="TODO", runner=FIRST))
    assert stored().runner == FIRST


@pytest.fixture
def waiting(queues):
    """Call it: the messages that the master has put back into its queue, which are gone from it."""
    return lambda: [(message.name, message.content) for message in queues.take(config.MASTER_QUEUE)]


def lost(runner):
    return {name: result(runner=runner)[name] for name in ("databoard_sf_id", "task_id", "runner", "started_at")}


NEWS = {
    "save_fold": lambda runner: result(runner=runner),
    "save_progress": lambda runner: progress(runner=runner, started_at=time.time()),
    "save_lost": lost,
    "save_returned": lambda runner: {"databoard_sf_id": 1, "task_id": stored().task_id, "runner": runner},
}


def later(**how_long):
    """What was said was said so long ago."""
    ago = timezone.now() - timedelta(**how_long)
    SubmissionFold.objects.update(reported_at=ago)
    Runner.objects.update(heartbeat_at=ago)


@pytest.mark.parametrize("kind", NEWS)
def test_news_of_another_runner_wait(kind, begun, waiting):
    getattr(tasks, kind)(NEWS[kind](SECOND))
    assert (stored().state, stored().runner, stored().attempts) == ("TODO", FIRST, 1)
    [(name, message)] = waiting()
    assert (name, message["runner"]) == (kind, SECOND)


@pytest.mark.parametrize("message", [result, failure])
def test_its_own_result_counts(message, begun, waiting):
    tasks.save_fold(message(runner=FIRST))
    assert stored().runner != FIRST or stored().state == "TESTED"
    assert waiting() == []


def test_the_result_of_the_first_is_the_one_that_counts(begun, waiting):
    tasks.save_fold(result(runner=SECOND, log_messages="second"))
    tasks.save_fold(result(runner=FIRST, log_messages="first"))
    [(_, message)] = waiting()
    tasks.save_fold(message)
    assert (stored().log_messages, waiting()) == ("first", [])


@pytest.mark.parametrize("how", ["silent", "stopped", "idle", "started anew", "never heard"])
def test_news_that_wait_count_once_the_first_runner_is_gone(how, begun, waiting):
    tasks.save_progress(progress(runner=SECOND, started_at=time.time()))
    [(_, message)] = waiting()
    if how in ("silent", "never heard"):
        later(seconds=40)
        if how == "never heard":
            Runner.objects.all().delete()
    else:
        later(seconds=10)
        more = {"stopped": {"state": "stopped"}, "started anew": {"started_at": time.time()}}.get(how, {})
        services.save_runner(report(FIRST, number=2, **more))
    tasks.save_progress(message)
    assert (stored().runner, waiting()) == (SECOND, [])


@pytest.mark.parametrize("state", ["up", "stopping"])
def test_a_runner_that_lists_the_fold_has_it(state, begun, waiting):
    later(seconds=20)
    services.save_runner(report(FIRST, number=2, busy=[busy(1)], state=state))
    tasks.save_fold(result(runner=SECOND))
    assert (stored().state, len(waiting())) == ("TODO", 1)


def test_a_report_that_was_under_way_when_the_fold_began_says_nothing(begun, waiting):
    services.save_runner(report(FIRST, number=2))
    tasks.save_fold(result(runner=SECOND))
    assert (stored().state, len(waiting())) == ("TODO", 1)


def test_news_do_not_wait_for_ever(begun, waiting):
    tasks.save_fold(result(runner=SECOND) | {"held_since": time.time() - tasks.HOLD - 1})
    assert (stored().state, waiting()) == ("TODO", [])


def test_a_batch_leaves_out_what_another_runner_has(begun):
    assert services.finish_many([result(runner=SECOND)]) == [False]
    assert services.finish_many([result(runner=FIRST)]) == [True]
