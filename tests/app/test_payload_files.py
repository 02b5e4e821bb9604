"""Large indices and predictions are files on the shared disk, and many folds cost no more queries than few."""

import base64
import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from runapp.models import RawData, SubmissionFold
from runner import config, payloads
from tests.app.helpers import finish, finish_split, fold, indices, new_fold, pack, predictions, result

pytestmark = pytest.mark.embedded


@pytest.fixture(scope="module")
def many_rows() -> np.ndarray:
    return np.random.default_rng(0).permutation(700_000)


@pytest.fixture(scope="module")
def large(many_rows) -> str:
    """Row numbers whose text is past a megabyte."""
    text = indices(many_rows)
    assert len(text) > payloads.INLINE_BYTES
    return text


@pytest.fixture
def wide(api, queues, raw) -> RawData:
    """A data set of so many rows."""
    api.post("rawdata/split/", {"raw_data_id": raw.pk, "held_out_test": 0.25})
    finish_split(raw, (700_000, 10))
    queues.purge()
    return raw


def large_files() -> dict[str, bytes]:
    folder = config.dir_large()
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


def test_it_works(api, wide, queues, large, many_rows):
    answer = api.new_fold(wide, train_is=large)

    assert answer.status == 201
    assert answer.body["train_is"] == large
    # In the message its name and hash, on the disk the text.
    [message] = queues.take("L")
    digest = hashlib.sha256(large.encode()).hexdigest()
    text = message.content["train_is"]
    assert text.startswith(f"@{digest}/")
    assert large_files() == {text.partition("/")[2]: large.encode()}
    assert np.array_equal(payloads.unpack(text, "<i8", 1 << 30), many_rows)


def test_it_is_streamed_back_as_it_was_sent(api, wide, large):
    api.new_fold(wide, train_is=large)
    for path in ("submissionfold/1/", "submissionfold/"):
        record = api.get(path).body
        record = record[0] if isinstance(record, list) else record
        assert record["train_is"] == large


def test_large_predictions_are_streamed_back_as_they_were_made(api, iris):
    api.new_fold(iris)
    numbers = np.random.default_rng(1).random((100_000, 2))
    text = payloads.pack(numbers, "task.test_predictions")
    finish(result(test_predictions=text))

    assert payloads.is_file(SubmissionFold.objects.get().test_predictions)
    for answer in (
        api.post("testpredictions/new/", {}),
        api.post("testpredictions/list/", {"list_submission_fold": [1]}),
    ):
        [record] = answer.body
        assert np.array_equal(payloads.unpack(record["test_predictions"], "<f8", 1 << 30).reshape(-1, 2), numbers)


def test_files_go_with_their_fold(api, wide, large):
    api.new_fold(wide, train_is=large)
    finish(result(test_predictions=payloads.pack(np.random.default_rng(1).random(200_000), "a.test_predictions")))
    assert len(large_files()) == 2

    api.post("submissionfold/", fold(force="submission_fold"))

    assert large_files() == {}


def test_files_go_with_their_submission(api, wide, large):
    api.new_fold(wide, train_is=large)
    api.new_fold(wide, 2, force="submission")
    assert large_files() == {}


def test_a_fold_that_is_sent_again_has_a_file_of_its_own(api, wide, large):
    api.new_fold(wide, train_is=large)
    api.post("submissionfold/", fold(force="submission_fold", train_is=large))
    assert list(large_files().values()) == [large.encode()]
    assert api.get("submissionfold/1/").body["train_is"] == large


def test_a_refused_fold_leaves_no_file(api, wide, large, iris):
    bodies = [new_fold(wide, 1, train_is=large), new_fold(wide, 1)]
    assert api.post("submissionfold/bulk/", bodies).status == 400
    assert large_files() == {}


def test_a_damaged_file_is_said_and_keeps_no_other_fold_from_its_reader(api, iris):
    api.new_fold(iris)
    text = payloads.pack(np.random.default_rng(1).random(200_000), "a.test_predictions")
    finish(result(test_predictions=text))
    (config.dir_large() / "a.test_predictions").write_bytes(base64.b64encode(bytes(10)))

    [record] = api.post("testpredictions/new/", {}).body
    assert record["test_predictions"] == ""
    assert record["full_train_predictions"] != ""
    assert "test_predictions is lost" in record["log_messages"]


# --- the shared disk is away while an answer is made


@pytest.fixture
def away(tmp_path, monkeypatch):
    """The disk is away until it is called."""
    marker = tmp_path / "marker"
    monkeypatch.setenv("DATARUN_SHARE_MARKER", str(marker))
    return marker.touch


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    "send",
    [
        lambda api: api.post("testpredictions/new/", {}),
        lambda api: api.post("testpredictions/list/", {"list_submission_fold": [1, 2]}),
        lambda api: api.get("submissionfold/"),
        lambda api: api.get("submissionfold/2/"),
    ],
    ids=["new", "list", "full", "one"],
)
def test_it_answers_503_while_predictions_cant_be_read(api, iris, away, send):
    for key in (1, 2):
        api.new_fold(iris, key)
    finish(result(1))
    text = payloads.pack(np.random.default_rng(1).random(200_000), "a.test_predictions")
    away()
    finish(result(2, test_predictions=text))
    Path(os.environ["DATARUN_SHARE_MARKER"]).unlink()

    answer = send(api)

    assert answer.status == 503
    assert list(answer.body) == ["detail"]
    assert SubmissionFold.objects.filter(new=True).count() == 2
    away()
    answer = send(api)
    assert answer.status == 200
    record = answer.body[-1] if isinstance(answer.body, list) else answer.body
    assert record["test_predictions"].encode() == b"".join(payloads.pieces(text))
    assert "lost" not in record["log_messages"]


@pytest.mark.django_db(transaction=True)
def test_an_answer_breaks_off_where_the_disk_goes_away(api, iris, away):
    """After its first piece it is too late for a status."""
    away()
    for key in (1, 2):
        api.new_fold(iris, key)
        text = payloads.pack(np.random.default_rng(key).random(200_000), f"{key}.test_predictions")
        finish(result(key, test_predictions=text))
    response = api.client.post("/runapp/testpredictions/new/", {}, format="json")
    pieces = iter(response.streaming_content)
    assert next(pieces)
    Path(os.environ["DATARUN_SHARE_MARKER"]).unlink()
    with pytest.raises(payloads.UnreadableError):
        list(pieces)
    response.close()
    away()
    assert api.post("testpredictions/new/", {}).ids == [1, 2]


# --- queries


@pytest.fixture
def count_queries(api, iris):
    """The number of queries of a request with so many tested folds stored."""

    def count(n: int, send) -> int:
        present = SubmissionFold.objects.count()
        api.post("submissionfold/bulk/", [new_fold(iris, key) for key in range(present, n)])
        SubmissionFold.objects.update(state="TESTED", new=True, test_predictions=predictions(3))
        with CaptureQueriesContext(connection) as queries:
            answer = send()
        assert answer.status == 200
        assert len(answer.ids) == n
        return len(queries)

    return count


@pytest.mark.parametrize(
    "send",
    [
        lambda api: api.get("submissionfold-light/"),
        lambda api: api.get("submissionfold/"),
        lambda api: api.post("testpredictions/new/", {}),
        lambda api: api.post("testpredictions/list/", {"list_submission_fold": list(range(1000))}),
    ],
    ids=["light", "full", "new", "list"],
)
def test_queries_do_not_grow_with_the_folds(api, count_queries, send):
    few = count_queries(2, lambda: send(api))
    many = count_queries(220, lambda: send(api))
    assert many == few
    assert few <= 10


def test_sending_many_folds_at_once_costs_few_queries(api, iris):
    def count(keys) -> int:
        with CaptureQueriesContext(connection) as queries:
            answer = api.post("submissionfold/bulk/", [new_fold(iris, key) for key in keys])
        assert answer.status == 201
        return len(queries)

    few = count(range(2))
    assert count(range(10, 210)) <= few + 10  # a database takes so many values in one statement


def test_queueing_what_waited_for_a_split_costs_few_queries(api, raw):
    def count(keys) -> int:
        api.post("rawdata/split/", {"raw_data_id": raw.pk, "held_out_test": 0.25})
        api.post("submissionfold/bulk/", [new_fold(raw, key) for key in keys])
        with CaptureQueriesContext(connection) as queries:
            finish_split(raw)
        return len(queries)

    few = count(range(2))
    assert count(range(10, 110)) <= few + 2


def test_small_payloads_are_no_files(api, iris):
    api.new_fold(iris)
    finish(result(test_predictions=pack(bytes(8))))
    assert large_files() == {}
