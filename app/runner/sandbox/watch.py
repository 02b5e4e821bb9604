"""See one fork through to its end. Runs inside, in the zygote: trusted, single-threaded, with hostile children.

Relays what the fork says, unread, with the times and the memory that were measured when it was said; drains its
output; keeps the limits; leaves no process behind.
"""

import contextlib
import os
import select
import signal
import socket
import time
from dataclasses import dataclass

from runner.sandbox import output as outputs
from runner.sandbox import wire
from runner.sandbox.meter import CgroupMeter
from runner.sandbox.sampling import SampledMeter

MOST_OUTPUT = 256 << 20
"""Bytes of output after which the fold is ended."""
MOST_WORDS = 8
"""Messages of a fold; an honest one has at most four."""
AGAIN = 1.0
"""Seconds until the soft limit's exception is raised again in a fold that swallowed it."""
LATE = 0.2
"""Seconds after which a machine that did not get on with its work has stood still."""


@dataclass(frozen=True)
class Deadlines:
    soft: float
    hard: float


class Gone(Exception):
    """The supervisor is gone; there is nobody to work for."""


def watch(
    pid: int,
    words: socket.socket,
    output: int,
    supervisor: socket.socket,
    deadlines: Deadlines,
    meter: CgroupMeter | SampledMeter,
    kept: int,
) -> dict[str, object]:
    """Until the process is dead.

    kept: a file for its output, as runner.sandbox.output keeps it. Returns how it ended (status; killed: why we did;
    soft; oom; printed: bytes of output; measures). What one fold says or prints goes through one buffer, zeroed at
    once: the next fold is a fork of this process.
    """
    began = time.monotonic()
    soft, hard = began + deadlines.soft, began + deadlines.hard
    pidfd = os.pidfd_open(pid)
    seen, said = 0, 0
    buffer = memoryview(bytearray(1 << 18))
    killed, soft_hit, spared, last = "", False, False, dict[str, float]()
    poll = select.poll()
    for fd in (pidfd, words.fileno(), output):
        poll.register(fd, select.POLLIN)
    poll.register(supervisor.fileno(), select.POLLRDHUP)

    def measure() -> dict[str, float]:
        return {"wall": time.monotonic(), "cpu": meter.cpu(), "memory": meter.peak()}

    def kill(why: str) -> None:
        nonlocal killed, last
        if not killed:
            killed, last = why, last if why == "done" else measure()
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)

    try:
        while True:
            now = time.monotonic()
            until = min(hard, soft, now + (meter.interval or 3600.0))
            ready = dict(poll.poll(max(0.0, until - now) * 1000 + 1))
            late = time.monotonic() - until
            if soft_hit and late > LATE and not spared:  # as below; once, or a slow machine would never end it
                spared, hard = True, hard + late
            if supervisor.fileno() in ready:
                raise Gone
            if words.fileno() in ready:
                try:
                    length = words.recv_into(buffer, wire.MESSAGE)
                except ConnectionResetError:  # it closed its end with an answer unread
                    length = 0
                text = buffer[:length]
                if not length:
                    poll.unregister(words)
                elif not killed:
                    said += 1
                    last = measure()
                    wire.send(supervisor, {"said": last})
                    supervisor.send(text)
                    if bytes(text[:9]).startswith((b'["test"', b'["failed"', b'["done"')):
                        kill("done")
                    elif said >= MOST_WORDS:
                        kill("talk")
                    else:  # it waits for this: what it uses from here on is the next stage's
                        with contextlib.suppress(OSError):
                            words.send(b"on", socket.MSG_DONTWAIT)
                text[:] = bytes(length)
            if output in ready:
                length = _take(output, buffer, kept, seen)
                seen += length
                if seen > MOST_OUTPUT:
                    kill("output")
                if not length:
                    poll.unregister(output)
            if pidfd in ready and words.fileno() not in ready:
                break
            now = time.monotonic()
            if now >= soft:
                if not soft_hit:  # a machine that stood still does not cost the fold its time to speak
                    soft_hit, hard = True, max(hard, now + deadlines.hard - deadlines.soft)
                soft = now + AGAIN
                signal.pidfd_send_signal(pidfd, signal.SIGXCPU)
            elif now >= hard:
                kill("hard")
                hard = now + AGAIN
            elif meter.interval and meter.over():
                kill("memory")
    finally:
        # Killing the namespace's first process kills all of it; its end comes after theirs.
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        os.close(pidfd)
    ended = {"status": os.waitstatus_to_exitcode(status), "killed": killed, "soft": soft_hit, "oom": meter.over()}
    while length := _take(output, buffer, kept, seen):  # what was in the pipe when the last writer died
        seen += length
    return ended | {"printed": seen} | (last if killed else measure())


def _take(output: int, buffer: memoryview, kept: int, seen: int) -> int:
    """Move some output into the memfd `kept`. seen: how much came before. Returns how much there was."""
    try:
        length = os.readv(output, [buffer])
    except BlockingIOError:
        return 0
    outputs.keep(kept, buffer[:length], seen)
    buffer[:length] = bytes(length)
    return length
