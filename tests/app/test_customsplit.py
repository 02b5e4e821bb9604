"""POST /runapp/rawdata/customsplit/, and the folds of a custom data set."""

from runapp.models import RawData
from runner.jobs import version_name
from tests.app.helpers import finish_split, new_fold, pack


def test_it_works(api, custom, queues):
    answer = api.post("rawdata/customsplit/", {"raw_data_id": custom.pk})

    assert answer.status == 200
    assert answer.body.keys() == {"task_id"}
    [message] = queues.take("celery")
    assert message.name == "custom_prepare_data"
    assert message.task_id == answer.body["task_id"]
    assert message.content == {
        "raw_data_id": custom.pk,
        "folder": custom.folder,
        "name": "digits",
        "target_column": "",
        "custom": True,
        "digest": custom.digest,
        "workflow_elements": [],
    }


def test_its_submissions_may_hold_any_plain_files(api, custom, queues):
    api.post("rawdata/customsplit/", {"raw_data_id": custom.pk})
    finish_split(custom)

    answer = api.new_fold(custom, files={"classifier.py": pack(b""), "settings.json": pack(b"{}")})

    assert answer.status == 201
    [message] = queues.take("L")
    assert message.content["data"] == {
        "folder": custom.folder,
        "target_column": "",
        "workflow_elements": [],
        "custom": True,
        "version": version_name(RawData.objects.get().split_task_id),
        "sums": "",
    }


def test_it_rejects_a_standard_data_set(api, raw, queues):
    answer = api.post("rawdata/customsplit/", {"raw_data_id": raw.pk})

    assert answer.status == 400
    assert list(answer.body) == ["raw_data_id"]
    assert "/runapp/rawdata/split/" in answer.body["raw_data_id"][0]
    assert queues.take("celery") == []


def test_a_fold_without_any_split_is_rejected(api, custom):
    answer = api.post("submissionfold/", new_fold(custom))
    assert answer.status == 400
    assert "/runapp/rawdata/customsplit/" in answer.body["raw_data"][0]
