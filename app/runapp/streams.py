"""JSON answers made row by row: a list of a hundred thousand folds in the memory of a few."""

import logging
from collections.abc import Callable, Generator, Iterator
from contextlib import nullcontext
from itertools import chain, islice
from typing import Any

from django.core.serializers.json import DjangoJSONEncoder
from django.db import connection, transaction
from django.db.models import F, QuerySet
from django.http import StreamingHttpResponse

from runapp.models import PAYLOADS, SubmissionFold
from runapp.services.pressure import DiskAway
from runner import payloads

log = logging.getLogger(__name__)

_ROWS = 1000
"""Rows without payloads that are in memory at once."""
_PAYLOAD_ROWS = 50
"""Rows with payloads, each up to payloads.INLINE_BYTES, that are."""
_PIECE = 1 << 18
_encode = DjangoJSONEncoder(separators=(",", ":")).encode


def records(folds: QuerySet[SubmissionFold], fields: tuple[str, ...]) -> Generator[dict[str, Any], None, None]:
    """The folds' columns, fetched in one query and a few rows at a time."""
    size = _PAYLOAD_ROWS if {*fields} & {*PAYLOADS} else _ROWS
    rows = folds.annotate(sent_by=F("created_by__username")) if "sent_by" in fields else folds
    # In a transaction PostgreSQL sends the rows as they are asked for; outside, it would first copy them all.
    with transaction.atomic() if connection.vendor == "postgresql" else nullcontext():
        yield from rows.values(*fields).iterator(chunk_size=size)


class Streamed(StreamingHttpResponse):
    """in_step: it is made while it is sent. counts: its complete sending has consequences (datarun_web.front)."""

    in_step = True
    counts = False


def one(record: dict[str, Any], status: int = 200) -> Streamed:
    return _response(_Answer(_pack(_record(record))), status)


def many(
    rows: Iterator[dict[str, Any]],
    head: bytes = b"",
    tail: bytes = b"",
    status: int = 200,
    complete: Callable[[], Any] | None = None,
    closed: Callable[[], Any] = lambda: None,
) -> Streamed:
    """A JSON array of rows between head and tail.

    complete: called once the server has sent it all. closed: called afterwards, or where the answer ends earlier.
    """

    def pieces() -> Iterator[bytes]:
        yield head + b"["
        comma = b""
        while part := list(islice(rows, _PAYLOAD_ROWS)):
            yield comma
            yield from _records(part)
            comma = b","
        yield b"]" + tail

    answer = _response(_Answer(_pack(pieces()), rows, complete or (lambda: None), closed), status)
    answer.counts = complete is not None
    return answer


class _Answer:
    """The pieces of an answer. The server closes it at the end, or before, even if it never took a piece."""

    def __init__(
        self,
        pieces: Iterator[bytes],
        rows: Iterator[Any] | None = None,
        complete: Callable[[], Any] = lambda: None,
        closed: Callable[[], Any] = lambda: None,
    ) -> None:
        self._pieces, self._rows, self._complete, self._closed = pieces, rows, complete, closed
        self._is_open = True

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            return next(self._pieces)
        except StopIteration:
            # The server asks for more: it has sent all. If this fails, the caller learns that the answer broke off.
            complete, self._complete = self._complete, lambda: None
            complete()
            raise

    def begin(self) -> None:
        """Make the first piece. What is wrong with it is raised here, where it can still be answered."""
        try:
            first = next(self._pieces)
        except BaseException:
            self.close()
            raise
        self._pieces = chain([first], self._pieces)

    def close(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        if isinstance(self._rows, Generator):
            self._rows.close()  # its transaction is rolled back: what `closed` does must come after
        self._closed()


def _response(answer: _Answer, status: int) -> Streamed:
    try:
        answer.begin()
    except payloads.UnreadableError as error:
        raise DiskAway(
            "The shared disk does not answer. Ask again when it is back: nothing counts as fetched."
        ) from error
    response = Streamed(answer, status=status, content_type="application/json")
    # What has changed something already is made at once: it can't be asked for again when it has no place.
    response.in_step = status == 200
    return response


def _records(part: list[dict[str, Any]]) -> Iterator[bytes]:
    """Rows as JSON objects with commas between; those without payloads all at once, which is five times as fast."""
    if not part[0].keys() & {*PAYLOADS}:
        yield _encode(part)[1:-1].encode()
        return
    for number, row in enumerate(part):
        if number:
            yield b","
        yield from _record(row)


def _record(record: dict[str, Any]) -> Iterator[bytes]:
    """One row as a JSON object; payloads, which are base64, go through as they are.

    A file that is lost is said in log_messages: one bad fold must not keep the others of the list from their reader.
    A file that can't be read now breaks the answer off: what was not sent completely can be asked for again.
    """
    for name in PAYLOADS:
        if payloads.is_file(record.get(name, "")):
            try:
                payloads.check(record[name])
            except payloads.UnreadableError:
                raise
            except payloads.PayloadError as error:
                log.error("fold %s: %s: %s", record.get("databoard_sf_id"), name, error)
                lost = f"{name} is lost: {error}"
                record = record | {name: "", "log_messages": f"{record.get('log_messages', '')}\n{lost}".strip()}
    yield _encode({name: value for name, value in record.items() if name not in PAYLOADS})[:-1].encode()
    for name in PAYLOADS:
        if name in record:
            yield f',"{name}":"'.encode()
            yield from payloads.pieces(record[name])
            yield b'"'
    yield b"}"


def _pack(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Join small pieces: each one that is sent costs a system call."""
    waiting: list[bytes] = []
    size = 0
    for piece in pieces:
        waiting.append(piece)
        size += len(piece)
        if size >= _PIECE:
            yield b"".join(waiting)
            waiting, size = [], 0
    yield b"".join(waiting)
