"""How the target column is found among the names of a CSV file. Imports nothing heavy: the API needs it too."""

import unicodedata
from collections.abc import Iterable


def find(names: Iterable[str], wanted: str) -> str | None:
    """The name that is meant by `wanted`, or None.

    The exact name goes first. Otherwise blanks around the names do not count (headers often have them after a comma),
    nor does the way in which Unicode composes accents.
    """
    known = list(names)
    if wanted in known:
        return wanted
    return next((name for name in known if plain(name) == plain(wanted)), None)


def plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).strip()
