"""Arrays on the wire: base64(zlib(bytes)) as text, or, too large for a message, a file on the shared disk.

A text that starts with `@` stands for a file: `@<sha256 of the file>/<file name>` below `dir_large()`, which
holds the base64 text. The same text form is used in messages and in the database. Memory stays bounded: a
large array is encoded, checked and sent piece by piece.
"""

import base64
import errno
import hashlib
import os
import re
import secrets
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np

from runner import config, plainfile, share
from runner.look import Look

INLINE_BYTES = 1_000_000
"""Texts up to this length travel in the message."""

_BASE64 = re.compile(rb"[A-Za-z0-9+/]*={0,2}")

_PIECE = 3 << 18  # a multiple of 3, so that pieces of base64 join without padding, and of 4 when read back


class PayloadError(ValueError):
    """A text or file that is not what was sent; the message says what would be right."""


class UnreadableError(PayloadError):
    """A file that can't be read now: the shared disk is away, hangs, or fails. It may be whole all the same."""


_NO_SUCH_FILE = (
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.EINVAL,  # no plain file
    errno.ENXIO,  # a socket
    errno.ENODEV,
)
"""Errors that say something of the file, not of the disk, if the disk is there."""


def pack(array: np.ndarray, name: str) -> str:
    """Encode an array; past INLINE_BYTES into the file `name`."""
    data = np.ascontiguousarray(array).data.cast("B") if array.size else memoryview(b"")
    return keep(_encode(data), name)


def keep(pieces: Iterable[bytes], name: str) -> str:
    """Base64 text, in pieces, as one text or, past INLINE_BYTES, as the file `name`, written once it is whole."""
    head: list[bytes] = []
    size = 0
    pieces = iter(pieces)
    for piece in pieces:
        head.append(piece)
        size += len(piece)
        if size > INLINE_BYTES:
            break
    else:
        return b"".join(head).decode("ascii")
    config.dir_large().mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    part = f".{secrets.token_hex(8)}.part"
    with plainfile.folder(config.dir_large()) as folder:
        try:
            with plainfile.write(part, folder) as file:
                for source in (head, pieces):
                    for piece in source:
                        digest.update(piece)
                        file.write(piece)
            os.rename(part, name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(part, dir_fd=folder)
            raise
    return f"@{digest.hexdigest()}/{name}"


def is_file(text: str) -> bool:
    return text.startswith("@")


def file_name(text: str) -> str:
    """The name of the file that the text stands for; empty where it is no file's."""
    return text.partition("/")[2] if is_file(text) else ""


def pieces(text: str) -> Iterator[bytes]:
    """The base64 text in pieces; PayloadError where its file is lost or, at the end, is not the one named.

    UnreadableError where the file may be whole, but can't be read now.
    """
    if not is_file(text):
        if not text.isascii():
            raise PayloadError("is not base64 text: send base64(zlib(content))")
        yield text.encode("ascii")
        return
    name, digest = _name(text), hashlib.sha256()
    left = config.max_payload_bytes()
    try:
        with plainfile.folder(config.dir_large()) as folder, plainfile.read(Path(name), folder) as file:
            while piece := file.read(_PIECE):
                left -= len(piece)
                if left < 0:
                    raise PayloadError(f"{name} on the shared disk is larger than anything that is sent")
                digest.update(piece)
                yield piece
    except OSError as error:
        kind = PayloadError if error.errno in _NO_SUCH_FILE and disk_is_there() else UnreadableError
        raise kind(f"a file of the message can't be read: {error}") from None
    if digest.hexdigest() != text[1:].partition("/")[0]:
        raise PayloadError(f"{name} on the shared disk is not the file that was sent")


def check(text: str) -> None:
    """PayloadError where a file that the text names is missing or damaged, UnreadableError while the disk is away."""
    if is_file(text) and not share.is_there():
        raise UnreadableError("the shared disk is away")
    for piece in pieces(text):
        if not _BASE64.fullmatch(piece):  # it goes into answers of the API as it is
            raise PayloadError(f"{file_name(text)} on the shared disk is not base64 text")


_folder = Look(lambda: config.dir_large().is_dir())


def disk_is_there() -> bool:
    """Whether the shared disk is there. One without a marker shows no folder of payloads while it is not mounted."""
    try:
        return share.is_there() and _folder(share.PATIENCE)
    except OSError:
        return False


def is_there(text: str) -> bool:
    """False where the text names a file that is not there."""
    path = config.dir_large() / _name(text) if is_file(text) else None
    return path is None or (path.is_file() and not path.is_symlink())


def delete(text: str) -> None:
    """Delete the file that the text names. While the disk is away it stays: nothing refers to it any more."""
    if is_file(text):
        with suppress(OSError), plainfile.folder(config.dir_large()) as folder:
            os.unlink(_name(text), dir_fd=folder)


def unpack(text: str, dtype: str, max_bytes: int) -> np.ndarray:
    """The array of shape (n,) that a text holds, of at most max_bytes; PayloadError otherwise."""
    data = bytearray()
    for piece in inflate(pieces(text), max_bytes):
        data += piece
    if len(data) % (size := np.dtype(dtype).itemsize):
        raise PayloadError(f"holds {len(data)} bytes: not a multiple of {size}, the size of {dtype}")
    return np.frombuffer(data, dtype)


def inflate(encoded: Iterable[bytes], max_bytes: int) -> Iterator[bytes]:
    """The bytes behind base64(zlib(...)), in pieces, at most max_bytes of them; PayloadError otherwise."""
    stream = zlib.decompressobj()
    left = max_bytes
    for binary in _unbase64(encoded):
        while binary and not stream.eof:
            try:
                piece = stream.decompress(binary, _PIECE)
            except zlib.error:
                raise PayloadError("is not zlib data: send base64(zlib(content))") from None
            left -= len(piece)
            if left < 0:
                raise PayloadError(f"unpacks to more than the {max_bytes} bytes that are allowed")
            yield piece
            binary = stream.unconsumed_tail
        if stream.unused_data or (stream.eof and binary):
            raise PayloadError("has data after the end of its zlib stream: send base64(zlib(content))")
    while not stream.eof and (piece := stream.decompress(stream.unconsumed_tail, _PIECE)):
        left -= len(piece)
        if left < 0:
            raise PayloadError(f"unpacks to more than the {max_bytes} bytes that are allowed")
        yield piece
    if not stream.eof:
        raise PayloadError("is cut off: its zlib stream has no end")


def _unbase64(encoded: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for text in encoded:
        for start in range(0, len(text), _PIECE):
            piece = rest + text[start : start + _PIECE]
            cut = len(piece) - len(piece) % 4
            piece, rest = piece[:cut], piece[cut:]
            try:
                yield base64.b64decode(piece, validate=True)
            except ValueError:
                raise PayloadError("is not base64 text: send base64(zlib(content))") from None
    if rest:
        raise PayloadError("is not base64 text: its length is not a multiple of 4")


def _encode(data: memoryview) -> Iterator[bytes]:
    stream = zlib.compressobj(1)  # deflate is the cost of large predictions: level 1 takes two thirds of level 6
    rest = b""
    for start in range(0, len(data), _PIECE):
        rest += stream.compress(data[start : start + _PIECE])
        cut = len(rest) - len(rest) % 3
        yield base64.b64encode(rest[:cut])
        rest = rest[cut:]
    yield base64.b64encode(rest + stream.flush())


def _name(text: str) -> str:
    name = file_name(text)
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise PayloadError(f"{name!r} is no name of a file on the shared disk")
    return name
