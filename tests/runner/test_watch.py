"""When a fold is told of its limit and when it is killed, by a clock of the test's own: a machine may stand still."""

import os
import select
import signal
import socket
from types import SimpleNamespace

import pytest

from runner.sandbox import watch

LIMITS = watch.Deadlines(soft=10.0, hard=15.0)


class Clock:
    """stalls: moments at which the machine stands still, and for how many seconds."""

    def __init__(self, stalls):
        self.now, self.stalls = 0.0, list(stalls)
        self.signals: list[tuple[int, float]] = []

    def monotonic(self):
        return self.now

    def send(self, pidfd, number):
        self.signals.append((number, self.now))
        if number == signal.SIGKILL:
            KILL(pidfd, number)


KILL = signal.pidfd_send_signal


class Poll:
    """Of a fold that says nothing."""

    def __init__(self, clock):
        self.clock, self.fds = clock, []

    def register(self, fd, events):
        self.fds.append(fd)

    def poll(self, milliseconds):
        if self.clock.signals and self.clock.signals[-1][0] == signal.SIGKILL:
            return [(self.fds[0], select.POLLIN)]  # the process has ended
        end = self.clock.now + milliseconds / 1000
        while self.clock.stalls and self.clock.stalls[0][0] <= end:
            end = max(end, sum(self.clock.stalls.pop(0)))
        self.clock.now = end
        return []


class Meter:
    interval = None
    follow = staticmethod(lambda pid: None)
    cpu = peak = over = staticmethod(lambda: 0)


@pytest.mark.parametrize(
    ("stalls", "told", "killed"),
    [
        ([], 10, 15),
        ([(5, 4)], 10, 15),  # it has stood still before any limit
        ([(5, 20)], 25, 30),  # past both
        ([(10.5, 3)], 10, 17.5),  # after it was told
        ([(10.5, 20)], 10, 34.5),
        ([(10.5, 20), (32.5, 60)], 10, 92.5),  # always late: it is a slow one, or is made so
    ],
    ids=str,
)
def test_a_machine_that_stands_still_leaves_the_fold_its_time_to_speak(stalls, told, killed, monkeypatch):
    clock = Clock(stalls)
    monkeypatch.setattr(watch, "time", clock)
    events = SimpleNamespace(poll=lambda: Poll(clock), POLLIN=select.POLLIN, POLLRDHUP=select.POLLRDHUP)
    monkeypatch.setattr(watch, "select", events)
    monkeypatch.setattr(signal, "pidfd_send_signal", clock.send)
    output, end = os.pipe2(os.O_NONBLOCK)
    fold = os.posix_spawnp("sleep", ["sleep", "600"], os.environ)
    kept = os.memfd_create("output")
    with socket.socketpair()[0] as words, socket.socketpair()[0] as supervisor:
        ended = watch.watch(fold, words, output, supervisor, LIMITS, Meter(), kept)
    for fd in (output, end, kept):
        os.close(fd)
    assert (ended["killed"], ended["soft"]) == ("hard", True)
    moments = dict(reversed(clock.signals))  # the first of each
    assert moments == {signal.SIGXCPU: pytest.approx(told, abs=0.1), signal.SIGKILL: pytest.approx(killed, abs=0.1)}
