"""Publishing: after the commit that made a fold or a split, and in the end whatever happens to the broker."""

from datetime import timedelta

import pytest
from amqp.exceptions import AccessRefused
from django.db import transaction
from django.utils import timezone
from kombu import Producer

from runapp import services
from runapp.models import RawData, SubmissionFold
from runapp.services import queueing
from runner import config
from tests.app.helpers import Api, failure, finish, finish_split, fold, heard, new_fold, split_result

pytestmark = pytest.mark.embedded

LONG = timedelta(minutes=10)


class RolledBack(Exception):
    pass


@pytest.mark.django_db(transaction=True)
def test_it_works(iris, queues):
    """Within the transaction nothing is sent, at its end the fold is."""
    client = Api().client
    with transaction.atomic():
        assert client.post("/runapp/submissionfold/", new_fold(iris), format="json").status_code == 201
        assert queues.take("L") == []
    assert queues.folds() == [1]


@pytest.mark.django_db(transaction=True)
def test_a_rolled_back_transaction_publishes_nothing(iris, queues):
    client = Api().client
    with pytest.raises(RolledBack), transaction.atomic():
        client.post("/runapp/submissionfold/", new_fold(iris), format="json")
        client.post("/runapp/rawdata/split/", {"raw_data_id": iris.pk, "held_out_test": 0.5}, format="json")
        raise RolledBack

    assert queues.take("L") == []
    assert queues.take("celery") == []
    assert not SubmissionFold.objects.exists()
    iris.refresh_from_db()
    assert iris.split_state == "DONE"


def test_a_fold_is_accepted_while_the_broker_is_down(api, iris, queues, broker_down):
    back = broker_down()

    answer = api.new_fold(iris)

    assert answer.status == 201
    assert SubmissionFold.objects.get().queued_at is None
    SubmissionFold.objects.update(created_at=timezone.now() - LONG)
    assert services.mend() == 0  # it is still down
    back()
    assert services.mend() == 1
    [message] = queues.take("L")
    assert message.task_id == answer.body["task_id"]
    assert services.mend() == 0


def test_a_fold_is_accepted_while_the_broker_refuses_the_masters_password(api, iris, queues, monkeypatch):
    """As it does for a moment while passwords are changed."""

    def refuse(*args, **how):
        raise AccessRefused("Login was refused")

    with monkeypatch.context() as patch:
        patch.setattr(Producer, "publish", refuse)
        assert api.new_fold(iris).status == 201
    SubmissionFold.objects.update(created_at=timezone.now() - LONG)
    assert services.mend() == 1
    assert queues.folds() == [1]


def test_a_fold_is_accepted_while_the_broker_is_frozen(api, iris, queues, frozen):
    api.new_fold(iris)
    assert queues.folds() == [1]

    with frozen():
        assert api.new_fold(iris, 2).status == 201  # on a connection that was made before
        assert api.new_fold(iris, 3).status == 201  # on none

    assert list(SubmissionFold.objects.filter(queued_at=None).values_list("pk", flat=True)) == [2, 3]
    SubmissionFold.objects.update(created_at=timezone.now() - LONG)
    assert services.mend() == 2
    assert set(queues.folds()) == {2, 3}  # 2 twice, where the first message arrived after all


def test_mending_does_not_wait_for_a_broker_that_is_frozen(api, iris, queues, frozen):
    api.new_fold(iris)
    SubmissionFold.objects.update(created_at=timezone.now() - LONG, queued_at=None)
    heard()
    with frozen():
        assert services.mend() == 0


def test_many_folds_are_accepted_while_the_broker_is_down(api, iris, queues, broker_down):
    back = broker_down()
    answer = api.post("submissionfold/bulk/", [new_fold(iris, key) for key in range(10)])
    assert answer.status == 201
    SubmissionFold.objects.update(created_at=timezone.now() - LONG)
    back()
    assert services.mend() == 10
    assert sorted(queues.folds()) == list(range(10))


def test_many_folds_are_accepted_while_the_broker_is_frozen(api, iris, queues, frozen):
    api.new_fold(iris)
    queues.purge()
    with frozen():
        assert api.post("submissionfold/bulk/", [fold(key) for key in range(2, 152)]).status == 201
    assert SubmissionFold.objects.filter(queued_at=None).count() == 150
    SubmissionFold.objects.update(created_at=timezone.now() - LONG)
    assert services.mend() == 150
    assert set(queues.folds()) == {*range(2, 152)}


def test_folds_that_the_broker_refuses_are_sent_again(api, iris, queues):
    if not config.has_broker():
        pytest.skip("files refuse nothing")
    api.new_fold(iris)
    with queues.connection.channel() as channel:
        channel.queue_delete("L")
        few = {"x-queue-type": "quorum", "x-max-length": 10, "x-overflow": "reject-publish"}
        channel.queue_declare("L", durable=True, auto_delete=False, arguments=few)
        channel.queue_bind("L", config.WORK_EXCHANGE, "L")
    assert api.post("submissionfold/bulk/", [fold(key) for key in range(2, 302)]).status == 201
    noted = set(SubmissionFold.objects.filter(pk__gt=1, queued_at__isnull=False).values_list("pk", flat=True))
    assert set(queues.folds()) == noted
    assert len(noted) < 300
    queues.remove("L")
    SubmissionFold.objects.update(created_at=timezone.now() - LONG)
    assert services.mend() == 300 - len(noted)
    assert set(queues.folds()) == {*range(2, 302)} - noted


def test_a_web_server_that_is_killed_midway_has_noted_most_of_what_it_sent(api, iris, queues, monkeypatch):
    api.post("submissionfold/bulk/", [new_fold(iris, key) for key in range(1, 251)])
    queues.purge()
    SubmissionFold.objects.update(queued_at=None, created_at=timezone.now() - LONG)
    send, sent = Producer.publish, []

    def killed(*message, **how):
        if len(sent) == 249:
            raise KeyboardInterrupt
        sent.append(message)
        return send(*message, **how)

    monkeypatch.setattr(Producer, "publish", killed)
    with pytest.raises(KeyboardInterrupt):
        queueing.publish(SubmissionFold.objects.select_related("databoard_s__raw_data"))
    monkeypatch.undo()

    assert services.mend() == 50
    assert len(queues.folds()) == 249 + 50


def test_what_a_runner_starts_before_the_broker_has_confirmed_it_was_queued_before(api, raw, queues, monkeypatch):
    send, started = Producer.publish, []

    def seen_at_once(*message, **how):
        started.append(timezone.now())
        return send(*message, **how)

    monkeypatch.setattr(Producer, "publish", seen_at_once)
    api.post("rawdata/split/", {"raw_data_id": raw.pk, "held_out_test": 0.25})
    assert finish_split(raw)
    api.new_fold(raw)

    raw.refresh_from_db()
    assert raw.split_queued_at <= started[0]
    assert SubmissionFold.objects.get().queued_at <= started[1]


def test_a_split_is_accepted_while_the_broker_is_down(api, raw, queues, broker_down):
    back = broker_down()

    answer = api.post("rawdata/split/", {"raw_data_id": raw.pk, "held_out_test": 0.25})

    assert answer.status == 200
    RawData.objects.update(split_asked_at=timezone.now() - LONG)
    services.mend()
    back()
    assert services.mend() == 1
    [message] = queues.take("celery")
    assert message.task_id == answer.body["task_id"]


def test_a_split_that_ends_while_the_broker_is_down_loses_no_fold(api, raw, queues, broker_down):
    api.post("rawdata/split/", {"raw_data_id": raw.pk, "held_out_test": 0.25})
    api.new_fold(raw)
    back = broker_down()

    assert finish_split(raw)

    SubmissionFold.objects.update(created_at=timezone.now() - LONG)
    back()
    assert services.mend() == 1
    assert queues.folds() == [1]


def test_a_second_attempt_survives_a_broker_that_is_down(api, iris, queues, broker_down):
    api.new_fold(iris)
    queues.purge()
    back = broker_down()

    assert finish(failure())

    SubmissionFold.objects.update(created_at=timezone.now() - LONG)
    back()
    assert services.mend() == 1
    assert queues.folds() == [1]


def test_everything_else_answers_while_the_broker_is_down(api, iris, broker_down):
    api.new_fold(iris)
    broker_down()
    for path in ("rawdata/", "submissionfold/", "submissionfold/1/", "submissionfold-light/"):
        assert api.get(path).status == 200
    assert api.post("testpredictions/new/", {}).status == 200
    assert api.post("submissionfold/", fold(1)).status == 400


def test_a_lost_split_result_does_not_matter(api, raw):
    """The split was sent again, and both runs report: the first one counts, for it is the same task."""
    api.post("rawdata/split/", {"raw_data_id": raw.pk, "held_out_test": 0.25})
    message = split_result(raw)
    services.publish_split(raw.pk)
    assert finish_split(raw)
    assert not services.finish_split(message)
    raw.refresh_from_db()
    assert raw.split_state == "DONE"
