"""Runs on a runner, as its user: tries what it may do and what it may not, and prints what came of each, as JSON.

Each trial is harmless where it is allowed by mistake: what is published leads nowhere, what is read is given back, a
queue with consumers is not deleted, and the wrong word in FLUSHALL is told only after the permission.
"""

import json
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import amqp
import redis
from kombu import Connection

from runner import config

SECONDS = 30
"""For each answer: a broker that is short of memory or disk reads nothing from who publishes."""

BOUNDS: dict[str, Any] = {
    "connect_timeout": 5,
    "transport_options": {"read_timeout": SECONDS, "write_timeout": SECONDS},
}

SYSTEM_CA = "/etc/ssl/certs/ca-certificates.crt"


def publish(exchange: str) -> Callable[[Any], Any]:
    def work(channel: Any) -> None:
        channel.confirm_select()
        channel.basic_publish_confirm(
            amqp.Message("trial"), exchange=exchange, routing_key="leads nowhere", confirm_timeout=SECONDS
        )

    return work


RABBITMQ: dict[str, Callable[[Any], Any]] = {
    "send a result": publish("datarun.results"),
    "publish work": publish("datarun"),
    "publish work past the exchange": publish(""),
    "publish dead letters": publish("datarun.dead"),
    "send commands to runners": publish("celery.pidbox"),
    "read results": lambda channel: channel.basic_get("master_periodic"),
    "consume results": lambda channel: channel.basic_consume("master_periodic"),
    "read dead letters": lambda channel: channel.basic_get("dead"),
    "read the mail of another runner": lambda channel: channel.basic_get("celery@another.celery.pidbox"),
    "delete a work queue": lambda channel: channel.queue_delete("L", if_unused=True),
    "delete the queue of results": lambda channel: channel.queue_delete("master_periodic", if_unused=True),
    "delete an exchange": lambda channel: channel.exchange_delete("datarun", if_unused=True),
    "purge the results": lambda channel: channel.queue_purge("master_periodic"),
    "make a queue": lambda channel: channel.queue_declare("trial", exclusive=True),
}

REDIS: dict[str, Callable[[Any], Any]] = {
    "read the state of a task": lambda client: client.get("celery-task-meta-trial"),
    "read another key": lambda client: client.get("trial"),
    "write another key": lambda client: client.set("trial", "trial", ex=1),
    "delete the state of a task": lambda client: client.delete("celery-task-meta-trial"),
    "list the keys": lambda client: client.keys("trial"),
    "empty it": lambda client: client.execute_command("FLUSHALL", "TRIAL"),
    "read its settings": lambda client: client.config_get("port"),
    "list its users": lambda client: client.execute_command("ACL", "LIST"),
    "publish to others": lambda client: client.publish("trial", "trial"),
    "stop it": lambda client: client.execute_command("SHUTDOWN", "TRIAL"),
}


def broker(url: str, tls: dict[str, Any] | None) -> None:
    with Connection(url, ssl=tls or False, **BOUNDS) as connection:
        connection.connect()


def cache(url: str, **tls: Any) -> None:
    redis.Redis.from_url(url, socket_timeout=5, socket_connect_timeout=5, retry=None, **tls).get(
        "celery-task-meta-trial"
    )


def outcome(name: str, work: Callable[[], Any]) -> str:
    """ "done", or the error, with those that led to it. Says at which it is: who waits for all of them sees where."""
    print(name, file=sys.stderr, flush=True)
    try:
        work()
    except Exception as error:
        names: list[str] = []
        cause: BaseException | None = error
        while cause is not None:
            names.append(f"{type(cause).__name__}: {cause}")
            cause = cause.__cause__ or cause.__context__
        return " < ".join(names)
    return "done"


def main() -> dict[str, str]:
    url, tls = config.broker_url(), config.broker_tls() or {}
    address, at = config.result_url() or "", config.result_tls() or {}
    client = partial(redis.Redis.from_url, address, socket_timeout=SECONDS, **at)
    found = {}
    for name, trial in RABBITMQ.items():
        with Connection(url, ssl=tls, **BOUNDS) as connection:
            found[f"RabbitMQ: {name}"] = outcome(name, partial(trial, connection.channel()))
    for name, trial in REDIS.items():
        found[f"Redis: {name}"] = outcome(name, partial(trial, client()))
    stranger = address.split("//")[0] + "//" + address.rpartition("@")[2]
    trials = {
        "RabbitMQ: connect": lambda: broker(url, tls),
        "RabbitMQ: without TLS": lambda: broker(url.replace("amqps://", "amqp://"), None),
        "RabbitMQ: certificate of an unknown authority": lambda: broker(url, tls | {"ca_certs": SYSTEM_CA}),
        "RabbitMQ: certificate of another host": lambda: broker(url, tls | {"server_hostname": "another"}),
        "Redis: connect": lambda: cache(address, **at),
        "Redis: without TLS": lambda: cache(address.replace("rediss://", "redis://")),
        "Redis: certificate of an unknown authority": lambda: cache(address, **at | {"ssl_ca_certs": SYSTEM_CA}),
        "Redis: without a user": lambda: cache(stranger, **at),
    }
    return found | {name: outcome(name, trial) for name, trial in trials.items()}


if __name__ == "__main__":
    print(json.dumps(main()))
