"""The supervisor's end of a channel to a zygote. Trusted, outside; believes no answer."""

import os
import socket
from dataclasses import dataclass
from typing import Any

from runner.jobs import Limits
from runner.sandbox import wire

SLACK = 30.0
"""Seconds that a zygote may take beyond the hard limit, before it counts as lost."""


class ZygoteError(Exception):
    """A zygote is gone, or does not answer as it should: it has to be started anew."""


class RefusedError(Exception):
    """The zygote could not do what was asked; the message says why."""


@dataclass
class Line:
    """A channel to a zygote. loaded: whether the zygote holds the features of its data set."""

    channel: socket.socket
    loaded: bool = False

    def ask(self, do: str, fds: list[int] | None = None, seconds: float = SLACK, **options: Any) -> dict[str, Any]:
        self.tell(do, fds or [], **options)
        answer, bulk = self.hear(seconds)
        for fd in bulk:
            os.close(fd)
        return answer

    def tell(self, do: str, fds: list[int], **options: Any) -> None:
        try:
            wire.send(self.channel, {"do": do, **options}, fds)
        except OSError as error:
            raise ZygoteError(f"the zygote is gone: {error}") from None

    def hear(self, seconds: float) -> tuple[dict[str, Any], list[int]]:
        try:
            self.channel.settimeout(seconds)
            answer, fds = wire.receive(self.channel, 1)
        except (EOFError, OSError, ValueError) as error:
            raise ZygoteError(f"no answer from the zygote: {error!r}") from None
        if not isinstance(answer, dict):
            raise ZygoteError("an answer that is none")
        if "error" in answer:
            raise RefusedError(str(answer["error"]))
        return answer, fds

    def raw(self, seconds: float) -> bytes:
        try:
            self.channel.settimeout(seconds)
            return self.channel.recv(wire.MESSAGE)
        except OSError as error:
            raise ZygoteError(f"no answer from the zygote: {error}") from None

    def specific(self, limits: Limits) -> None:
        """Have the organiser's specific.py imported."""
        seconds = limits.hard_time
        try:
            answer = self.ask("specific", memory=limits.memory, processes=limits.processes, seconds=seconds)
        except ZygoteError:
            raise RefusedError(f"specific.py ends or blocks the process that imports it ({seconds:g} s)") from None
        if answer.get("threads") != 1:
            raise RefusedError("specific.py starts threads when it is imported; a process with threads can't be forked")
