"""A runner whose shared disk goes away stops taking folds, and comes back by itself."""

import os
import time

import pytest

from runner import intake
from tests.e2e.live import until


@pytest.fixture
def marker(share):
    path = share.folder / ".datarun"
    path.touch()
    return path


def log_lines(runner, text):
    return [line for line in runner.log.read_text().splitlines() if text in line]


def test_folds_wait_while_the_disk_is_gone_and_run_when_it_is_back(worker, broker, share, marker):
    runner = worker("one", DATARUN_SHARE_MARKER=str(marker)).start().ready()
    away = share.folder.rename(share.folder.with_name("away"))
    until(lambda: broker.consumers("L") + broker.consumers("H") == 0, 180, "nothing is consumed")
    broker.send_fold(1)
    until(lambda: broker.waiting("L") == 1, 180, "the fold waits")
    away.rename(share.folder)
    assert broker.result()["state"] == "TESTED"
    assert len(log_lines(runner, "the shared disk is gone")) == 1
    assert len(log_lines(runner, "work is taken again")) == 1


def test_a_disk_that_hangs_counts_as_gone(worker, broker, share, marker):
    runner = worker("one", DATARUN_SHARE_MARKER=str(marker)).start().ready()
    marker.unlink()
    os.mkfifo(marker)  # who opens it waits for a writer
    until(lambda: broker.consumers("L") == 0, 180, "nothing is consumed")
    assert runner.process.poll() is None
    with marker.open("wb"):
        marker.unlink()
        marker.touch()
    until(lambda: broker.consumers("L") == 1, 180, "the queue is consumed again")


def test_a_fold_that_was_taken_already_goes_back(worker, broker, share, marker):
    """The disk goes in the moment between two looks, here before the first."""
    away = share.folder.rename(share.folder.with_name("away"))
    broker.send_fold(1)
    worker("one", DATARUN_SHARE_MARKER=str(marker)).start().ready()
    until(lambda: broker.consumers("L") == 0 and broker.waiting("L") == 1, 180, "the fold is back in its queue")
    assert broker.results() == []
    away.rename(share.folder)
    assert broker.result()["state"] == "TESTED"


def test_a_runner_that_stops_while_the_disk_comes_back_takes_no_more(worker, broker, share, marker):
    share.slow()
    runner = worker("one", DATARUN_SHARE_MARKER=str(marker)).start().ready()
    broker.send_fold(1, "slow")
    until(share.fits, 180, "the fold runs")
    marker.unlink()
    until(lambda: broker.consumers("H") == 0, 180, "nothing is consumed")  # L has a message to be acknowledged
    broker.send_fold(2)
    runner.terminate()
    marker.touch()
    time.sleep(intake.PAUSE + 1)  # it has looked
    share.go()
    assert runner.wait() == 0
    until(lambda: broker.waiting("L") == 1, 60, runner.log.read_text)


def test_without_a_marker_there_is_no_guard(worker, broker, share):
    away = share.folder.rename(share.folder.with_name("away"))
    worker("one").start().ready()
    broker.send_fold(1)
    assert broker.result()["error_reason"] == "infrastructure"
    away.rename(share.folder)
