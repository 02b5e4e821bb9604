"""The messages between master and runners as the last release sent them (messages.json): kind -> message.

A cluster that is being upgraded has two releases. So each of these is understood by the current code, also with fields
that it does not know, and what the current code sends has all of their fields. After a release its own are recorded:

    DATARUN_RECORD=1 .venv/bin/python -m pytest tests/app/test_versions.py tests/runner/test_versions.py
"""

import json
import os
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("messages.json")

UNKNOWN = {"of_a_later_release": {"whatever": [1, 2]}}
"""A field that nobody knows."""


def recorded(kind: str) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(FILE.read_text())[kind]
    return message


def check(sent: dict[str, dict[str, Any]]) -> list[str]:
    """The fields that the last release sent, and the current code does not: `kind.field`."""
    if os.environ.get("DATARUN_RECORD"):
        known = json.loads(FILE.read_text()) if FILE.exists() else {}
        FILE.write_text(json.dumps(known | sent, indent=2, sort_keys=True) + "\n")
    return [f"{kind}.{name}" for kind in sent for name in _fields(recorded(kind)) - _fields(sent[kind])]


def _fields(message: dict[str, Any], prefix: str = "") -> set[str]:
    found = set()
    for name, value in message.items():
        found.add(prefix + name)
        if isinstance(value, dict):
            found |= _fields(value, f"{prefix}{name}.")
    return found
