"""A folder that an organiser's code has worked in: taken over within bounds, or removed. Supervisor: trusted, outside.

Nothing runs in it any more. It may hold anything a user can make: links, pipes, names of any bytes, a million files,
folders in folders beyond the length of a path.
"""

import itertools
import os
import secrets
import stat
from pathlib import Path

MOST_FILES = 100_000
"""Files and folders of a data set that is split."""
_DEEPEST = 16
_LONGEST = 1000


class TreeError(Exception):
    """The folder can't be taken over; the message says why."""


def take_over(folder: Path, most_bytes: int, group: int = 0) -> None:
    """Make all in it ours, open to whoever may use the folder around. What is neither a file nor a folder is removed.

    group: of the user as whom a runner of root's confines folds; they read the folder where it is a custom data set's.
    Raises TreeError for more than MOST_FILES or most_bytes, and for names that later readers could stumble over.
    """
    around = folder.parent.stat().st_mode & 0o777
    if group:
        around |= 0o050
    files = size = 0
    todo = [(os.fspath(folder), 0)]
    while todo:
        place, depth = todo.pop()
        _own(place, around, 0, group)
        with os.scandir(place) as entries:
            for entry in entries:
                files += 1
                name = os.path.relpath(entry.path, folder)
                if files > MOST_FILES:
                    raise TreeError(f"prepare_data has left more than {MOST_FILES:,} files")
                if len(os.fsencode(name)) > _LONGEST or not name.isprintable():
                    raise TreeError(f"prepare_data has left a file with a name that is too long or odd: {name!a:.200}")
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    if depth == _DEEPEST:
                        raise TreeError(f"prepare_data has left folders more than {_DEEPEST} deep")
                    todo.append((entry.path, depth + 1))
                elif stat.S_ISREG(status.st_mode):
                    size += status.st_size
                    if size > most_bytes:
                        raise TreeError(f"prepare_data has left more than {most_bytes >> 20} MiB")
                    _own(entry.path, around & 0o666, stat.S_ISUID | stat.S_ISGID, group)
                else:
                    os.unlink(entry.path)


def _own(path: str, mode: int, unwanted: int, group: int) -> None:
    if os.geteuid() == 0:
        os.chown(path, 0, group, follow_symlinks=False)
    _allow(path, mode, unwanted)


def _allow(path: str | os.PathLike[str], mode: int, unwanted: int = 0) -> None:
    """Only where it is not so already: a share may show all as another user's, who alone may change it."""
    if os.stat(path).st_mode & (mode | unwanted) != mode:
        os.chmod(path, mode)


def remove(folder: Path) -> None:
    """Remove a folder and all in it, however deep: what is in a folder is moved up, so that no path gets long."""
    top, numbers = folder.with_name(f"{folder.name}-{secrets.token_hex(4)}"), itertools.count()
    top.mkdir()
    folder.rename(top / str(next(numbers)))
    while places := _some(top):
        for place in places:
            _allow(place, 0o700)
            while entries := _some(place):
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        _allow(entry, 0o700)  # else its owner may not move it
                        os.rename(entry, top / str(next(numbers)))
                    else:
                        os.unlink(entry)
            os.rmdir(place)
    top.rmdir()


def _some(place: os.PathLike[str]) -> list[os.DirEntry[str]]:
    with os.scandir(place) as entries:
        return list(itertools.islice(entries, 1000))
