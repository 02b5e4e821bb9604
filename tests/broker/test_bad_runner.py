"""A runner that can run nothing is always idle: it must not use up the attempts of folds that another one would run."""

from pathlib import Path

import pytest

from runner import copies
from tests.e2e.live import until

MAX_ATTEMPTS = 3
"""As the master has it."""


@pytest.fixture
def good(share):
    """The environment of a runner that works. The data set has sums: it is copied before it is used."""
    copies.write_sums(share.data / "version-1")
    return {}


@pytest.fixture
def bad(good, tmp_path):
    """The environment of a runner whose copies fail."""
    folder = tmp_path / "bad"
    folder.mkdir()
    (folder / "birds").touch()
    return {"DATARUN_LOCAL_DATA": str(folder)}


class Master:
    """Sends folds, and again what the infrastructure has failed: at once, and MAX_ATTEMPTS times at most."""

    def __init__(self, broker):
        self.broker = broker
        self.attempts, self.ended = {}, {}

    def send(self, number, **how):
        self.attempts[number] = self.attempts.get(number, 0) + 1
        self.broker.send_fold(number, attempt=self.attempts[number], **how)

    def take(self):
        """Whether all have ended."""
        for result in self.broker.results():
            number = result["databoard_sf_id"]
            if result["error_reason"] == "infrastructure" and self.attempts[number] < MAX_ATTEMPTS:
                self.send(number)
            else:
                self.ended[number] = result["state"]
        return self.ended.keys() == self.attempts.keys()


def rests(runner):
    words = [line.partition("no work is taken for ")[2] for line in runner.log.read_text().splitlines()]
    return [int(text.partition(" s,")[0]) for text in words if text]


def test_honest_folds_end_on_the_other_runner(worker, broker, bad, good):
    broken = worker("bad", 2, **bad).start("tests.broker.patient").ready()
    worker("good", **good).start().ready()
    master = Master(broker)
    for number in range(6):
        master.send(number)
    until(master.take, 300, lambda: f"all have ended: {master.ended}, {master.attempts}")
    assert set(master.ended.values()) == {"TESTED"}
    assert rests(broken) == [600]
    assert "birds can't be copied" in broken.log.read_text()


def test_a_runner_alone_waits_longer_each_time_until_it_works(worker, broker, bad):
    runner = worker("bad", **bad).start().ready()
    for attempt in (1, 2):
        broker.send_fold(1, attempt=attempt)
        assert broker.result()["error_reason"] == "infrastructure"
    Path(bad["DATARUN_LOCAL_DATA"], "birds").unlink()
    broker.send_fold(1, attempt=3)
    assert broker.result()["state"] == "TESTED"
    assert rests(runner) == [5, 10]
