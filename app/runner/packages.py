"""The installed packages that a fold can import. Folds run in the same interpreter as the worker."""

import re
import site
from collections.abc import Iterable
from functools import cache
from importlib.machinery import PathFinder
from importlib.metadata import distributions, packages_distributions
from itertools import islice
from typing import Any

_IMPORT = re.compile(rb"^[ \t]*+(?:import|from)[ \t]++([A-Za-z_]\w*+)", re.MULTILINE)
"""Possessive, so that no text takes longer than its length: a submission's author chooses the text."""
_MOST_FILES, _MOST_BYTES = 8, 64 << 10
"""How much is looked at: a worker does nothing else meanwhile. A few milliseconds at the most."""


@cache
def installed() -> list[dict[str, Any]]:
    """Each as {"name", "version", "modules": its top-level modules}, by name, without datarun itself.

    Only the interpreter's own folders count: the sandbox has neither PYTHONPATH nor the user's packages. A module
    that is not found there is left out, and a package without modules as well. 100 packages are about 7 kB of JSON.
    """
    folders = site.getsitepackages()
    versions = {one.metadata["Name"]: one.version for one in reversed([*distributions(path=folders)])}
    modules: dict[str, set[str]] = {}
    for module, owners in packages_distributions().items():
        if module.isidentifier() and PathFinder.find_spec(module, folders):
            for owner in owners:
                modules.setdefault(owner, set()).add(module)
    return sorted(
        (
            {"name": _normal(name), "version": versions[name], "modules": sorted(modules[name])}
            for name in modules.keys() & versions.keys() - {"datarun"}
        ),
        key=lambda package: package["name"],
    )


def installed_modules() -> frozenset[str]:
    """The top-level modules of the installed packages."""
    return frozenset(module for package in installed() for module in package["modules"])


def guessed(files: Iterable[bytes]) -> set[str]:
    """The top-level modules that these Python files seem to import, as far as the beginning of the first ones shows.

    A guess, for what is imported ahead of a fold. A parser would meet hostile text in the worker.
    """
    texts = (file[:_MOST_BYTES] for file in islice(files, _MOST_FILES))
    return {word.decode() for text in texts for word in _IMPORT.findall(text)}


def _normal(name: str) -> str:
    """The one spelling of a package's name: `pip` and the package index ignore case, and take `_` and `.` for `-`."""
    return re.sub(r"[-_.]+", "-", name).lower()
