"""What of a message reaches Celery: its task, its id and its arguments.

Every runner may write to the master's queue, and RabbitMQ lets it write any headers and properties. Celery would wait
for an `eta`, send `callbacks` on with the master's rights, and decompress a body to any size.
"""

import json
import re
from typing import Any, NoReturn

import kombu
from amqp.serialization import GenericContent
from celery.utils.log import get_task_logger
from kombu import compression

log = get_task_logger(__name__)

MAX_BYTES = 8 << 20
"""Bytes of a message's body, as roles/rabbitmq has it too. Ours have two payloads and a log at most: under 4 MB."""

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,200}")
_SHOWN = 200

_content: Any = GenericContent  # whose stubs know only what is public
_load_properties = _content._load_properties


class Unfit(ValueError):
    """A message that nobody of ours sends; the text says why."""


class Plain(kombu.Message):
    """A message with nothing but what is documented, decoded: Celery reads no body again, which may say more."""

    payload: Any = None  # a property there, which decodes

    def __init__(self, message: Any, args: list[Any], headers: dict[str, Any]) -> None:
        user = message.properties.get("user_id")
        super().__init__(
            body="",
            channel=message.channel,
            delivery_tag=message.delivery_tag,
            delivery_info=message.delivery_info,
            properties={"user_id": user} if isinstance(user, str) else {},
            headers=headers,
        )
        self.payload = {"args": args, "kwargs": {}}


def plain(message: Any) -> Plain:
    """A message that was received, without what is not documented. Unfit if it has no task, id or JSON arguments.

    The arguments are none, or one object.
    """
    if (message.content_type, message.content_encoding) != ("application/json", "utf-8"):
        raise Unfit(f"is {message.content_type!r} in {message.content_encoding!r}, not JSON in UTF-8")
    if len(message.body) > MAX_BYTES:
        raise Unfit(f"has {len(message.body)} bytes, more than {MAX_BYTES}")
    names = {name: message.headers.get(name) for name in ("task", "id")}
    if not all(isinstance(name, str) and _NAME.fullmatch(name) for name in names.values()):
        raise Unfit("has no task or id")
    try:
        args, kwargs, _ = json.loads(message.body if isinstance(message.body, str) else bytes(message.body))
    except (ValueError, TypeError, RecursionError, MemoryError) as error:
        raise Unfit(f"is not [arguments, {{}}, {{}}]: {error!r:.200}") from None
    if not isinstance(args, list) or len(args) > 1 or not all(isinstance(one, dict) for one in args) or kwargs != {}:
        raise Unfit("has other arguments than one object")
    shown, deliveries = message.headers.get("argsrepr"), message.headers.get("x-delivery-count")
    headers: dict[str, Any] = names | {"lang": "py", "kwargsrepr": "{}"}
    headers["argsrepr"] = shown if isinstance(shown, str) and shown.isprintable() and len(shown) <= _SHOWN else ""
    if isinstance(deliveries, int):  # by RabbitMQ: how often it gave this message before
        headers["x-delivery-count"] = deliveries
    return Plain(message, args, headers)


def harden() -> None:
    """Before anything is received: a message must not stop this process where its frame is read.

    What is compressed is refused. Properties that can't be read, such as a time in the year 292 billion or nested
    tables, count as none: the exception would end the worker, and the broker would give it the message again.
    """
    for kind in compression.encoders():
        compression.register(_refuse, _refuse, kind)
    _content._load_properties = _load_or_none


def _refuse(_: bytes) -> NoReturn:
    raise Unfit("is compressed, as no message of ours is")


def _load_or_none(self: Any, class_id: int, buffer: Any, offset: int) -> Any:
    try:
        return _load_properties(self, class_id, buffer, offset)
    except Exception as error:
        log.warning("a message has properties that can't be read: %r", error)
        self.properties = {}
        return offset
