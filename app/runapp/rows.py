"""Row numbers that clients send: checked as they are unpacked, so that no more than a piece of them is in memory."""

from dataclasses import dataclass

import numpy as np

from runapp import storage
from runner import payloads


class RowsError(ValueError):
    """The row numbers are not what a fold may have; the message says what would be right."""


@dataclass(frozen=True)
class Checked:
    """highest: the largest row number. size: bytes of them all, unpacked."""

    highest: int
    size: int


def check(text: str, max_bytes: int, most: int) -> Checked:
    """Row numbers packed as base64(zlib(int64 little-endian)), each below `most` and there once.

    max_bytes: what they may unpack to. Raises RowsError. That no number comes twice also bounds what a short text can
    unpack to: its zlib stream can't repeat itself.
    """
    seen = _Seen(most)
    rest, size, highest = b"", 0, -1
    try:
        for piece in payloads.inflate(storage.cut(text), max_bytes):
            size += len(piece)
            piece = rest + piece
            whole = len(piece) - len(piece) % 8
            rest = piece[whole:]
            if whole:
                highest = max(highest, seen.add(np.frombuffer(piece[:whole], "<i8")))
    except payloads.PayloadError as error:
        raise RowsError(f"The text {error}.") from None
    if rest:
        raise RowsError(f"The text holds {size} bytes: not a multiple of 8, the size of an int64.")
    if not size:
        raise RowsError("Send at least one row number.")
    return Checked(highest, size)


class _Seen:
    """Which row numbers there were: a bit each, once there is more than one piece of them."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._first: np.ndarray | None = None
        self._bits: np.ndarray | None = None

    def add(self, rows: np.ndarray) -> int:
        """Add some, shape (n,), n > 0; returns the largest. RowsError for one that was there before."""
        found = np.sort(rows)
        low, high = int(found[0]), int(found[-1])
        if low < 0:
            raise RowsError(f"Row numbers start at 0, but {low} is among them.")
        if high >= self._most:
            raise RowsError(f"Row {high} is among them, but no data set here can have more than {self._most} rows.")
        if (twice := found[1:][found[1:] == found[:-1]]).size:
            raise _twice(twice[0])
        if self._bits is None and self._first is None:
            self._first = found
            return high
        if self._bits is None:
            assert self._first is not None
            self._bits = np.zeros((self._most >> 3) + 1, np.uint8)
            self._mark(self._first)
        self._mark(found)
        return high

    def _mark(self, found: np.ndarray) -> None:
        assert self._bits is not None
        places = found >> 3
        starts = np.flatnonzero(np.diff(places, prepend=-1))
        bits = np.bitwise_or.reduceat(np.left_shift(1, found & 7).astype(np.uint8), starts)
        places = places[starts]
        if (again := self._bits[places] & bits).any():
            first = int(np.flatnonzero(again)[0])
            raise _twice(int(places[first]) * 8 + int(again[first]).bit_length() - 1)
        self._bits[places] |= bits


def _twice(row: int) -> RowsError:
    return RowsError(f"Row {row} is among them twice: send each row of the train set once at most.")
