"""Files on the shared disk, which every runner may write to: plain ones alone, below folders that are no links.

Who opens a link reads what it points to, and who opens a pipe or a device waits, or reads for ever.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader, BufferedWriter
from pathlib import Path

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # without waiting for a pipe's other end


@contextmanager
def folder(path: Path, root: Path | None = None) -> Iterator[int]:
    """A descriptor of a folder, as `dir_fd` of the calls that name its files. OSError if it is a link.

    root: the folder above it up to which links are refused too; by default its parent.
    """
    root = root or path.parent
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in path.relative_to(root).parts:
            inner = os.open(part, _FOLDER, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        yield descriptor
    finally:
        os.close(descriptor)


def read(path: Path, dir_fd: int | None = None) -> BufferedReader:
    """Open a plain file for reading; OSError for anything else. With dir_fd the path is relative to that folder."""
    descriptor = os.open(path, _FILE, dir_fd=dir_fd)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is no plain file", str(path))
        return open(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def write(name: str, dir_fd: int) -> BufferedWriter:
    """Make a new file in the folder; FileExistsError where there is something of this name."""
    return open(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666, dir_fd=dir_fd), "wb")
