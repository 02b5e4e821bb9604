"""Descriptors in flight are counted by user: who sends some waits until folds have no more of them than it may."""

import os
import resource
import socket
import time
from collections.abc import Callable

import pytest

from runner.sandbox import descriptors, wire

ANOTHER = 54321
"""Nobody's user id: what others have in flight does not matter."""


def in_another_process(work: Callable[[], None]) -> None:
    if (pid := os.fork()) == 0:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(ANOTHER)
                os.setuid(ANOTHER)
            work()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0


def test_a_message_waits_while_too_many_are_in_flight(monkeypatch: pytest.MonkeyPatch) -> None:
    def work() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (128, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        full, other = socket.socketpair()
        with pytest.raises(OSError, match="Too many references"):
            while True:
                socket.send_fds(full, [b"x"], [0] * 100)
        waited: list[float] = []

        def sleep(seconds: float) -> None:
            if not waited:
                other.close()
            waited.append(seconds)

        monkeypatch.setattr(time, "sleep", sleep)
        ours, theirs = wire.pair()
        wire.send(ours, {"a": 1}, [0])
        assert waited and wire.receive(theirs, 1)[0] == {"a": 1}

    in_another_process(work)


@pytest.mark.parametrize(
    ("soft", "hard", "fold", "ours"), [(1024, 1024, 256, 1024), (1024, 4096, 1024, 4096), (1024, 20000, 1024, 20000)]
)
def test_a_fold_may_have_fewer_than_its_runner(soft: int, hard: int, fold: int, ours: int) -> None:
    def work() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert descriptors.share(2, 64) == fold
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (ours, hard)

    in_another_process(work)


def test_a_runner_takes_no_more_than_it_needs() -> None:
    def work() -> None:
        descriptors.share(1, 4)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] <= 2 * (1024 + 4 * 253)

    in_another_process(work)
