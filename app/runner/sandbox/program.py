"""Let a submission find what a Python program finds: arguments of its own, and its own files as modules.

Runs inside, in the fold's process before foreign code does; in processes that the fold starts, too.
"""

import importlib
import importlib.util
import multiprocessing
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import ModuleType

_INIT = """
from runner.sandbox import program

program.find_files(__name__, __path__[0])
"""
"""The end of each submission's __init__.py. A process that unpickles its objects then finds the files, too."""


def begin(name: str) -> None:
    """Hide how this process was started. name: what stands in sys.argv instead."""
    sys.argv, sys.orig_argv = [name], [sys.executable]
    # No file and no module: processes that multiprocessing spawns would import it, and all that it needs.
    sys.modules["__main__"] = ModuleType("__main__")
    # What was imported so far may have used the default start method, which can't be set after that.
    multiprocessing.set_start_method(None, force=True)


def prepare(folder: Path) -> None:
    """Make the folder of a submission's files ready to be imported as a package."""
    with (folder / "__init__.py").open("a") as file:
        file.write(_INIT)


def find_files(package: str, folder: str) -> None:
    """Have `import helper` find the package's helper.py, as the same module that `from . import helper` finds.

    It is asked last: a module of Python or of an installed package comes before a file of that name.
    """
    finder = _Files(package, folder)
    if finder not in sys.meta_path:
        sys.meta_path.append(finder)


class _Files(MetaPathFinder):
    def __init__(self, package: str, folder: str) -> None:
        self._package, self._folder = package, folder

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Files) and other._package == self._package

    __hash__ = None  # type: ignore[assignment]

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        file = Path(self._folder, f"{fullname}.py")
        if path is not None or not file.is_file():
            return None
        loader = _Same(fullname, str(file), f"{self._package}.{fullname}")
        return importlib.util.spec_from_file_location(fullname, file, loader=loader)


class _Same(SourceFileLoader):
    """Loads a module under a second name."""

    def __init__(self, fullname: str, path: str, first_name: str) -> None:
        super().__init__(fullname, path)
        self._first_name = first_name
        self._spec: ModuleSpec | None = None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(self._first_name)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec  # importlib has put the one of the second name there
