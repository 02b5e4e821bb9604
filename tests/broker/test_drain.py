"""A runner that is told to stop, as `systemctl stop` does it: its fold ends and counts, and no other is begun."""

import time

from tests.e2e.live import until


def stopping(one, broker):
    """Tell it to stop, and wait until it takes no more: L keeps a consumer until its messages are acknowledged."""
    one.terminate()
    until(lambda: broker.consumers("H") + broker.consumers("celery") == 0, 180, one.log.read_text)


def test_the_fold_in_the_middle_is_finished_once_and_no_other_is_taken(worker, broker, share):
    share.slow()
    one = worker("one").start().ready()
    broker.send_fold(1, "slow")
    until(share.fits, 180, "the fold runs")
    broker.send_fold(2)
    stopping(one, broker)
    share.go()
    assert one.wait() == 0, one.log.read_text()
    assert [result["databoard_sf_id"] for result in broker.results()] == [1]
    until(lambda: broker.waiting("L") == 1, 60, one.log.read_text)
    worker("two").start().ready()
    assert broker.result()["databoard_sf_id"] == 2
    assert share.fits() == 2


def test_the_folds_of_all_slots_are_finished(worker, broker, share):
    share.slow()
    one = worker("one", slots=2).start().ready()
    numbers = {1, 2}
    for number in numbers:
        broker.send_fold(number, "slow")
    until(lambda: share.fits() == 2, 180, "both folds run")
    stopping(one, broker)
    share.go()
    assert one.wait() == 0, one.log.read_text()
    assert {result["databoard_sf_id"] for result in broker.results()} == numbers
    time.sleep(1)
    assert broker.waiting("L") == 0, one.log.read_text()


def test_an_idle_runner_ends_at_once(worker, broker):
    one = worker("one").start().ready()
    began = time.monotonic()
    one.terminate()
    assert one.wait() == 0
    assert time.monotonic() - began < 30


def test_a_fold_that_outlasts_the_broker_s_patience_is_finished_once_all_the_same(worker, broker, share):
    """A connection that shows no life for two heartbeats is closed, and what it held goes to the next runner."""
    share.submission("slow", "time.sleep(12)")
    one = worker("one").start("tests.broker.hasty").ready()
    broker.send_fold(1, "slow")
    until(share.fits, 180, "the fold runs")
    one.terminate()
    assert one.wait() == 0, one.log.read_text()
    assert [result["databoard_sf_id"] for result in broker.results()] == [1]
    time.sleep(1)
    assert broker.waiting("L") == 0, one.log.read_text()
