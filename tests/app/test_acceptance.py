"""The parts of runapp.acceptance that need no runner; the whole of it: tests/e2e/test_acceptance.py."""

from types import SimpleNamespace

import numpy as np
import pytest
from django.core.management import CommandError, call_command
from django.db.models.signals import pre_delete

from runapp import acceptance
from runapp.acceptance import Acceptance, Data, Runner
from runapp.models import RawData, SubmissionFold
from test_files import post_api
from test_files.demo import Server
from test_files.post_api import encode_bytes

ROWS = np.arange(3, 9)
ONE = Runner("one", ("L", "celery"), 2)


def record(data, change=0.0):
    """What a runner makes of a canary."""
    weights = data.train[ROWS, :-1].T @ data.train[ROWS, -1]
    predicted = {"full_train_predictions": data.train, "test_predictions": data.test}
    return {
        name: encode_bytes((part[:, :-1] @ weights / 8 + change).astype("<f8").tobytes())
        for name, part in predicted.items()
    }


@pytest.fixture
def run(db):
    return Acceptance(Server("http://127.0.0.1:9/", "ada", "x"), [ONE], 60, lambda line: None)


def test_right_predictions_are_right():
    data = Data()
    assert data.problem(record(data), ROWS) is None


@pytest.mark.parametrize("change", [1e-9, np.nan])
def test_predictions_are_compared_bit_for_bit(change):
    data = Data()
    assert "wrong predictions: its full_train_predictions" in data.problem(record(data, change), ROWS)


def test_those_of_other_rows_are_wrong():
    data = Data()
    assert "wrong predictions" in data.problem(record(data), ROWS + 1)


@pytest.mark.parametrize("text", ["", encode_bytes(b"123")])
def test_predictions_that_cant_be_read_are_wrong(text):
    data = Data()
    assert "can't be read" in data.problem(record(data) | {"test_predictions": text}, ROWS)


def test_ids_are_free(run, monkeypatch):
    taken = acceptance.IDS.start + 5
    SubmissionFold.objects.create(databoard_sf_id=taken)
    draws = iter([0, 6])
    monkeypatch.setattr(acceptance.secrets, "randbelow", lambda bound: next(draws))
    assert acceptance.free_ids() == taken + 1


def test_a_runner_that_nothing_is_seen_of_is_blamed(run):
    run.data_id = 1
    verdict = run.unreached(ONE, "L")
    assert verdict.blamed
    assert verdict.why == "no canary reached it within 60 s: is datarun-runner running there?"


def test_a_runner_at_work_on_other_folds_is_not_blamed(run):
    run.data_id = 1
    SubmissionFold.objects.create(databoard_sf_id=1, runner="celery@one", state="TRAINED")
    verdict = run.unreached(ONE, "L")
    assert not verdict.blamed
    assert "at work on other folds" in verdict.why


def test_a_runner_whose_folds_ended_before_is_blamed(run):
    SubmissionFold.objects.create(databoard_sf_id=1, runner="celery@one", state="TESTED")
    assert run.unreached(ONE, "celery").blamed


def test_a_signal_leaves_nothing_that_the_request_under_way_sends(run, monkeypatch):
    accepted = []

    def accept(*request):
        run.interrupt()
        accepted.append(RawData.objects.create(name=f"{run.name}-0", workflow_elements="classifier"))
        return {"id": accepted[0].pk}

    def more_signals(**_):
        for _ in range(2):
            run.interrupt()

    monkeypatch.setattr(run.server, "call", accept)
    pre_delete.connect(more_signals, RawData)
    try:
        with pytest.raises(KeyboardInterrupt):
            run.run()
    finally:
        pre_delete.disconnect(more_signals, RawData)
    assert len(accepted) == 1
    assert not RawData.objects.exists()


def test_a_second_signal_does_not_wait_for_the_request_under_way(run, monkeypatch):
    def hang(*request):
        run.interrupt()
        run.interrupt()
        pytest.fail("it waited")

    monkeypatch.setattr(run.server, "call", hang)
    with pytest.raises(KeyboardInterrupt):
        run.run()


def test_an_interrupted_run_waits_for_the_split_that_it_heard_no_answer_of(run, monkeypatch):
    asked = []

    def accept(function, *request):
        if function is post_api.post_data:
            return {"id": RawData.objects.create(name=f"{run.name}-0", workflow_elements="classifier").pk}
        RawData.objects.update(split_state=RawData.Split.QUEUED, split_task_id="split")
        return run.interrupt()

    monkeypatch.setattr(run.server, "call", accept)
    monkeypatch.setattr(acceptance, "SLEEP", -1)
    monkeypatch.setattr(acceptance.current_app.control, "revoke", asked.append)
    monkeypatch.setattr(acceptance, "wait_for", lambda tasks: asked.append([*tasks]))
    with pytest.raises(KeyboardInterrupt):
        run.run()
    assert asked == [["split"], ["split"]]
    assert not RawData.objects.exists()


def test_canaries_that_run_are_deleted_when_they_have_ended(run, monkeypatch):
    answers = [{"celery@one": [{"id": "other"}, {"id": "split"}]}, {"celery@one": [{"id": "other"}]}]
    inspect = SimpleNamespace(active=lambda: answers.pop(0))
    monkeypatch.setattr(acceptance.current_app.control, "inspect", lambda timeout: inspect)
    acceptance.wait_for({"split", "fold"})
    assert answers == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--runner", "one=L,X"], "'X' is no queue: the queues are L, H and celery"),
        (["--runner", "one"], "write NAME=QUEUE,...[:SLOTS]"),
        (["--runner", "one=L:0"], "'0' is no number of slots"),
        (["--runner", "one=L"], "no --runner serves the queue celery"),
        (["--runner", "one=L", "--runner", "one=celery"], "one is given twice"),
        (["--runner", "one=celery", "--ca", "/nowhere/ca.pem"], "/nowhere/ca.pem: there is no such file"),
    ],
)
def test_the_command_rejects(arguments, said):
    with pytest.raises(CommandError) as error:
        call_command("acceptance", "--url", "http://127.0.0.1:9", *arguments)
    assert said in str(error.value)
