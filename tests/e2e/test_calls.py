"""Waiting for a fold's end: a request that waits, and a webhook."""

import hashlib
import hmac
import time

import pytest
import requests

from test_files import post_api
from tests.e2e.live import LOGIN, PASSWORD, Live, Organiser, until
from tests.e2e.submissions import HONEST, RAISES, SLOW
from tests.receiver import receiver

pytestmark = pytest.mark.embedded

SECRET = "a secret of sixteen letters or more"


def wait(live: Live, fold_id: int, seconds: int) -> dict:
    answer = requests.get(
        f"{live.url}/runapp/submissionfold/{fold_id}/", {"wait": seconds}, auth=(LOGIN, PASSWORD), timeout=180
    )
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_it_waits_for_the_end_of_a_fold(live: Live, organiser: Organiser, iris: int, write) -> None:
    organiser.tested(organiser.fold(iris, write(HONEST), range(50)))  # the runner is up
    fold_id = organiser.fold(iris, write(SLOW.format(fit=1.5, predict=0)), range(50))
    began = time.monotonic()
    record = wait(live, fold_id, 60)
    assert record["state"] == "TESTED", record["log_messages"]
    assert 1.5 <= time.monotonic() - began < 60


def test_others_are_answered_while_more_wait_than_may(live: Live, organiser: Organiser, iris: int, write) -> None:
    fold_id = organiser.fold(iris, write(SLOW.format(fit=12, predict=0)), range(50))
    url, who = f"{live.url}/runapp/submissionfold/{fold_id}/?wait=60", (LOGIN, PASSWORD)
    for _ in range(20):
        # Clients that go away: their answers are never read.
        with pytest.raises(requests.ReadTimeout):
            requests.get(url, auth=who, timeout=0.05)
            raise requests.ReadTimeout  # one more than may wait was answered at once
    assert requests.get(f"{live.url}/runapp/rawdata/", auth=who, timeout=60).ok
    assert organiser.look(fold_id)["state"] not in ("TESTED", "ERROR"), "the others still wait"
    assert organiser.tested(fold_id)
    assert wait(live, fold_id, 60)["state"] == "TESTED"


def test_a_webhook_is_told_of_each_end(live: Live, organiser: Organiser, iris: int) -> None:
    def send(fold_id: int, source: str, url: str) -> None:
        body = {
            "databoard_sf_id": fold_id,
            "databoard_s_id": fold_id,
            "raw_data": iris,
            "train_is": post_api.encode_indices(range(50)),
            "test_is": post_api.encode_indices([0]),
            "files": {"classifier.py": post_api.encode_bytes(source.encode())},
            "webhook": url,
            "webhook_secret": SECRET,
        }
        answer = requests.post(f"{live.url}/runapp/submissionfold/", json=body, auth=(LOGIN, PASSWORD), timeout=60)
        assert answer.status_code == 201, answer.text

    with receiver() as there, receiver(host="127.0.0.2") as ill:
        ill.status = 500
        lost, good, bad = (Organiser.new_id() for _ in range(3))
        send(lost, HONEST, ill.url("127.0.0.2"))
        send(good, HONEST, there.url())
        send(bad, RAISES, there.url())
        until(lambda: len(there.got) == 2, 300, live.evidence)
        told = {got.said["databoard_sf_id"]: got for got in there.got}
        assert {key: got.said["state"] for key, got in told.items()} == {good: "TESTED", bad: "ERROR"}
        for key, got in told.items():
            record = organiser.look(key)
            assert got.said["finished_at"] == record["finished_at"]
            assert got.said["task_id"] == record["task_id"]
            signature = hmac.new(SECRET.encode(), got.body, hashlib.sha256).hexdigest()
            assert got.headers["X-Datarun-Signature"] == f"sha256={signature}"
        assert organiser.tested(lost)
        # The one that failed is called again, with the same number.
        ill.status = 200
        until(lambda: len(ill.got) >= 2, 60, live.evidence)
        assert len({got.headers["X-Datarun-Delivery"] for got in ill.got}) == 1
    assert SECRET not in live.log.read_text()
