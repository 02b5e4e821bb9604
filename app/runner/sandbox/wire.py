"""Messages between supervisor, zygote and fold: JSON with file descriptors; bulk in memfds. Used on all sides.

Assumes that whoever is on the other end may lie: a message has a largest size, a memfd is sealed before it is read,
and nothing is unpickled here but by `load_objects`, whose caller has to know who wrote it.
"""

import errno
import fcntl
import hashlib
import json
import mmap
import os
import pickle
import socket
import struct
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from runner import digests, plainfile

MESSAGE = 1 << 16
"""The longest message, in bytes."""
TEXT = 16_000
"""The longest text within one, in characters: JSON may take four bytes a character, escaped surrogates six."""

_PATIENCE = 3600.0
"""Seconds: longer than a fold may take, whose end sets free what it has in flight."""
_LENGTH = struct.Struct("<Q")
_ALIGNMENT = 64


def pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(channel: socket.socket, message: Any, fds: Sequence[int] = ()) -> None:
    """Waits while this user has too many descriptors in flight. Folds may cause that where the host's limit is low."""
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            socket.send_fds(channel, [json.dumps(message).encode()], fds)
            return
        except OSError as error:
            if error.errno != errno.ETOOMANYREFS or time.monotonic() > until:
                raise
        time.sleep(0.02)


def receive(channel: socket.socket, fds: int = 0) -> tuple[Any, list[int]]:
    """The next message and its descriptors, at most `fds`. Raises EOFError, ValueError, TimeoutError."""
    data, received, flags, _ = socket.recv_fds(channel, MESSAGE, fds)
    if not data or flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        for fd in received:
            os.close(fd)
        if not data:
            raise EOFError("the other end is gone")
        raise ValueError("a message that is too long")
    try:
        return json.loads(data), received
    except RecursionError:
        raise ValueError("a message that is nested too deeply") from None


def memfd(name: str, size: int = 0) -> int:
    """Shared memory, of exactly `size` bytes if that is given: no one can grow or shrink it then."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    if size:
        os.ftruncate(fd, size)
        seal(fd, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
    return fd


def seal(fd: int, seals: int = fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_WRITE) -> None:
    """Never to be changed again, by anyone. Raises OSError while someone has it mapped for writing."""
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)


def filled(name: str, *parts: bytes | memoryview) -> int:
    """A sealed memfd of these bytes."""
    fd = memfd(name)
    write(fd, *parts)
    seal(fd)
    return fd


def write(fd: int, *parts: bytes | memoryview) -> None:
    for part in parts:
        view = memoryview(part).cast("B")
        while view:
            view = view[os.write(fd, view) :]


def read(fd: int) -> bytes:
    """All of a memfd, from its beginning."""
    size, parts, done = os.fstat(fd).st_size, [], 0
    while done < size and (part := os.pread(fd, size - done, done)):
        parts.append(part)
        done += len(part)
    return b"".join(parts)


def pack_array(array: np.ndarray) -> list[bytes | memoryview]:
    """An array without pickle: numbers as they are, objects (text, missing values) as JSON."""
    if array.dtype.hasobject:
        body: bytes | memoryview = json.dumps(array.tolist(), default=_scalar).encode()
    else:
        body = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    header = json.dumps([array.dtype.str, array.shape]).encode()
    return [_LENGTH.pack(len(header)), header, _LENGTH.pack(len(body)), body]


def unpack_arrays(data: bytes) -> list[np.ndarray]:
    """The arrays that pack_array wrote, one after the other. Raises ValueError for anything else."""
    arrays, view = [], memoryview(data)
    while view:
        header, view = _cut(view)
        body, view = _cut(view)
        kind, shape = json.loads(bytes(header))
        dtype = np.dtype(kind)
        if dtype.hasobject:
            array = np.empty(shape, dtype=object)
            array[...] = np.array(json.loads(bytes(body)), dtype=object).reshape(shape)
        else:
            array = np.frombuffer(body, dtype).reshape(shape).copy()
        arrays.append(array)
    return arrays


def _scalar(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"a label that is neither text nor a number: {type(value).__name__}")


def _cut(view: memoryview) -> tuple[memoryview, memoryview]:
    (length,) = _LENGTH.unpack_from(view) if len(view) >= 8 else (1 << 63,)
    if length > len(view) - 8:
        raise ValueError("cut short")
    return view[8 : 8 + length], view[8 + length :]


def pack_files(folder: Path, digest: str = "", most: int = 1 << 30) -> list[bytes | memoryview]:
    """The plain files of a submission; links are not followed.

    Raises ValueError above `most` bytes, and for files that have not this digest (runner.digests) if one is given.
    """
    parts: list[bytes | memoryview] = []
    contents = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not path.is_file() or "__pycache__" in path.parts:
            continue
        with plainfile.read(path) as file:
            name, body = str(path.relative_to(folder)).encode(), file.read(most + 1)
        contents[name.decode()] = hashlib.sha256(body).hexdigest()
        parts += [_LENGTH.pack(len(name)), name, _LENGTH.pack(len(body)), body]
        most -= len(body)
        if most < 0:
            raise ValueError(f"the files in {folder.name} are too large to be a submission")
    if digest and digests.of(contents) != digest:
        raise ValueError(f"{folder.name} on the shared disk is not what was sent")
    return parts


def unpack_files(data: bytes, folder: Path) -> None:
    view = memoryview(data)
    while view:
        name, view = _cut(view)
        body, view = _cut(view)
        path = folder / bytes(name).decode()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)


def dump_objects(fd: int, value: Any) -> None:
    """Pickle into a memfd with the arrays side by side, so that load_objects need not copy them."""
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    raws = [buffer.raw() for buffer in buffers]
    sizes = json.dumps([len(head), *(len(raw) for raw in raws)]).encode()
    write(fd, _LENGTH.pack(len(sizes)), sizes)
    place = _LENGTH.size + len(sizes)
    for part in (memoryview(head), *raws):
        place += -place % _ALIGNMENT
        os.lseek(fd, place, os.SEEK_SET)
        write(fd, part)
        place += len(part)


def load_objects(fd: int) -> Any:
    """What dump_objects wrote, its arrays views on a private mapping: writable, copied page by page when written.

    Executes what the writer says: only for memfds of the same trust as the caller.
    """
    if not os.fstat(fd).st_size:
        raise ValueError("empty")
    view = memoryview(mmap.mmap(fd, 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE))
    sizes_view, _ = _cut(view)
    place, parts = 8 + len(sizes_view), []
    for size in json.loads(bytes(sizes_view)):
        place += -place % _ALIGNMENT
        parts.append(view[place : place + size])
        place += size
    return pickle.loads(parts[0], buffers=parts[1:])
