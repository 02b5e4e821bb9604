"""POST /runapp/testpredictions/new/: each tested fold is handed out once."""

import json
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event

import pytest
from django.db import transaction

from runapp.models import RawData, SubmissionFold
from tests.app.helpers import Api, data_set, finish, finish_split, fold, in_thread, new_fold, predictions, result
from tests.app.test_testpredictions_list import RECORD

pytestmark = pytest.mark.embedded


def ask(api, **body):
    return api.post("testpredictions/new/", body)


def test_it_works(api, iris):
    api.new_fold(iris)
    finish(result())

    answer = ask(api, raw_data_id=iris.pk)

    assert answer.status == 200
    [record] = answer.body
    assert record.keys() >= RECORD
    assert (record["databoard_sf_id"], record["databoard_s"], record["state"]) == (1, 1, "TESTED")
    assert record["test_predictions"] == predictions(3)
    assert record["full_train_predictions"] == predictions(9)


def test_its_records_are_those_of_the_list(api, iris):
    api.new_fold(iris)
    finish(result())
    assert ask(api).body == api.post("testpredictions/list/", {"list_submission_fold": [1]}).body


def test_it_gives_tested_folds_once(api, iris):
    for key in (1, 2, 3):
        api.new_fold(iris, key)
    finish(result(1))
    finish(result(2, "ERROR", error_reason="user_code", log_messages="ERROR(train): x"))

    assert ask(api).ids == [1]
    assert ask(api).body == []
    finish(result(3))
    assert ask(api).ids == [3]
    assert list(SubmissionFold.objects.filter(new=True).values_list("pk", flat=True)) == [2]


def test_a_fold_that_is_trained_again_is_new_again(api, iris):
    api.new_fold(iris)
    finish(result())
    ask(api)
    api.post("submissionfold/", fold(force="submission_fold"))
    assert ask(api).body == []
    finish(result())
    assert ask(api).ids == [1]


@pytest.fixture
def two(api, iris):
    """Folds 1 and 2 of iris and fold 3 of another data set, all tested."""
    other = RawData.objects.get(pk=api.post("rawdata/", data_set("other")).body["id"])
    api.post("rawdata/split/", {"raw_data_id": other.pk, "held_out_test": 0.5})
    finish_split(other)
    api.post("submissionfold/bulk/", [new_fold(iris, 1), new_fold(iris, 2), new_fold(other, 3, submission=2)])
    for key in (1, 2, 3):
        finish(result(key))
    return iris, other


def test_it_gives_those_of_one_data_set(api, two):
    iris, other = two
    assert ask(api, raw_data_id=other.pk).ids == [3]
    assert ask(api, raw_data_id=other.pk).body == []
    assert ask(api, raw_data_id=iris.pk).ids == [1, 2]


@pytest.mark.parametrize("body", [{}, {"raw_data_id": None}])
def test_it_gives_those_of_all_data_sets(api, two, body):
    assert api.post("testpredictions/new/", body).ids == [1, 2, 3]


@pytest.mark.parametrize("key", [12345, -1, 2**31, 2**64, "iris", [1], 1.5])
def test_it_rejects_an_unknown_data_set(api, two, key):
    answer = ask(api, raw_data_id=key)
    assert answer.status == 400
    assert list(answer.body) == ["raw_data_id"]
    assert SubmissionFold.objects.filter(new=True).count() == 3


def from_another_thread(work):
    """As another worker does it: with a connection of its own."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(in_thread(work)).result(180)


@pytest.fixture
def many(api, iris):
    """Folds 0 to 19, tested, with payloads that do not fit into one piece of the answer."""
    api.post("submissionfold/bulk/", [new_fold(iris, key) for key in range(20)])
    for key in range(20):
        finish(result(key, test_predictions=predictions(40_000), full_train_predictions=predictions(10)))


@pytest.mark.django_db(transaction=True)
def test_what_a_caller_did_not_get_is_given_back(api, iris, many):
    response = api.client.post("/runapp/testpredictions/new/", {}, format="json")
    pieces = iter(response.streaming_content)
    assert next(pieces)
    assert from_another_thread(lambda: ask(Api()).body) == []
    assert from_another_thread(lambda: ask(Api(), raw_data_id=iris.pk).body) == []
    response.close()

    assert SubmissionFold.objects.filter(new=True).count() == 20
    assert ask(api).ids == list(range(20))


@pytest.mark.django_db(transaction=True)
def test_folds_are_new_until_the_answer_is_complete(api, many):
    response = api.client.post("/runapp/testpredictions/new/", {}, format="json")
    pieces = iter(response.streaming_content)
    sent = [next(pieces)]
    others = from_another_thread(lambda: ask(Api()).ids)
    assert others == []
    assert from_another_thread(lambda: SubmissionFold.objects.filter(new=True).count()) == 20
    sent += pieces
    assert SubmissionFold.objects.filter(new=True).count() == 0
    response.close()
    assert len(json.loads(b"".join(sent))) == 20
    assert ask(api).body == []


@pytest.mark.django_db(transaction=True)
def test_a_fold_that_ends_meanwhile_is_for_the_next_request(api, iris, many):
    response = api.client.post("/runapp/testpredictions/new/", {}, format="json")
    pieces = iter(response.streaming_content)
    sent = [next(pieces)]
    from_another_thread(lambda: Api().new_fold(iris, 77) and finish(result(77)))
    from_another_thread(lambda: Api().post("submissionfold/", fold(3, force="submission_fold")) and finish(result(3)))
    assert from_another_thread(lambda: ask(Api()).ids) == [3, 77]
    sent += pieces
    response.close()
    assert ask(api).body == []


@pytest.mark.django_db(transaction=True)
def test_an_answer_that_is_not_begun_holds_its_folds(api, many):
    """The server has it, and has sent nothing yet."""
    response = api.client.post("/runapp/testpredictions/new/", {}, format="json")
    assert from_another_thread(lambda: ask(Api()).ids) == []
    response.close()
    assert len(ask(api).ids) == 20


@pytest.mark.django_db(transaction=True)
def test_an_answer_that_was_never_read_is_given_back(api, iris):
    api.new_fold(iris)
    finish(result())

    api.client.post("/runapp/testpredictions/new/", {}, format="json").close()

    assert ask(api).ids == [1]


@pytest.mark.django_db(transaction=True)
def test_two_callers_at_once_get_each_fold_once(api, iris):
    keys = list(range(120))
    api.post("submissionfold/bulk/", [new_fold(iris, key) for key in keys])
    SubmissionFold.objects.update(state="TESTED", test_predictions=predictions(3))
    start = Barrier(4)

    def claim():
        mine = Api()
        start.wait(60)
        return [key for _ in range(3) for key in ask(mine).ids]

    with ThreadPoolExecutor(4) as pool:
        claims = [pool.submit(in_thread(claim)) for _ in range(4)]
        got = [key for future in claims for key in future.result(180)]

    assert sorted(got) == keys


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("one_data_set", [False, True])
def test_a_caller_gets_nothing_of_what_another_is_claiming(api, iris, one_data_set):
    """The second asks while the first has claimed the folds and not yet committed."""
    api.post("submissionfold/bulk/", [new_fold(iris, key) for key in (1, 2, 3)])
    SubmissionFold.objects.update(state="TESTED", test_predictions=predictions(3))
    body = {"raw_data_id": iris.pk} if one_data_set else {}
    claimed, asking = Event(), Event()

    def first():
        client = Api().client
        with transaction.atomic():
            response = client.post("/runapp/testpredictions/new/", body, format="json")
            claimed.set()
            asking.wait(60)
            asking.clear()
            asking.wait(0.5)  # long enough for the other's statement to reach the database
        return [record["databoard_sf_id"] for record in json.loads(response.getvalue())]

    def second():
        claimed.wait(60)
        asking.set()
        return ask(Api(), **body).ids

    with ThreadPoolExecutor(2) as pool:
        one, two = pool.submit(in_thread(first)), pool.submit(in_thread(second))
        assert one.result(180) == [1, 2, 3]
        assert two.result(180) == []
