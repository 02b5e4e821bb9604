"""GET /runapp/runners/: what runners report of themselves, in order, and for how long it counts."""

from datetime import timedelta

import pytest
from django.db import OperationalError
from django.utils import timezone

from runapp import services, tasks
from runapp.models import Runner
from tests.app.helpers import Api, busy, report

pytestmark = pytest.mark.embedded


def age(**how_long: float) -> None:
    """Let the runners have been heard so long ago."""
    Runner.objects.update(heartbeat_at=timezone.now() - timedelta(**how_long))


def states(api) -> dict[str, str]:
    return {runner["name"]: runner["state"] for runner in api.get("runners/").body}


def test_it_works(api):
    message = report(busy=[busy(7), busy(None, raw_data=3)])
    assert services.save_runner(message)

    answer = api.get("runners/")

    assert answer.status == 200
    [runner] = answer.body
    assert runner.pop("heartbeat") and runner.pop("started_at")
    assert [slot.pop("since")[-1] for slot in runner["busy"]] == ["Z", "Z"]
    assert runner == {
        "name": "runner@here",
        "state": "up",
        "queues": ["H", "L"],
        "configured": ["H", "L"],
        "slots": 2,
        "busy": [{"databoard_sf_id": 7, "raw_data_id": None}, {"databoard_sf_id": None, "raw_data_id": 3}],
        "soft_time_limit": 300.0,
        "hard_time_limit": 360.0,
        "version": "1.0.0",
    }


def test_it_lists_nothing_before_a_runner_reports(api):
    assert api.get("runners/").body == []


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, "up"),
        ({"share": False, "queues": []}, "no share"),
        ({"state": "stopping", "queues": []}, "stopping"),
        ({"state": "stopped", "queues": []}, "stopped"),
    ],
)
def test_it_says_what_the_runner_says(api, changes, state):
    services.save_runner(report(**changes))
    assert states(api) == {"runner@here": state}


@pytest.mark.parametrize("changes", [{}, {"share": False}, {"state": "stopping"}])
def test_a_runner_that_is_not_heard_is_silent(api, still, changes):
    services.save_runner(report(**changes))
    age(seconds=30)
    assert states(api) != {"runner@here": "silent"}
    age(seconds=30, microseconds=1)
    assert states(api) == {"runner@here": "silent"}


def test_a_silent_runner_is_silent_though_the_masters_clock_was_set_back(api):
    services.save_runner(report())
    age(hours=-1)
    assert states(api) == {"runner@here": "silent"}


def test_one_that_stopped_in_order_stays_stopped(api):
    services.save_runner(report(state="stopped"))
    age(hours=1)
    assert states(api) == {"runner@here": "stopped"}


def test_a_silent_one_that_reports_is_up(api):
    first = report()
    services.save_runner(first)
    age(minutes=5)
    assert services.save_runner(first | {"number": 2})
    assert states(api) == {"runner@here": "up"}


def test_an_old_report_does_not_overwrite_a_newer_one(api):
    first = report()
    assert services.save_runner(first | {"number": 3, "state": "stopped"})
    assert not services.save_runner(first | {"number": 2})
    assert not services.save_runner(first | {"number": 3})
    assert states(api) == {"runner@here": "stopped"}


def test_an_old_report_does_not_make_a_silent_runner_heard(api):
    first = report()
    services.save_runner(first | {"number": 3})
    age(minutes=5)
    assert not services.save_runner(first | {"number": 2})
    assert states(api) == {"runner@here": "silent"}


def test_a_report_of_an_earlier_life_does_not_overwrite_the_next_one(api):
    now = timezone.now().timestamp()
    assert services.save_runner(report(number=100, started_at=now - 100))
    assert services.save_runner(report(number=1, started_at=now))
    assert not services.save_runner(report(number=101, started_at=now - 100, state="stopped"))
    assert states(api) == {"runner@here": "up"}


def test_a_runner_whose_clock_was_set_back_is_heard_once_its_earlier_life_is_silent(api):
    now = timezone.now().timestamp()
    services.save_runner(report(number=5, started_at=now + 3600))
    assert not services.save_runner(report(number=1, started_at=now))
    age(seconds=31)
    assert services.save_runner(report(number=2, started_at=now))
    assert states(api) == {"runner@here": "up"}


def test_when_it_was_heard_is_the_masters_clock(api):
    before = timezone.now()
    services.save_runner(report(started_at=before.timestamp() - 10**6, busy=[busy(1)]))
    assert before <= Runner.objects.get().heartbeat_at <= timezone.now()


def test_mending_forgets_a_runner_after_a_week(api, queues):
    services.save_runner(report("old"))
    age(days=7, minutes=1)
    services.save_runner(report("recent", started_at=timezone.now().timestamp()))
    services.save_runner(report("stopped", state="stopped"))
    assert services.mend() == 0
    assert states(api) == {"recent": "up", "stopped": "stopped"}


def test_its_task_saves(api):
    tasks.save_runner(report())
    assert states(api) == {"runner@here": "up"}


def test_a_report_is_dropped_while_the_database_is_away(api, monkeypatch):
    closed = []

    def away(message):
        raise OperationalError

    monkeypatch.setattr(services, "save_runner", away)
    monkeypatch.setattr(tasks.connection, "close", lambda: closed.append(True))
    tasks.save_runner(report())
    assert closed


def test_it_rejects_a_caller_without_credentials(db):
    assert Api(None).get("runners/").status == 401
