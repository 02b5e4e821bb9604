"""Celery's remote control and events, over exchanges that only the master makes.

Celery has every worker declare them. With the right to do so, one runner could make them anew as another kind: then no
other worker, the master's included, could start any more.
"""

from typing import Any

from celery.app import control
from celery.events import event
from kombu import Exchange, pidbox


class Mailbox(pidbox.Mailbox):
    """Its exchanges outlive the broker's restart: runners are back before the master's worker is."""

    def _get_exchange(self, namespace: str, type: str) -> Exchange:
        return Exchange(self.exchange_fmt % namespace, type, delivery_mode="transient")

    def _get_reply_exchange(self, namespace: str) -> Exchange:
        return Exchange(self.reply_exchange_fmt % namespace, "direct", delivery_mode="transient")

    def _publish_reply(
        self: Any,
        reply: Any,
        exchange: Any,
        routing_key: str,
        ticket: str,
        channel: Any = None,
        producer: Any = None,
        **how: Any,
    ) -> None:
        """As Celery's, which would declare an exchange that is not durable."""
        how |= {"declare": [self.reply_exchange], "headers": {"ticket": ticket, "clock": self.clock.forward()}}
        with self.producer_or_acquire(producer, channel or self.connection.default_channel) as sender:
            sender.publish(reply, exchange=exchange, routing_key=routing_key, retry=True, **how)


class Control(control.Control):
    Mailbox = Mailbox


def exchanges(app: Any) -> list[Exchange]:
    mailbox = app.control.mailbox
    return [mailbox.exchange, mailbox.reply_exchange, event.event_exchange]


def declare_none(app: Any) -> None:
    """For a runner, which may not."""
    for exchange in exchanges(app):
        exchange.no_declare = True
