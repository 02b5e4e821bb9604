"""The supervisor's end of a channel to a zygote. Trusted, outside; believes no answer."""

import os
import select
import socket
import time
from dataclasses import dataclass
from typing import Any

from runner.jobs import Limits
from runner.sandbox import wire

SLACK = 30.0
"""Seconds that a zygote may take beyond the hard limit, before it counts as lost."""
_SLICE = 1.0


class ZygoteError(Exception):
    """A zygote is gone, or does not answer as it should: it has to be started anew."""


class GoneError(ZygoteError):
    """The zygote has ended."""


class RefusedError(Exception):
    """The zygote could not do what was asked; the message says why."""


class SpecificError(RefusedError):
    """The organiser's specific.py can't be imported; the message says why."""


class Patience:
    """Seconds to wait for a zygote, all its words together, on a machine that runs: none pass while it stands still."""

    def __init__(self, seconds: float) -> None:
        self._left = seconds

    def wait(self, channel: socket.socket) -> None:
        """Until there is something to read. Raises TimeoutError."""
        poll = select.poll()
        poll.register(channel, select.POLLIN)
        while self._left > 0:
            began, most = time.monotonic(), min(self._left, _SLICE)
            ready = poll.poll(most * 1000)
            self._left -= min(most, time.monotonic() - began)
            if ready:
                return
        raise TimeoutError("it took too long")


@dataclass
class Line:
    """A channel to a zygote. loaded: whether the zygote holds the features of its data set."""

    channel: socket.socket
    loaded: bool = False

    def __post_init__(self) -> None:
        self.channel.settimeout(SLACK)  # it may not read what it is sent

    def is_quiet(self) -> bool:
        """Whether the zygote waits for the next question: it has not ended, and has said nothing unasked."""
        poll = select.poll()
        poll.register(self.channel, select.POLLIN)
        return not poll.poll(0)

    def ask(self, do: str, fds: list[int] | None = None, seconds: float = SLACK, **options: Any) -> dict[str, Any]:
        self.tell(do, fds or [], **options)
        answer, _ = self.hear(Patience(seconds))
        return answer

    def tell(self, do: str, fds: list[int], **options: Any) -> None:
        try:
            wire.send(self.channel, {"do": do, **options}, fds)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise GoneError(f"the zygote is gone: {error}") from None
        except OSError as error:
            raise ZygoteError(f"the zygote is gone: {error}") from None

    def hear(self, patience: Patience, fds: int = 0) -> tuple[dict[str, Any], list[int]]:
        """The next answer, with at most `fds` descriptors: one that comes unasked is an error, and is closed."""
        try:
            patience.wait(self.channel)
            answer, received = wire.receive(self.channel, fds)
        except (EOFError, ConnectionResetError) as error:
            raise GoneError(f"the zygote is gone: {error!r}") from None
        except (OSError, ValueError) as error:
            raise ZygoteError(f"no answer from the zygote: {error!r}") from None
        if isinstance(answer, dict) and "error" not in answer:
            return answer, received
        for fd in received:
            os.close(fd)
        if not isinstance(answer, dict):
            raise ZygoteError("an answer that is none")
        raise RefusedError(str(answer["error"])[: wire.TEXT])

    def raw(self, patience: Patience) -> bytes:
        try:
            patience.wait(self.channel)
            if words := self.channel.recv(wire.MESSAGE):
                return words
            raise GoneError("the zygote is gone")
        except ConnectionResetError as error:
            raise GoneError(f"the zygote is gone: {error}") from None
        except OSError as error:
            raise ZygoteError(f"no answer from the zygote: {error}") from None

    def specific(self, limits: Limits) -> None:
        """Have the organiser's specific.py imported. Raises SpecificError."""
        seconds = limits.hard_time
        try:
            answer = self.ask("specific", memory=limits.memory, processes=limits.processes, seconds=seconds)
        except ZygoteError:
            raise SpecificError(f"specific.py ends or blocks the process that imports it ({seconds:g} s)") from None
        except RefusedError as error:
            raise SpecificError(str(error)) from None
        if answer.get("threads") != 1:
            why = "a process with threads can't be forked"
            raise SpecificError(f"specific.py starts threads when it is imported; {why}")
