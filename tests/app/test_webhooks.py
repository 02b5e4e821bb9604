"""`webhook` of POST /runapp/submissionfold/: the call when a fold has ended."""

import hashlib
import hmac
import json
import logging
import re
import time
import uuid
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path

import pytest
from django.conf import settings as django_settings
from django.db import OperationalError
from django.test import Client
from django.utils import timezone

from runapp import services, webhooks
from runapp.models import Call, Submission, SubmissionFold
from runapp.services import calls
from runapp.services.calls import PAUSES, Deliverer
from tests.app.helpers import (
    OTHER_CLASSIFIER,
    failure,
    finish,
    finish_split,
    fold,
    heard,
    new_fold,
    pack,
    progress,
    result,
    split_result,
)
from tests.receiver import receiver

pytestmark = pytest.mark.embedded

SECRET = "a secret of sixteen letters or more"


@pytest.fixture(autouse=True)
def _loopback(settings, monkeypatch):
    settings.WEBHOOK_ALLOW = [ip_network("127.0.0.0/8")]
    # Whoever answers here does, be the machine ever so slow.
    monkeypatch.setattr(webhooks, "TIMEOUT", 60)
    monkeypatch.setattr(webhooks, "MAX_SECONDS", 120)


@pytest.fixture
def there():
    with receiver() as it:
        yield it


def named(url: str, secret: str = SECRET) -> dict[str, str]:
    return {"webhook": url, "webhook_secret": secret}


def deliver(deliverer: Deliverer | None = None, seconds: float = 120) -> None:
    """Deliver what is due, until nothing is on its way."""
    deliverer = deliverer or Deliverer()
    deadline = time.monotonic() + seconds
    deliverer.step(0)
    while deliverer.busy:
        assert time.monotonic() < deadline
        deliverer.step(0.01)


def make_due() -> None:
    Call.objects.update(due_at=timezone.now() - timedelta(seconds=1))


def test_it_works(api, iris, there):
    answer = api.new_fold(iris, **named(there.url()))
    assert answer.status == 201, answer.content
    before = int(time.time())
    finish(result())
    deliver()

    [got] = there.got
    record = api.get("submissionfold/1/").body
    fields = ("databoard_sf_id", "databoard_s", "state", "error_reason", "finished_at", "task_id")
    said = got.said
    assert before <= said.pop("sent_at") <= time.time()
    assert said == {name: record[name] for name in fields}
    assert said["state"] == "TESTED"
    assert got.headers["Content-Type"] == "application/json"
    assert uuid.UUID(got.headers["X-Datarun-Delivery"])
    expected = hmac.new(SECRET.encode(), got.body, hashlib.sha256).hexdigest()
    assert got.headers["X-Datarun-Signature"] == f"sha256={expected}"
    assert not Call.objects.exists()


def test_the_example_of_the_documentation_verifies_it(api, iris, there):
    text = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
    [example] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    code: dict = {}
    exec(example, code)
    api.new_fold(iris, **named(there.url()))
    finish(result())
    deliver()
    [got] = there.got
    signature = got.headers["X-Datarun-Signature"]

    assert code["verified"](SECRET, got.body, signature) == got.said

    old = json.dumps(got.said | {"sent_at": got.said["sent_at"] - 600}).encode()
    signed_old = "sha256=" + hmac.new(SECRET.encode(), old, hashlib.sha256).hexdigest()
    for bad in [
        ("another secret of that length", got.body, signature),
        (SECRET, got.body.replace(b"TESTED", b"ERROR"), signature),
        (SECRET, got.body, "sha256=" + "0" * 64),
        (SECRET, old, signed_old),
    ]:
        with pytest.raises(ValueError, match="not from datarun"):
            code["verified"](*bad)


# --- which ends are told


def ends_of_a_fold(api, iris):
    """Each way that a fold ends."""
    gone = {"attempts": django_settings.MAX_ATTEMPTS, "deadline": timezone.now() - timedelta(seconds=1)}

    def mended():
        SubmissionFold.objects.update(started_at=timezone.now(), queued_at=timezone.now(), **gone)
        heard()
        services.mend()

    def split_failed():
        api.post("rawdata/split/", {"raw_data_id": iris.pk, "held_out_test": 0.25})
        SubmissionFold.objects.update(queued_at=None)
        finish_split(iris, None)

    def given_up():
        SubmissionFold.objects.update(attempts=django_settings.MAX_ATTEMPTS)
        finish(failure())

    return {
        "user_code": lambda: finish(failure(reason="user_code")),
        "infrastructure": given_up,
        "infrastructure ": mended,
        "data": split_failed,
    }


@pytest.mark.parametrize("reason", ["user_code", "infrastructure", "infrastructure ", "data"])
def test_each_failure_is_told(api, iris, there, reason):
    api.new_fold(iris, **named(there.url()))
    api.new_fold(iris, 9, submission=9)  # nobody asks to be told of this one
    if reason == "data":
        split_result(iris)
    ends_of_a_fold(api, iris)[reason]()
    deliver()
    [got] = there.got
    record = api.get("submissionfold/1/").body
    assert (got.said["databoard_sf_id"], got.said["state"]) == (1, "ERROR")
    assert got.said["error_reason"] == record["error_reason"] != ""
    assert got.said["finished_at"] == record["finished_at"]


def test_all_folds_of_the_submission_are_told(api, iris, there):
    api.new_fold(iris, **named(there.url()))
    api.post("submissionfold/bulk/", [fold(key) for key in (2, 3)])
    for key in (1, 2, 3):
        finish(result(key))
    deliver()
    assert sorted(got.said["databoard_sf_id"] for got in there.got) == [1, 2, 3]
    assert len({got.headers["X-Datarun-Delivery"] for got in there.got}) == 3


def test_what_is_no_end_is_not_told(api, iris, there):
    api.new_fold(iris, **named(there.url()))
    services.advance(progress())
    finish(failure())  # tried again
    assert not Call.objects.exists()
    late = result()
    finish(late)
    assert not finish(late)
    assert Call.objects.count() == 1


def test_a_fold_without_a_webhook_makes_no_call(api, iris):
    api.new_fold(iris)
    finish(result())
    assert not Call.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_a_verdict_and_its_call_are_written_together(api, iris, there, monkeypatch):
    api.new_fold(iris, **named(there.url()))
    message = result()

    def fail(*args, **more):
        raise OperationalError("the database went away")

    with monkeypatch.context() as patch:
        patch.setattr(Call, "record", fail)
        with pytest.raises(OperationalError):
            services.finish(message)
    assert SubmissionFold.objects.get().state == "TODO"
    assert services.finish(message)
    assert Call.objects.count() == 1


@pytest.mark.parametrize("way", ["deleted", "replaced", "submission replaced"])
def test_nobody_is_told_of_a_fold_that_is_gone(api, iris, there, way):
    api.new_fold(iris, **named(there.url()))
    finish(result())
    if way == "deleted":
        SubmissionFold.objects.all().delete()
    elif way == "replaced":
        assert api.post("submissionfold/", fold(force="submission_fold")).status == 201
    else:
        assert api.new_fold(iris, force="submission").status == 201
    deliver()
    assert there.got == []
    assert not Call.objects.exists()


def test_a_fold_that_is_trained_again_is_told_again(api, iris, there):
    tasks = [api.new_fold(iris, **named(there.url())).body["task_id"]]
    finish(result())
    deliver()
    tasks.append(api.post("submissionfold/", fold(force="submission_fold")).body["task_id"])
    finish(result())
    deliver()
    assert [got.said["task_id"] for got in there.got] == tasks


# --- attempts


def test_a_call_that_fails_is_tried_again_after_growing_pauses(api, iris, there, caplog, still):
    caplog.set_level(logging.INFO)
    there.status = 500
    api.new_fold(iris, **named(there.url()))
    finish(result())
    make_due()
    for attempt, pause in enumerate(PAUSES, 1):
        deliver()
        assert len(there.got) == attempt
        assert Call.objects.get().due_at == timezone.now() + timedelta(seconds=pause)
        deliver()
        assert len(there.got) == attempt, "before its time"
        make_due()
    assert "given up" not in caplog.text
    deliver()
    assert len(there.got) == len(PAUSES) + 1 == 10
    assert not Call.objects.exists()
    assert "given up after 10 attempts, the last: it answered 500" in caplog.text
    assert len({got.headers["X-Datarun-Delivery"] for got in there.got}) == 1


def test_the_attempts_take_about_a_day():
    assert [*PAUSES] == sorted(PAUSES)
    assert 20 * 3600 < sum(PAUSES) < 28 * 3600


def test_a_call_arrives_once_the_receiver_is_back(api, iris, there):
    there.status = 503
    api.new_fold(iris, **named(there.url()))
    finish(result())
    deliver()
    there.status = 200
    make_due()
    deliver()
    make_due()
    deliver()
    assert len(there.got) == 2
    assert not Call.objects.exists()


def test_an_attempt_that_breaks_in_an_unforeseen_way_is_tried_again(api, iris, there, monkeypatch, caplog):
    api.new_fold(iris, **named(there.url()))
    finish(result())

    def fail(*args):
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(calls.webhooks, "send", fail)
        deliver()
    assert Call.objects.get().attempts == 1
    assert "its webhook was not called" in caplog.text
    make_due()
    deliver()
    assert len(there.got) == 1


def test_an_address_that_became_private_is_not_called(api, iris, there, settings):
    api.new_fold(iris, **named(there.url()))
    finish(result())
    settings.WEBHOOK_ALLOW = []
    deliver()
    assert there.got == []
    assert Call.objects.get().attempts == 1


# --- side by side


def test_two_deliverers_make_one_call(api, iris, there):
    api.new_fold(iris, **named(there.url()))
    finish(result())
    first, second = Deliverer(), Deliverer()
    there.open.clear()
    first.step(0)
    second.step(0)
    assert len(first.busy) == 1
    assert not second.busy
    there.open.set()
    deliver(first)
    deliver(second)
    assert len(there.got) == 1


def test_a_claim_counts_once(api, iris, there):
    api.new_fold(iris, **named(there.url()))
    finish(result())
    one, other = Call.objects.get(), Call.objects.get()
    until = timezone.now() + calls.CLAIM
    assert one.claim(until)
    assert not other.claim(until)
    assert Call.objects.get().attempts == 1


def test_a_claim_expires(api, iris, there):
    """The process that had it is gone."""
    api.new_fold(iris, **named(there.url()))
    finish(result())
    lost = Call.objects.get()
    lost.claim(timezone.now() + calls.CLAIM)
    deliver()
    assert there.got == []
    make_due()
    deliver()
    assert len(there.got) == 1
    assert not lost.postpone(timezone.now())


def test_a_slow_receiver_holds_up_neither_another_nor_results(api, iris, there):
    with receiver(host="127.0.0.2") as slow:  # another host to us
        slow.open.clear()
        api.new_fold(iris, 1, **named(slow.url("127.0.0.2")))
        api.new_fold(iris, 2, submission=2, **named(there.url()))
        api.new_fold(iris, 3, submission=2)
        finish(result(1))
        finish(result(2))
        deliverer = Deliverer()
        until(deliverer, lambda: len(there.got) == 1)
        assert finish(result(3))
        until(deliverer, lambda: len(there.got) == 2 and set(deliverer.busy) == {"127.0.0.2"})
        slow.open.set()
        deliver(deliverer)


def until(deliverer: Deliverer, condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        deliverer.step(0.01)


def test_a_host_gets_one_call_at_a_time(api, iris, there):
    bodies = [new_fold(iris, key, submission=key, **named(there.url())) for key in range(1, 6)]
    assert api.post("submissionfold/bulk/", bodies).status == 201
    for key in range(1, 6):
        finish(result(key))
    deliver()
    assert len(there.got) == 5
    assert there.most_at_once == 1


def test_no_more_hosts_than_threads_are_called_at_once(api, iris, there, monkeypatch):
    monkeypatch.setattr(calls, "THREADS", 2)
    there.open.clear()
    for key in range(1, 5):
        api.new_fold(iris, key, submission=key, **named(there.url()))
        finish(result(key))
        Call.objects.filter(databoard_sf_id=key).update(host=f"host{key}")
    deliverer = Deliverer()
    deliverer.step(0)
    assert len(deliverer.busy) == 2
    until(deliverer, lambda: len(there.got) == 2)
    there.open.set()
    deliver(deliverer)
    assert len(there.got) == 4
    assert there.most_at_once == 2


@pytest.mark.django_db(transaction=True)
def test_the_thread_survives_a_database_that_is_away(api, iris, there, monkeypatch):
    api.new_fold(iris, **named(there.url()))
    finish(result())
    failed = []
    begin = Deliverer._begin

    def fail_once(self):
        if not failed:
            failed.append(1)
            raise OperationalError("the database went away")
        begin(self)

    class Stop(BaseException):
        pass

    def step(self, wait=0.0):
        if not Call.objects.exists():
            raise Stop
        real_step(self, 0.01)

    real_step = Deliverer.step
    monkeypatch.setattr(Deliverer, "_begin", fail_once)
    monkeypatch.setattr(Deliverer, "step", step)
    monkeypatch.setattr(calls.time, "sleep", lambda seconds: None)
    with pytest.raises(Stop):
        Deliverer()._run()
    assert len(there.got) == 1
    assert failed


# --- what is accepted


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        ({"webhook": "https://example.org/"}, "webhook_secret"),
        ({"webhook_secret": SECRET}, "webhook"),
        ({"webhook": "https://example.org/", "webhook_secret": None}, "webhook_secret"),
        (named("https://example.org/", "fifteen letters"), "webhook_secret"),
        (named("https://example.org/", "x" * 201), "webhook_secret"),
        (named("https://example.org/" + "x" * 481), "webhook"),
        (named("ftp://example.org/"), "webhook"),
        (named("example.org"), "webhook"),
        (named(""), "webhook"),
        (named("https://ada:pass@example.org/"), "webhook"),
        (named("http://10.0.0.1/"), "webhook"),
        (named("http://[::1]/"), "webhook"),
        (named("http://3232235777/"), "webhook"),
        (named("http://169.254.169.254/latest/meta-data/"), "webhook"),
        ({"webhook": 7, "webhook_secret": SECRET}, "webhook"),
        ({"webhook": ["https://example.org/"], "webhook_secret": SECRET}, "webhook"),
    ],
)
def test_it_rejects_a_webhook_that_is_none(api, iris, bad, field):
    answer = api.new_fold(iris, **bad)
    assert answer.status == 400
    assert list(answer.body) == [field]
    assert SECRET.encode() not in answer.content
    assert not Submission.objects.exists()


def test_the_bounds_are_included(api, iris):
    assert api.new_fold(iris, **named("https://example.org/" + "x" * 480, "x" * 16)).status == 201
    assert api.new_fold(iris, 2, submission=2, **named("https://example.org/", " " + "x" * 198 + " ")).status == 201
    assert len(Submission.objects.get(pk=2).webhook_secret) == 200


def test_a_known_submission_keeps_its_webhook(api, iris, there):
    same = named("https://example.org/a")
    assert api.new_fold(iris, **same).status == 201
    assert api.new_fold(iris, 2, **same).status == 201
    assert api.post("submissionfold/", fold(3, **same)).status == 201
    assert api.post("submissionfold/", fold(4)).status == 201
    for other in (named("https://example.org/b"), named("https://example.org/a", SECRET + "!")):
        for body in (new_fold(iris, 5, **other), fold(5, **other)):
            answer = api.post("submissionfold/", body)
            assert answer.status == 400
            assert list(answer.body) == ["webhook"]
            assert "force='submission'" in answer.body["webhook"][0]


def test_a_known_submission_without_one_gets_none_unforced(api, iris):
    api.new_fold(iris)
    assert list(api.new_fold(iris, 2, **named("https://example.org/")).body) == ["webhook"]


@pytest.mark.parametrize("more", [named("https://example.org/b"), {}])
def test_force_replaces_it(api, iris, more):
    api.new_fold(iris, **named("https://example.org/a"))
    other = {"classifier.py": pack(OTHER_CLASSIFIER)}
    assert api.new_fold(iris, force="submission", files=other, **more).status == 201
    stored = Submission.objects.get()
    assert (stored.webhook, stored.webhook_secret) == (more.get("webhook", ""), more.get("webhook_secret", ""))


# --- who sees the secret


def test_the_secret_is_shown_nowhere(api, iris, there, django_user_model, caplog):
    caplog.set_level(logging.DEBUG)
    there.status = 500
    posted = api.new_fold(iris, **named(there.url()))
    finish(result())
    deliver()
    admin = Client()
    admin.force_login(django_user_model.objects.create_superuser("root", "", "x"))
    pages = [
        admin.get(f"/admin/runapp/{path}").content
        for path in ("submission/", "submission/1/change/", "submissionfold/1/change/", "submission/1/delete/")
    ]
    assert b"127.0.0.1" in pages[1]
    answers = [posted, *(api.get(path) for path in ("submissionfold/", "submissionfold/1/", "submissionfold-light/"))]
    for content in [*pages, *(answer.content for answer in answers), caplog.text.encode()]:
        assert SECRET.encode() not in content
    assert "attempt 1 failed" in caplog.text
    assert "/hook" not in caplog.text


@pytest.mark.parametrize("query", ["webhook_secret__startswith=a", "webhook_secret=a", "webhook_secret__regex=^a"])
@pytest.mark.parametrize("path", ["submission", "submissionfold"])
def test_nobody_can_guess_it_in_the_admin(api, iris, django_user_model, path, query):
    api.new_fold(iris, **named("https://example.org/"))
    admin = Client()
    admin.force_login(django_user_model.objects.create_superuser("root", "", "x"))
    prefix = "databoard_s__" if path == "submissionfold" else ""
    assert admin.get(f"/admin/runapp/{path}/?{prefix}{query}").status_code in (302, 400)
