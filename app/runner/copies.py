"""Copies of data sets on the runner's own disk: fetched once, verified by their sums, bounded in size.

Beside a version's folder lies `<version>.sha256`, in the format of sha256sum, written by whoever split the data set. A
version never changes. One worker uses the folder of copies, from several threads.
"""

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from threading import Lock

from celery.utils.log import get_task_logger

from runner import config

log = get_task_logger(__name__)

_PART = ".part"

_NO_ROOM = errno.ENOSPC, errno.EDQUOT, errno.EROFS
"""How the runner's own disk says that it takes no copy: reading the shared one never ends like that."""


class CopyError(Exception):
    """The data set could not be fetched as it is."""


def write_sums(version: Path) -> None:
    """The sums of a version that is complete; `sha256sum -c` in its parent checks them."""
    part = version.with_name(f".{secrets.token_hex(8)}{_PART}")
    part.write_bytes(_sums(version, version.name))
    part.replace(_sums_file(version))


def is_whole(version: Path) -> bool:
    """Whether a version is what its sums say; where it has none (it is older than them), whether it is there."""
    sums = _sums_file(version)
    return version.is_dir() and (not sums.exists() or sums.read_bytes() == _sums(version, version.name))


class Copies:
    """Below folder, at most `most` bytes. What an interrupted copy left is removed."""

    def __init__(self, folder: Path, most: int) -> None:
        self._folder, self._most = folder, most
        self._users: Counter[Path] = Counter()
        self._copying: dict[Path, Lock] = {}
        self._lock = Lock()
        self._reserved = 0
        folder.mkdir(parents=True, exist_ok=True)
        for part in folder.glob(f"*/.*{_PART}"):
            shutil.rmtree(part)
        self._sizes = {copy: _size(copy) for copy in folder.glob("*/*") if copy.is_dir()}

    @contextlib.contextmanager
    def use(self, version: Path) -> Iterator[Path]:
        """The folder to read a version from, which stays while it is used: its copy, or the version on the shared

        disk where it has no sums (it is older than them), or there is no room for it here.
        """
        copy = self._folder / version.parent.name / version.name
        with self._lock:
            self._users[copy] += 1
            copying = self._copying.setdefault(copy, Lock())
        try:
            with copying:
                there = self._fetch(version, copy)
            yield copy if there else version
        finally:
            with self._lock:
                self._users[copy] -= 1

    def _fetch(self, version: Path, copy: Path) -> bool:
        try:
            sums = _sums_file(version).read_bytes()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise CopyError(f"the sums of data set {version.parent.name} can't be read: {error}") from None
        if copy.is_dir() and _sums_file(copy).is_file() and _sums_file(copy).read_bytes() == sums:
            with contextlib.suppress(OSError):  # a disk that can't be written to has what it has
                os.utime(_sums_file(copy))  # the time of its last use
            return True
        try:
            size = _size(version)
            if not self._make_room(copy, size):
                log.info("data set %s is read from the shared disk: no room for its %d bytes", version.parent, size)
                return False
            try:
                self._copy(version, copy, sums)
                with self._lock:
                    self._sizes[copy] = size
            finally:
                with self._lock:
                    self._reserved -= size
        except OSError as error:
            if error.errno in _NO_ROOM:
                log.warning("data set %s is read from the shared disk: %s", version.parent, error)
                return False
            raise CopyError(f"data set {version.parent.name} can't be copied: {error}") from None
        return True

    def _copy(self, version: Path, copy: Path, sums: bytes) -> None:
        part = copy.with_name(f".{secrets.token_hex(8)}{_PART}")
        try:
            for _ in range(2):
                part.mkdir(parents=True)
                for source in _files(version):
                    target = part / source.relative_to(version)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(source, target)
                if _sums(part, version.name) == sums:
                    break
                log.warning("data set %s was not copied as it is", version.parent.name)
                shutil.rmtree(part)
            else:
                raise CopyError(f"data set {version.parent.name} on the shared disk is not what its sums say")
            self._remove(copy)
            part.rename(copy)
            try:
                _sums_file(copy).write_bytes(sums)
            except OSError:
                self._remove(copy)
                raise
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def _make_room(self, copy: Path, size: int) -> bool:
        """Reserve the bytes; remove copies that nobody uses, the least recently used first, if that helps."""
        with self._lock:
            kept = {other: used for other, used in self._sizes.items() if other != copy}
            unused = sorted((other for other in kept if not self._users[other]), key=_last_use)
            over = sum(kept.values()) + self._reserved + size - self._most
            if over > sum(kept[other] for other in unused):
                return False
            for other in unused:
                if over <= 0:
                    break
                over -= kept[other]
                self._remove(other)
            self._reserved += size
            return True

    def _remove(self, copy: Path) -> None:
        self._sizes.pop(copy, None)
        _sums_file(copy).unlink(missing_ok=True)  # first: a copy without its sums is none
        shutil.rmtree(copy, ignore_errors=True)


@cache
def copies() -> Copies | None:
    """This worker's; None where data sets are read from the shared disk."""
    folder = config.local_data()
    return None if folder is None else Copies(folder, config.local_data_bytes())


@contextlib.contextmanager
def local(version: Path) -> Iterator[Path]:
    """The folder to read a version from, as it is configured."""
    own = copies()
    if own is None:
        yield version
    else:
        with own.use(version) as folder:
            yield folder


def _sums_file(version: Path) -> Path:
    return version.with_name(f"{version.name}.sha256")


def _last_use(copy: Path) -> float:
    try:
        return _sums_file(copy).stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in _files(folder))


def _sums(folder: Path, name: str) -> bytes:
    """What `sha256sum` prints of the folder's files, as if its name were `name`."""
    lines = []
    for path in _files(folder):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        shown = f"{name}/{path.relative_to(folder)}"
        escaped = shown.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
        mark = "\\" if escaped != shown else ""
        lines.append(f"{mark}{digest}  {escaped}\n")
    return os.fsencode("".join(lines))
