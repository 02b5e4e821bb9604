"""One digest for a set of files: who has it from the master sees whether those on the shared disk are what was sent."""

import hashlib
from collections.abc import Mapping


def of(contents: Mapping[str, str]) -> str:
    """SHA-256 of the files' names and contents. contents: name -> SHA-256 of the content, in hexadecimal digits."""
    total = hashlib.sha256()
    for name in sorted(contents):
        total.update(f"{len(name)}:{name}:{contents[name]}".encode())
    return total.hexdigest()
