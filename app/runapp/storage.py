"""Files that clients send: checked while packed, written once, found by content, never changed in place."""

import codecs
import csv
import hashlib
import io
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from shutil import rmtree
from typing import Any

from runner import payloads, plainfile

Files = Mapping[str, str]
"""File name -> base64(zlib(content))."""

MOST_FILES = 1_000
"""Files that a data set or a submission may have."""
MAX_HEADER_BYTES = 1 << 20
_PIECE = 1 << 20

_NOT_CSV = {
    b"\x1f\x8b": "compressed with gzip",
    b"PK\x03\x04": "a zip archive or an Excel workbook",
    b"BZh": "compressed with bzip2",
    b"\xfd7zXZ\x00": "compressed with xz",
    b"\x28\xb5\x2f\xfd": "compressed with zstd",
    b"\xd0\xcf\x11\xe0": "an Excel workbook",
    b"PAR1": "a Parquet file",
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
}
"""The first bytes of files that people send in place of a CSV file."""


def name_problem(name: str) -> str | None:
    """What is wrong with a file name that a client gave; None if it can be used as it is."""
    if not name or name.startswith(".") or "/" in name or "\\" in name:
        return f"{name!r} can't be a file name here: send a plain name, without folders and not starting with a dot"
    if not name.isprintable() or len(name.encode()) > 200:
        return "a file name has at most 200 bytes, all of them printable"
    return None


def cut(text: str) -> Iterable[bytes]:
    """A long ASCII text as bytes, in pieces: the whole of it is in memory once already."""
    return (text[start : start + _PIECE].encode() for start in range(0, len(text), _PIECE))


def hashes(files: Files, max_bytes: int) -> tuple[dict[str, str], int]:
    """The SHA-256 of each file's content, by its name, and the bytes of all contents.

    payloads.PayloadError names the file that is not as it should be.
    Nothing is written: what unpacks to more than max_bytes is refused before it touches the disk.
    """
    found, left = {}, max_bytes
    for name in sorted(files):
        content = hashlib.sha256()
        try:
            for piece in payloads.inflate(cut(files[name]), left):
                content.update(piece)
                left -= len(piece)
        except payloads.PayloadError as error:
            raise payloads.PayloadError(f"{name} {error}") from None
        found[name] = content.hexdigest()
    return found, max_bytes - left


def csv_header(content: str) -> str:
    """The text of a packed CSV file from its first line that is not blank, as far as it is in the first megabyte.

    Raises ValueError for what is no CSV file; the message goes behind the file's name.
    """
    head = b""
    for piece in payloads.inflate(cut(content), 1 << 62):
        head += piece
        if len(head) > MAX_HEADER_BYTES:
            break
    try:
        # A character may be cut off at the end of what was read.
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(head)
    except UnicodeDecodeError as error:
        text, why = "\0", f"is not UTF-8 text (byte {error.start + 1}): save it as UTF-8"
    else:
        why = "holds NUL bytes: send a CSV file, as UTF-8 text"
    if "\0" in text:
        what = next((what for magic, what in _NOT_CSV.items() if head.startswith(magic)), None)
        raise ValueError(f"is {what}: send the CSV file itself, as UTF-8 text" if what else why)
    lines = io.StringIO(text, newline="")
    first = next((line for line in lines if line.strip()), "")  # pandas skips blank lines, too
    if not first:
        raise ValueError("has no line with the names of its columns")
    return first + lines.read()


def csv_names(header: str, separator: str = ",") -> list[str]:
    """The names in the first row of a CSV text."""
    try:
        return next(csv.reader(io.StringIO(header, newline=""), delimiter=separator), [])
    except csv.Error:  # a name of more than 128 kB
        return []


def save_files(dir_data: str | Path, data: Mapping[str, Any], root: Path | None = None) -> None:
    """Save data['files'] (file name -> base64(zlib(content))) in the folder dir_data.

    Each file is written under a temporary name and renamed, so that no reader sees half of it. root: as
    plainfile.folder takes it.
    Raises ValueError for a name that could leave the folder, payloads.PayloadError for other content.
    """
    Path(dir_data).mkdir(parents=True, exist_ok=True)
    with plainfile.folder(Path(dir_data), root) as folder:
        for name, content in data["files"].items():
            if problem := name_problem(name):
                raise ValueError(problem)
            part = f".{secrets.token_hex(8)}.part"
            try:
                with plainfile.write(part, folder) as file:
                    for piece in payloads.inflate(cut(content), 1 << 62):
                        file.write(piece)
                os.rename(part, name, src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                with suppress(FileNotFoundError):
                    os.unlink(part, dir_fd=folder)
                raise


@contextmanager
def staged(parent: Path) -> Iterator[Path]:
    """A new folder below parent, to be filled and then renamed to its place; gone at the end if it was not."""
    parent.mkdir(parents=True, exist_ok=True)
    folder = parent / f".{secrets.token_hex(8)}.part"
    folder.mkdir()
    try:
        yield folder
    finally:
        rmtree(folder, ignore_errors=True)


def new_name(prefix: str, digest: str) -> str:
    """The name of a folder of its own for files of this digest.

    No two rows share a folder, though their files be the same: to remove one takes nothing from another.
    """
    return f"{prefix}{digest[:16]}_{secrets.token_hex(4)}"


def holds(path: str | None, prefix: str, digest: str) -> bool:
    """Whether the folder of this path, named by `new_name`, has the files of this digest."""
    return Path(path or "").name.startswith(f"{prefix}{digest[:16]}_")


def point(link: Path, target: str) -> None:
    """Make the symbolic link point to the sibling `target`, at once for every reader."""
    fresh = f".{secrets.token_hex(8)}.part"
    with plainfile.folder(link.parent) as folder:
        os.symlink(target, fresh, dir_fd=folder)
        os.replace(fresh, link.name, src_dir_fd=folder, dst_dir_fd=folder)


def delete_payloads(texts: list[str]) -> None:
    for text in texts:
        with suppress(payloads.PayloadError):  # it names no file that could be deleted
            payloads.delete(text)


def clean_text(text: str) -> str:
    """What PostgreSQL can store of a text that a submission may have made."""
    return text.replace("\0", "\\0").encode("utf-8", "replace").decode()
