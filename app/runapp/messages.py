"""What runners say to the master: which fields, within which bounds, and who may say it.

A runner may be in wrong hands. What it says reaches the database and the users' programs, and so is checked here in
full: a message is taken as it should be, or not at all.
"""

import json
import math
import re
from collections.abc import Callable
from typing import Any

from runapp.models import Runner, SubmissionFold
from runapp.services.results import MEASURES, PREDICTIONS, SHAPES
from runner import config, payloads
from runner.jobs import Reason

Check = Callable[[Any], Any]
"""Returns the value to be used; raises ValueError for one that can't be."""

OURS = ""
"""The sender of what did not come through a broker: from this process, or the files of the embedded default."""

MAX_ID = 2**31 - 1
MAX_SLOTS = 1024
MAX_LOG = 1_000_000
"""Characters of a log that are kept: the output has 64 KiB, before a traceback."""
MAX_PACKAGES = 500_000
"""Bytes of JSON that a runner's list of packages may take; a longer list is ignored. 100 packages take 7,000."""
_LAST_TIME = 4_102_444_800  # 2100: a runner's clock may be wrong, but not by centuries
_LARGEST = 1e15

_TASK = re.compile(r"[A-Za-z0-9_-]{1,64}")
_BASE64 = re.compile(r"[A-Za-z0-9+/]*={0,2}")
_FILE = re.compile(r"@[0-9a-f]{64}/([A-Za-z0-9_.-]{1,200})")


class Refused(ValueError):
    """A message that is not taken in; the text says why."""


def worker_of(user: str) -> str | None:
    """The worker that a user of RabbitMQ speaks for; None: for all, as the administrator's own user may."""
    return f"celery@{user.removeprefix('runner-')}" if user.startswith("runner-") else None


def sender_of(properties: dict[str, Any]) -> str | None:
    """Who sent a message with these properties, as `check` takes it."""
    return properties.get("user_id") if config.has_broker() else OURS


def check(kind: str, message: dict[str, Any], sender: str | None) -> dict[str, Any]:
    """The known fields of a message, each as it should be.

    kind: the name of its task, save_fold and so on. sender: the user that RabbitMQ has compared with the connection;
    OURS, or None where the message names none. The result has the worker's name as `runner`, and as `signed` whether
    RabbitMQ vouches for it. Raises Refused.
    """
    fields = SPLIT_FIELDS[kind] if "raw_data_id" in message and kind in SPLIT_FIELDS else FIELDS[kind]
    own = None if sender is None else worker_of(sender)
    if own is None and sender is not None:
        fields = fields | RETURNED_BY_MASTER
    checked = {}
    for name, (required, check_field) in fields.items():
        if name not in message:
            if required:
                raise Refused(f"has no {name}")
            continue
        try:
            checked[name] = check_field(message[name])
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            raise Refused(f"has a wrong {name}: {error!s:.200}") from None
    _check_together(kind, checked)
    name = "name" if kind == "save_runner" else "runner"
    if own is not None and checked.setdefault(name, own) != own:
        raise Refused(f"is about {checked[name]}, for which its sender may not speak")
    if sender is None and kind != "save_runner":
        raise Refused("does not name its sender (user_id)")
    return checked | {"signed": bool(sender)}


def is_runner(sender: str | None) -> bool:
    """Whether a message may be a runner's, and not the master's own."""
    return sender is None or worker_of(sender) is not None


def _check_together(kind: str, message: dict[str, Any]) -> None:
    if kind != "save_fold":
        return
    if (message["state"] == SubmissionFold.State.ERROR) != bool(message["error_reason"]):
        raise Refused("is an error without a reason, or the other way round")
    for name in PREDICTIONS:
        found = _FILE.fullmatch(message.get(name, ""))
        # The file is deleted with the result: it must be one of this task, and no other fold's.
        if found and not found[1].startswith(f"{message['task_id']}.{name}."):
            raise Refused(f"names the file {found[1]}, which is not its own")


# Values


def _whole(least: int, most: int) -> Check:
    def check(value: Any) -> int:
        if type(value) is not int or not least <= value <= most:
            raise ValueError(f"it must be a whole number from {least} to {most}")
        return value

    return check


def _number(most: float, above: float = -1.0) -> Check:
    def check(value: Any) -> float:
        if type(value) not in (int, float) or not math.isfinite(value) or not max(above, -1.0) < value <= most:
            raise ValueError(f"it must be a number up to {most:g}")
        if value < 0:
            raise ValueError("it must not be negative")
        return float(value)

    return check


def _text(most: int, least: int = 0) -> Check:
    def check(value: Any) -> str:
        if not isinstance(value, str) or not least <= len(value) <= most or not value.isprintable():
            raise ValueError(f"it must be a text of {least} to {most} printable characters")
        return value

    return check


def _one_of(values: Any) -> Check:
    known = [*map(str, values)]

    def check(value: Any) -> str:
        if not isinstance(value, str) or value not in known:
            raise ValueError(f"it must be one of {', '.join(known)}")
        return value

    return check


def _or_none(of: Check) -> Check:
    return lambda value: None if value is None else of(value)


def _list(of: Check, most: int, least: int = 0) -> Check:
    def check(value: Any) -> list[Any]:
        if not isinstance(value, list) or not least <= len(value) <= most:
            raise ValueError(f"it must be a list of {least} to {most}")
        return [of(one) for one in value]

    return check


def _task(value: Any) -> str:
    if not isinstance(value, str) or not _TASK.fullmatch(value):
        raise ValueError("it must be a task's id")
    return value


def _digest(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch("([0-9a-f]{64})?", value):
        raise ValueError("it must be a SHA-256 in hexadecimal digits, or empty")
    return value


def _log(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("it must be a text")
    return value[:MAX_LOG]


def _payload(value: Any) -> str:
    """Base64 text, or the name of a file: it goes into answers of the API as it is."""
    if not isinstance(value, str) or len(value) > payloads.INLINE_BYTES:
        raise ValueError(f"it must be a text of at most {payloads.INLINE_BYTES} characters")
    if not (_FILE if payloads.is_file(value) else _BASE64).fullmatch(value):
        raise ValueError("it must be base64 text, or name a file")
    return value


def _yes_or_no(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("it must be true or false")
    return value


def _busy(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("its entries must be objects")
    return {
        "databoard_sf_id": _or_none(_id)(value["databoard_sf_id"] if "databoard_sf_id" in value else ""),
        "raw_data_id": _or_none(_id)(value["raw_data_id"] if "raw_data_id" in value else ""),
        "since": _time(value.get("since")),
    }


def _packages(value: Any) -> list[dict[str, Any]]:
    """Those that are as they should be: all users read this list."""
    if not isinstance(value, list) or len(json.dumps(value)) > MAX_PACKAGES:
        return []
    found = []
    for one in value:
        try:
            found.append({name: of(one[name]) for name, of in _PACKAGE.items()})
        except (ValueError, TypeError, KeyError):
            continue
    return found


_id = _whole(0, MAX_ID)
_time = _number(_LAST_TIME)
_measure = _number(_LARGEST)
_limit = _number(config.MAX_HARD_LIMIT, above=0.0)
_runner = _text(200, least=1)
_queues = _list(_one_of(config.QUEUES), most=len(config.QUEUES))
_shape = _or_none(_list(_whole(0, MAX_ID), most=8))
_PACKAGE = {"name": _text(200, least=1), "version": _text(200), "modules": _list(_text(200, least=1), most=10_000)}

Fields = dict[str, tuple[bool, Check]]
"""Name -> (whether it is required, its check)."""

_MEASURES: Fields = dict.fromkeys(MEASURES, (False, _measure))
_TASK_OF_FOLD: Fields = {"databoard_sf_id": (True, _id), "task_id": (True, _task)}
_TASK_OF_SPLIT: Fields = {"raw_data_id": (True, _id), "task_id": (True, _task)}
_RUN: Fields = {"runner": (True, _runner), "started_at": (True, _time)}

FIELDS: dict[str, Fields] = {
    "save_fold": {
        **_TASK_OF_FOLD,
        **_RUN,
        **_MEASURES,
        "finished_at": (True, _time),
        "state": (True, _one_of(("TESTED", "ERROR"))),
        "error_reason": (True, _one_of(("", *Reason))),
        "log_messages": (True, _log),
        **dict.fromkeys(PREDICTIONS, (False, _payload)),
        **dict.fromkeys(SHAPES, (False, _shape)),
    },
    "save_progress": {
        **_TASK_OF_FOLD,
        **_RUN,
        **_MEASURES,
        "state": (True, _one_of(SubmissionFold.OPEN)),
        "hard_time_limit": (True, _limit),
    },
    "save_split": {
        **_TASK_OF_SPLIT,
        "runner": (False, _text(200)),
        "rows": (True, _or_none(_list(_whole(0, MAX_ID), least=2, most=2))),
        "sums": (False, _digest),
        "reason": (True, _or_none(_one_of(Reason))),
        "log": (True, _log),
    },
    "save_lost": {**_TASK_OF_FOLD, **_RUN},
    "save_returned": {**_TASK_OF_FOLD, "runner": (False, _runner)},
    "save_runner": {
        "name": (True, _runner),
        "state": (True, _one_of(Runner.Said.values)),
        "started_at": (True, _time),
        "number": (True, _whole(0, MAX_ID)),
        "queues": (True, _queues),
        "configured": (True, _queues),
        "slots": (True, _whole(1, MAX_SLOTS)),
        "busy": (True, _list(_busy, most=MAX_SLOTS)),
        "soft_time_limit": (True, _limit),
        "hard_time_limit": (True, _limit),
        "version": (True, _text(50)),
        "share": (True, _yes_or_no),
        "packages": (False, _packages),
    },
}
SPLIT_FIELDS: dict[str, Fields] = {
    "save_lost": {**_TASK_OF_SPLIT, **_RUN},
    "save_returned": {**_TASK_OF_SPLIT, "runner": (False, _runner)},
}
RETURNED_BY_MASTER: Fields = {
    "unread": (False, _whole(0, MAX_ID)),
    "put_back_at": (False, _time),
    "held_since": (False, _time),
}
"""What the master adds to a message that it puts back into its own queue."""
