"""Typed readings of environment variables that fail loudly: no Django, so that runners use them too.

A secret may be given as a file: NAME_FILE holds the path of a file with the value of NAME.
"""

import os
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path


class ConfigurationError(Exception):
    """The environment is incomplete or contradicts itself; the message says what would be right."""


def text(name: str, default: str | None = None) -> str:
    value = os.environ.get(name) or _from_file(name) or default
    if value is None:
        raise ConfigurationError(f"{name} is not set: give it a value, or {name}_FILE the path of a file with it")
    return value


def is_set(name: str) -> bool:
    return bool(os.environ.get(name) or os.environ.get(f"{name}_FILE"))


def number(name: str, default: float, low: float = 0.0) -> float:
    value = text(name, str(default))
    try:
        result = float(value)
    except ValueError:
        result = float("nan")
    if not low < result < float("inf"):
        raise ConfigurationError(f"{name} is {value!r}: it must be a number above {low:g}")
    return result


def whole(name: str, default: int) -> int:
    result = number(name, default)
    if result != int(result):
        raise ConfigurationError(f"{name} is {result:g}: it must be a whole number")
    return int(result)


def count(name: str, default: int) -> int:
    """A whole number, 0 included."""
    value = text(name, str(default))
    if not (value.isascii() and value.isdigit()):
        raise ConfigurationError(f"{name} is {value!r}: it must be a whole number, 0 or more")
    return int(value)


def choice(name: str, default: str, choices: tuple[str, ...]) -> str:
    value = text(name, default)
    if value not in choices:
        raise ConfigurationError(f"{name} is {value!r}: it must be one of {', '.join(choices)}")
    return value


def folder(name: str, default: Path) -> Path:
    return Path(text(name, str(default))).expanduser().absolute()


def networks(name: str) -> list[IPv4Network | IPv6Network]:
    """Networks such as 10.0.0.0/8, comma-separated; none where it is not set."""
    try:
        return [ip_network(part.strip(), strict=False) for part in text(name, "").split(",") if part.strip()]
    except ValueError as error:
        raise ConfigurationError(f"{name} must be networks such as 10.0.0.0/8, comma-separated: {error}") from None


def _from_file(name: str) -> str | None:
    path = os.environ.get(f"{name}_FILE")
    if not path:
        return None
    try:
        return Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{name}_FILE: {error}") from None
