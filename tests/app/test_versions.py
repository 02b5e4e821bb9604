"""A master among runners of another release: messages as the last release sent them, and as it reads them."""

import json

import pytest

from runapp import tasks
from runapp.models import RawData, Runner
from runner.jobs import version_name
from tests.app.helpers import committed, stored
from tests.messages import UNKNOWN, check, recorded


@pytest.fixture(params=[{}, UNKNOWN], ids=["as it was", "with more fields"])
def more(request):
    return request.param


def split_again(raw, task_id):
    RawData.objects.filter(pk=raw.pk).update(split_state=RawData.Split.QUEUED, split_task_id=task_id)


def test_messages_to_runners_have_all_fields_that_the_last_release_reads(api, iris, custom, queues):
    api.new_fold(iris)
    [fold] = queues.take("L")
    api.post("rawdata/split/", {"raw_data_id": iris.pk, "held_out_test": 0.2})
    api.post("rawdata/customsplit/", {"raw_data_id": custom.pk})
    sent = {message.name: message.content for message in [fold, *queues.take("celery")]}
    assert set(sent) == {"train_test_submission_fold", "prepare_data", "custom_prepare_data"}
    assert check(json.loads(json.dumps(sent))) == []


def test_it_takes_in_a_result(sent, more):
    message = recorded("save_fold") | {"databoard_sf_id": 1, "task_id": stored().task_id}
    tasks.save_fold(message | more)
    assert (stored().state, stored().train_time) == ("TESTED", message["train_time"])
    assert stored().test_predictions_shape == message["test_predictions_shape"]


def test_it_takes_in_how_far_a_fold_is(sent, more):
    tasks.save_progress(recorded("save_progress") | {"databoard_sf_id": 1, "task_id": stored().task_id} | more)
    assert (stored().state, stored().runner) == ("TRAINED", recorded("save_progress")["runner"])


@pytest.mark.parametrize("kind", ["save_split", "custom save_split"])
def test_it_takes_in_a_split(iris, kind, more):
    message = recorded(kind) | {"raw_data_id": iris.pk}
    split_again(iris, message["task_id"])
    (iris.root / version_name(message["task_id"])).mkdir()
    with committed():
        tasks.save_split(message | more)
    iris.refresh_from_db()
    assert (iris.split_state, iris.n_train) == (RawData.Split.DONE, message["rows"][0])


def test_it_counts_a_fold_that_ended_with_its_runner(sent, more):
    tasks.save_lost(recorded("save_lost") | {"databoard_sf_id": 1, "task_id": stored().task_id} | more)
    assert stored().attempts == 2


def test_it_counts_a_split_that_ended_with_its_runner(iris, more):
    message = recorded("split save_lost") | {"raw_data_id": iris.pk}
    split_again(iris, message["task_id"])
    before = RawData.objects.get(pk=iris.pk).split_attempts
    tasks.save_lost(message | more)
    assert RawData.objects.get(pk=iris.pk).split_attempts == before + 1


def test_it_sends_a_fold_anew_that_came_back(sent, queues, more):
    tasks.save_returned(recorded("save_returned") | {"databoard_sf_id": 1, "task_id": stored().task_id} | more)
    assert queues.folds() == [1]


def test_it_sends_a_split_anew_that_came_back(iris, queues, more):
    message = recorded("split save_returned") | {"raw_data_id": iris.pk}
    split_again(iris, message["task_id"])
    tasks.save_returned(message | more)
    assert len(queues.take("celery")) == 1


def test_it_takes_in_the_report_of_a_runner(db, more):
    message = recorded("save_runner")
    tasks.save_runner(message | more)
    assert Runner.objects.get().version == message["version"]
