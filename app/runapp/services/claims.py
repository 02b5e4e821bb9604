"""Tells requests that are still being answered from those that have ended in any way.

Each holds a lock that ends with its process: an advisory lock of PostgreSQL's, or the lock of a file beside SQLite's
database. So nothing outlives a worker that is killed, and no clock decides.
"""

import fcntl
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from uuid import UUID, uuid4

from django.db import Error, connection

from runner import config


class Claim:
    """A request with an id, held from here to `release`. Both happen in the same thread: it has the connection."""

    def __init__(self) -> None:
        self.id = uuid4()
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_lock(%s)", [_key(self.id)])
            return
        _folder().mkdir(parents=True, exist_ok=True)
        part = _folder() / f".{self.id}.part"
        self._file = part.open("w")
        fcntl.flock(self._file, fcntl.LOCK_EX)
        part.rename(_folder() / str(self.id))  # who sees the file sees it locked

    def release(self) -> None:
        if connection.vendor == "postgresql":
            try:
                with connection.cursor() as cursor:
                    cursor.execute("SELECT pg_advisory_unlock(%s)", [_key(self.id)])
            except Error:
                connection.close()  # which ends the lock, if the server has not done so
            return
        (_folder() / str(self.id)).unlink(missing_ok=True)
        self._file.close()


def ended(ids: Iterable[UUID]) -> list[UUID]:
    """Those of the ids, which were claimed before this call, that no request holds any more."""
    ids = list(ids)
    if not ids:
        return []
    held = _held_on_postgresql() if connection.vendor == "postgresql" else _held_files()
    return [one for one in ids if _key(one) not in held]


def _key(claim: UUID) -> int:
    """64 bits of the id, as PostgreSQL takes them."""
    return int.from_bytes(claim.bytes[:8], "big", signed=True)


def _held_on_postgresql() -> set[int]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT (classid::bigint << 32) | objid::bigint FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1 "
            "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        return {key for (key,) in cursor.fetchall()}


def _held_files() -> set[int]:
    """Removes the files that processes left which were killed."""
    held = set()
    for path in _folder().glob("[!.]*"):
        with suppress(FileNotFoundError), path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                held.add(_key(UUID(path.name)))
            else:
                path.unlink(missing_ok=True)
    return held


def _folder() -> Path:
    return config.home() / "fetches"
