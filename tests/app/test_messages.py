"""What the master takes of what runners say: each field within its bounds, from the one that may say it."""

import math
import time
from typing import Any

import pytest

from runapp import messages, services, tasks
from runapp.models import RawData, Runner
from tests.app.helpers import busy, progress, report, result, split_result, stored

pytestmark = pytest.mark.embedded

LONG = "x" * 1_000_001
DEEP: list[Any] = []
for _ in range(5000):
    DEEP = [DEEP]


WRONG: dict[str, dict[str, tuple[Any, ...]]] = {
    "save_fold": {
        "databoard_sf_id": (None, True, "1", 1.0, -1, 2**31, [1]),
        "task_id": (None, 7, "", "a b", "../raw", "x" * 65, "a\0"),
        "runner": (None, "", "x" * 201, "celery@\ud800", "a\nb"),
        "started_at": (None, "now", math.nan, math.inf, -1, 1e300, True),
        "finished_at": (None, -math.inf, 10**400),
        "state": (None, "", "TODO", "TRAINED", ["TESTED"]),
        "error_reason": (None, "whatever", "user_code"),
        "log_messages": (None, 7, ["log"]),
        "train_time": (None, "1", -1, math.nan, math.inf, 1e16),
        "test_memory": ({}, -0.5),
        "test_predictions": (None, 7, 'AA","state":"', "AA A", "\ud800", "@", "@00/evil", LONG),
        "full_train_predictions_shape": ("3", [-1], [1.5], [True], [2**31], [1] * 9, DEEP),
    },
    "save_progress": {
        "state": ("TESTED", "ERROR", None),
        "hard_time_limit": (None, 0, -1, 86_401, math.inf, math.nan, 1e300),
    },
    "save_split": {
        "raw_data_id": (None, -1, 2**63),
        "task_id": ("../../etc", "raw/.."),
        "rows": ([], [1], [1, 2, 3], [-1, 1], [1, 2**31], [1, None], "12"),
        "reason": ("", "whatever", 7),
        "log": (None, 7),
    },
    "save_runner": {
        "name": (None, "", "x" * 201, "a\0"),
        "state": ("down", None),
        "started_at": (None, math.nan, 1e12),
        "number": (None, 1.5, -1, 2**31),
        "queues": (None, "L", ["M"], ["L"] * 4, [["L"]]),
        "configured": (["master_periodic"],),
        "slots": (None, 0, 10**6, True),
        "busy": (
            None,
            {},
            [{}],
            [7],
            [busy(None) | {"since": "now"}],
            [busy(1) | {"databoard_sf_id": "1"}],
            [busy(1)] * 1025,
        ),
        "hard_time_limit": (None, 0, 1e300, math.inf, math.nan, "360"),
        "soft_time_limit": (-1, 86_401),
        "version": (None, "x" * 51, "\0"),
        "share": (None, 1, "yes"),
    },
}
EACH = [(kind, field) for kind in WRONG for field in WRONG[kind]]


@pytest.fixture
def said(sent, iris):
    """Each kind of message as a runner sends it."""
    return {
        "save_fold": result(),
        "save_progress": progress(),
        "save_split": split_result(iris),
        "save_runner": report(),
    }


@pytest.mark.parametrize(("kind", "field"), EACH)
def test_it_rejects_a_value_that_can_not_be(kind, field, said):
    before = stored().state, [*RawData.objects.values()], [*Runner.objects.values()]
    for value in WRONG[kind][field]:
        with pytest.raises(messages.Refused):
            messages.check(kind, said[kind] | {field: value}, messages.OURS)
        getattr(tasks, kind)(said[kind] | {field: value})
    assert (stored().state, [*RawData.objects.values()], [*Runner.objects.values()]) == before


@pytest.mark.parametrize("kind", WRONG)
def test_it_rejects_a_message_without_a_field_that_it_needs(kind, said):
    needed = [name for name, (required, _) in messages.FIELDS[kind].items() if required]
    for name in needed:
        without = {field: value for field, value in said[kind].items() if field != name}
        with pytest.raises(messages.Refused, match=f"has no {name}"):
            messages.check(kind, without, messages.OURS)


@pytest.mark.parametrize("kind", WRONG)
def test_what_it_does_not_know_is_left_out(kind, said):
    more = {"train_is": "@0/another", "new": False, "unread": 300, "put_back_at": time.time()}
    checked = messages.check(kind, said[kind] | more | {"runner": "celery@a", "name": "celery@a"}, "runner-a")
    assert not checked.keys() & more.keys()


def test_a_log_without_end_is_cut(sent):
    tasks.save_fold(result(log_messages=LONG))
    assert (stored().state, len(stored().log_messages)) == ("TESTED", messages.MAX_LOG)


def test_files_of_other_tasks_are_not_its_own(sent):
    digest, task_id = "0" * 64, stored().task_id
    for name in ("another.test_predictions.1", f"{task_id}.train_is", f"{task_id}.full_train_predictions.1"):
        with pytest.raises(messages.Refused, match="not its own"):
            messages.check("save_fold", result(test_predictions=f"@{digest}/{name}"), messages.OURS)
    assert messages.check("save_fold", result(test_predictions=f"@{digest}/{task_id}.test_predictions.1"), "")


@pytest.mark.parametrize("kind", ["save_fold", "save_progress", "save_split", "save_runner"])
def test_a_runner_speaks_for_itself_alone(kind, said):
    name = "name" if kind == "save_runner" else "runner"
    assert messages.check(kind, said[kind] | {name: "celery@a"}, "runner-a")["signed"]
    assert messages.check(kind, said[kind] | {name: "celery@a"}, "datarun")["signed"]
    for other in ("celery@b", "celery@a.b", "runner@a", "a"):
        with pytest.raises(messages.Refused, match="may not speak"):
            messages.check(kind, said[kind] | {name: other}, "runner-a")


@pytest.mark.parametrize("kind", ["save_fold", "save_progress", "save_split"])
def test_news_without_a_sender_are_refused(kind, said):
    with pytest.raises(messages.Refused, match="user_id"):
        messages.check(kind, said[kind], None)


def test_an_unsigned_report_counts_until_a_runner_signs_its_own(db):
    def take(message, sender):
        return services.save_runner(messages.check("save_runner", message, sender))

    assert take(report("celery@a", 1), None)
    assert take(report("celery@b", 1), None)
    assert take(report("celery@a", 2), "runner-a")
    assert not take(report("celery@a", 3), None)
    assert not take(report("celery@b", 2), None)
    assert not take(report("celery@c", 1), None)
    assert {*Runner.objects.values_list("name", "number")} == {("celery@a", 2), ("celery@b", 1)}


@pytest.mark.parametrize("limit", [0.001, 86_400.0])
def test_mending_goes_on_whatever_a_report_says(limit, api, iris):
    api.new_fold(iris)
    tasks.save_runner(report(hard_time_limit=limit, soft_time_limit=limit, started_at=0, busy=[busy(1)] * 1024))
    assert Runner.objects.get().hard_time_limit == limit
    Runner.objects.update(heard_since="2000-01-01T00:00:00Z")
    services.mend()
    assert api.get("runners/").status == 200
