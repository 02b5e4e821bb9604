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
from dataclasses import replace
from functools import cache
from pathlib import Path
from threading import Lock

from celery.utils.log import get_task_logger

from runner import config, digests, plainfile
from runner.jobs import SplitJob

log = get_task_logger(__name__)

_PART = ".part"

_ROOM = 4
"""A split has its raw files here twice, and what it makes of them."""

_NO_ROOM = errno.ENOSPC, errno.EDQUOT, errno.EROFS
"""How the runner's own disk says that it takes no copy: reading the shared one never ends like that."""


class CopyError(Exception):
    """The data set could not be fetched as it is."""


def write_sums(version: Path) -> str:
    """Write the sums of a version that is complete; `sha256sum -c` in its parent checks them. Returns their SHA-256."""
    sums = _sums(version, version.name)
    part = version.with_name(f".{secrets.token_hex(8)}{_PART}")
    part.write_bytes(sums)
    part.replace(_sums_file(version))
    return hashlib.sha256(sums).hexdigest()


def is_whole(version: Path, digest: str = "") -> bool:
    """Whether a version is what its sums say; where it has none (it is older than them), whether it is there.

    digest: SHA-256 of the sums, where it is known.
    """
    try:
        sums = _read_sums(version, digest)
    except (OSError, CopyError):
        return False
    return version.is_dir() and (sums is None or sums == _sums(version, version.name))


def has_sums(version: Path, digest: str) -> bool:
    """Whether the sums beside a version are those of this SHA-256."""
    with contextlib.suppress(OSError, CopyError):
        return _read_sums(version, digest) is not None
    return False


def _read_sums(version: Path, digest: str) -> bytes | None:
    """None where there are none. CopyError where they are not those that the digest names."""
    try:
        with plainfile.read(_sums_file(version)) as file:
            sums = file.read()
    except FileNotFoundError:
        if not digest:
            return None
        raise CopyError(f"the sums of data set {version.parent.name} are gone from the shared disk") from None
    if digest and hashlib.sha256(sums).hexdigest() != digest:
        raise CopyError(
            f"{_sums_file(version).name} of data set {version.parent.name} is not what was made by its split"
        )
    return sums


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
    def use(self, version: Path, digest: str = "") -> Iterator[Path | None]:
        """The copy of a version, which stays while it is used. digest: SHA-256 of its sums, where it is known.

        None where the version has no sums (it is older than them), or there is no room for it here.
        """
        copy = self._folder / version.parent.name / version.name
        with self._lock:
            self._users[copy] += 1
            copying = self._copying.setdefault(copy, Lock())
        try:
            with copying:
                there = self._fetch(version, copy, digest)
            yield copy if there else None
        finally:
            with self._lock:
                self._users[copy] -= 1

    def _fetch(self, version: Path, copy: Path, digest: str) -> bool:
        if digest and copy.is_dir() and has_sums(copy, digest):
            self._note_use(copy)
            return True
        try:
            sums = _read_sums(version, digest)
        except OSError as error:
            raise CopyError(f"the sums of data set {version.parent.name} can't be read: {error}") from None
        if sums is None:
            return False
        if copy.is_dir() and _sums_file(copy).is_file() and _sums_file(copy).read_bytes() == sums:
            self._note_use(copy)
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

    def _note_use(self, copy: Path) -> None:
        with contextlib.suppress(OSError):  # a disk that can't be written to has what it has
            os.utime(_sums_file(copy))

    def _copy(self, version: Path, copy: Path, sums: bytes) -> None:
        part = copy.with_name(f".{secrets.token_hex(8)}{_PART}")
        try:
            for _ in range(2):
                _copy_files(version, part)
                if sums == (found := _sums(part, version.name)):
                    break
                said = _altered(sums, found)
                log.warning("data set %s was not copied as it is", version.parent.name)
                shutil.rmtree(part)
            else:
                raise CopyError(f"data set {version.parent.name}: {said}")
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
def local(version: Path, digest: str = "") -> Iterator[Path]:
    """The folder to read a version from: its copy, or the version on the shared disk where there is none.

    digest: SHA-256 of the version's sums, where it is known. CopyError where the files are not what they say.
    """
    own = copies()
    with contextlib.nullcontext() if own is None else own.use(version, digest) as folder:
        if folder is None:
            _check_once(version, digest)
        yield folder or version


@contextlib.contextmanager
def workspace(job: SplitJob, digest: str = "") -> Iterator[SplitJob]:
    """The job on this runner's own disk, where nobody alters what it reads and makes; its result is for `publish`.

    digest: of the raw files (runner.digests), where it is known. CopyError where they are not what was sent. The job is
    done on the shared disk where there is no place for copies, or no room for this one.
    """
    place = config.local_data()
    if place is not None:
        place.mkdir(parents=True, exist_ok=True)
    if place is not None and _ROOM * _size(job.source) > shutil.disk_usage(place).free:
        log.info("data set %s is split on the shared disk: no room for it here", job.source.parent)
        place = None
    if place is None:
        _check_raw(job.source, job.source.parent.name, digest)
        yield job
        return
    folder = place / job.source.parent.name
    folder.mkdir(parents=True, exist_ok=True)
    own = folder / f".{secrets.token_hex(8)}{_PART}"
    try:
        _copy_files(job.source, own / "raw")
        _check_raw(own / "raw", job.source.parent.name, digest)
        yield replace(job, source=own / "raw", target=own / job.target.name)
    finally:
        shutil.rmtree(own, ignore_errors=True)


def publish(made: Path, version: Path) -> str:
    """Have the shared disk show what a split has made, with its sums; returns their SHA-256."""
    digest = write_sums(made)
    if made != version and not version.exists():  # the message may come twice
        part = version.with_name(f".{secrets.token_hex(8)}{_PART}")
        try:
            _copy_files(made, part)  # not their modes: a share may show all as another user's
            part.rename(version)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    if made != version:
        shutil.copyfile(_sums_file(made), part := version.with_name(f".{secrets.token_hex(8)}{_PART}"))
        part.replace(_sums_file(version))
    return digest


def _copy_files(source: Path, target: Path) -> None:
    target.mkdir(parents=True)
    for path in _files(source):
        own = target / path.relative_to(source)
        own.parent.mkdir(parents=True, exist_ok=True)
        with plainfile.read(path) as file, own.open("xb") as copy:
            shutil.copyfileobj(file, copy)


def _check_raw(folder: Path, name: str, digest: str) -> None:
    if digest and digests.of({str(path.relative_to(folder)): _hash(path) for path in _files(folder)}) != digest:
        raise CopyError(f"the raw files of data set {name} on the shared disk are not what was sent")


_checked: set[tuple[Path, str]] = set()
_checking = Lock()


def _check_once(version: Path, digest: str) -> None:
    """Of what is read from the shared disk. Who alters it afterwards is not noticed: a copy is what shuts that out."""
    if not digest:
        return
    with _checking:
        if (version, digest) in _checked:
            return
        try:
            sums = _read_sums(version, digest)
            if sums != (found := _sums(version, version.name)):
                raise CopyError(f"data set {version.parent.name}: {_altered(sums or b'', found)}")
        except OSError as error:
            raise CopyError(f"data set {version.parent.name} can't be read: {error}") from None
        _checked.add((version, digest))


def _altered(sums: bytes, found: bytes) -> str:
    """Says of a file that it is not what the sums say."""
    lines = {*sums.splitlines()} ^ {*found.splitlines()}
    names = sorted({os.fsdecode(line.partition(b"  ")[2]) for line in lines})
    return f"{names[0] if names else 'its list of files'} on the shared disk is not what its sums say"


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


def _hash(path: Path) -> str:
    with plainfile.read(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sums(folder: Path, name: str) -> bytes:
    """What `sha256sum` prints of the folder's files, as if its name were `name`."""
    lines = []
    for path in _files(folder):
        digest = _hash(path)
        shown = f"{name}/{path.relative_to(folder)}"
        escaped = shown.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
        mark = "\\" if escaped != shown else ""
        lines.append(f"{mark}{digest}  {escaped}\n")
    return os.fsencode("".join(lines))
