"""Messages are published together, and the broker, which confirms each, is waited for once."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import amqp
from celery import current_app


class Together:
    """A channel for one connection. producer: publishes on it, without waiting; confirmed: keys of what has arrived."""

    def __init__(self, connection: Any) -> None:
        channel = connection.channel()
        channel.confirm_select()
        channel.basic_publish = partial(type(channel).basic_publish, channel)  # the channel's own waits each time
        channel.events["basic_ack"].add(partial(self._settle, True))
        channel.events["basic_nack"].add(partial(self._settle, False))
        self.producer = current_app.amqp.Producer(channel, auto_declare=False)
        self.confirmed: set[str] = set()
        self._channel = channel  # which forgets a connection that is closed
        self._open: dict[int, str] = {}
        self._number = 0

    def sent(self, key: str) -> None:
        """To be called after each message that is published."""
        self._number += 1  # as the broker counts them
        self._open[self._number] = key

    def wait(self, seconds: float) -> None:
        """Return when the broker has confirmed or refused all that was sent; TimeoutError after so long."""
        deadline, connection = time.monotonic() + seconds, self._channel.connection
        while self._open:
            connection.drain_events(timeout=max(deadline - time.monotonic(), 0.001))

    def _settle(self, arrived: bool, number: int, and_before: bool) -> None:
        for each in [each for each in self._open if each <= number] if and_before else [number]:
            key = self._open.pop(each)
            if arrived:
                self.confirmed.add(key)


class Unconfirmed:
    """The same for queues in files, where what is published is there."""

    def __init__(self, producer: Any) -> None:
        self.producer, self.confirmed = producer, set[str]()
        self.sent = self.confirmed.add

    def wait(self, seconds: float) -> None:
        pass


_channels: WeakKeyDictionary[Any, Together] = WeakKeyDictionary()


@contextmanager
def together() -> Iterator[Together | Unconfirmed]:
    """For messages of this thread. After an exception the connection is closed: a late confirmation counts for none."""
    app: Any = current_app
    with app.producer_or_acquire() as producer:
        connection = producer.connection
        try:
            channel = producer.channel
            if not isinstance(channel, amqp.Channel):
                yield Unconfirmed(producer)
                return
            known = _channels.get(channel.connection)
            if known is None:
                known = _channels[channel.connection] = Together(channel.connection)
            known.confirmed.clear()
            yield known
        except Exception:
            connection.collect()
            raise
