"""The installed packages that a fold can import. Folds run in the same interpreter as the worker."""

import re
import site
from functools import cache
from importlib.machinery import PathFinder
from importlib.metadata import distributions, packages_distributions
from typing import Any


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


def _normal(name: str) -> str:
    """The one spelling of a package's name: `pip` and the package index ignore case, and take `_` and `.` for `-`."""
    return re.sub(r"[-_.]+", "-", name).lower()
