"""A line below a traceback that says what would help, where the error alone does not."""

import difflib
import errno
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

_NETWORK = {errno.EAFNOSUPPORT, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN}

_UNLOCKED = {"SQLITE_IOERR_LOCK", "SQLITE_IOERR_RDLOCK", "SQLITE_IOERR_CHECKRESERVEDLOCK"}


def hint(error: BaseException, root: Path, network: bool) -> str:
    """Empty if there is none. root: the submission's folder. network: whether the code had one.

    The error is the submission's own object and may be hostile: an error in here is no hint.
    """
    try:
        files = {path.stem for path in root.glob("*.py")} - {"__init__"}
        for cause in _chain(error):
            if (
                text := _of_network(cause, network)
                or _of_call(cause, network)
                or _of_file(cause, root)
                or _of_import(cause, root.name, files)
            ):
                return text
    except Exception:
        pass
    return ""


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen, todo = set[int](), [error]
    while todo:
        cause = todo.pop()
        if id(cause) not in seen:
            seen.add(id(cause))
            yield cause
            # urllib keeps the first error among its arguments, a group its own in a list.
            others = (cause.__context__, cause.__cause__, *cause.args, *getattr(cause, "exceptions", ()))
            todo += [other for other in others if isinstance(other, BaseException)]


def _of_network(error: BaseException, network: bool) -> str:
    if network or not isinstance(error, OSError):
        return ""
    if isinstance(error, socket.gaierror | socket.herror) or error.errno in _NETWORK:
        return "Hint: submissions have no network, nor has a data set's own code. Send the files that they need along."
    return ""


def _of_call(error: BaseException, network: bool) -> str:
    if network:
        return ""
    if getattr(error, "sqlite_errorname", "") in _UNLOCKED:
        where = 'sqlite3.connect("file:/tmp/x.db?nolock=1", uri=True), or ":memory:"'
        return (
            f"Hint: files can't be locked in the sandbox. A database that only one process uses needs no lock: {where}."
        )
    if isinstance(error, OSError) and error.errno == errno.ENOSYS:
        memory = "Memory for several processes is from multiprocessing.shared_memory"
        return f"Hint: the sandbox refuses this call. {memory}; files can't be locked, and no other fold sees them."
    return ""


def _of_file(error: BaseException, root: Path) -> str:
    if not isinstance(error, OSError) or not isinstance(error.filename, str):
        return ""
    if isinstance(error, FileNotFoundError) and (root / Path(error.filename).name).is_file():
        name = Path(error.filename).name
        return f"Hint: the submission's files are in a folder of their own: Path(__file__).parent / {name!r}."
    return "Hint: a submission can write below /tmp." if error.errno == errno.EROFS else ""


def _of_import(error: BaseException, package: str, files: set[str]) -> str:
    """package: the name under which the submission's files are imported; files: their names without .py."""
    if isinstance(error, ModuleNotFoundError):
        return _of_missing(error.name or "", package, files)
    if isinstance(error, ImportError):
        name, lacks = error.name or "", ""
    elif isinstance(error, AttributeError) and isinstance(error.obj, ModuleType):
        name, lacks = error.obj.__name__, error.name or ""
    else:
        return ""
    if name in files and sys.modules.get(name) is not sys.modules.get(f"{package}.{name}"):
        return f"Hint: {name} is a module of Python or of an installed package. {name}.py is `from . import {name}`."
    top, _, file = name.partition(".")
    if lacks and top == package and file in files:
        found = vars(sys.modules[name]).items()
        own = [key for key, value in found if key[0] != "_" and not isinstance(value, ModuleType)]
        return f"Hint: {file}.py defines {', '.join(own[:20]) or 'nothing'}."
    return ""


def _of_missing(name: str, package: str, files: set[str]) -> str:
    """The module of that name was not found."""
    top, _, below = name.partition(".")
    wanted = below if top == package else top
    if wanted in files or top in sys.modules and top != package:
        return ""
    near = difflib.get_close_matches(wanted, sorted(files), 1)
    meant = f" Is {near[0]}.py meant?" if near else ""
    if top == package:
        return f"Hint: the submission has no file {wanted}.py.{meant or f' It has {_listed(files)}.'}"
    none = f"no package {top} is installed on the runners, and the submission has no file {top}.py"
    return f"Hint: {none}.{meant} GET /runapp/packages/ lists the packages."


def _listed(files: set[str]) -> str:
    return ", ".join(f"{file}.py" for file in sorted(files)[:20])
