"""What a fold printed, as far as it is kept: the first and the last part. Used on both sides of the zygote.

A file of at most KEPT bytes holds it while the fold runs: the first HEAD bytes, then a ring of the last TAIL bytes.
"""

import codecs
import os

HEAD = TAIL = 32 << 10
KEPT = HEAD + TAIL
_MULTIBYTE = 3
"""How many bytes of a character in UTF-8 may be missing, at most."""


def keep(fd: int, chunk: memoryview, before: int) -> None:
    """Write what was printed after `before` bytes. Makes no copy of it: the zygote's memory is the next fold's."""
    first = max(0, min(len(chunk), HEAD - before))
    os.pwrite(fd, chunk[:first], before)
    rest = chunk[first:][-TAIL:]
    place = (before + len(chunk) - len(rest) - HEAD) % TAIL
    os.pwrite(fd, rest[: TAIL - place], HEAD + place)
    os.pwrite(fd, rest[TAIL - place :], HEAD)


def unroll(kept: bytes, printed: int) -> str:
    """The text of a file that `keep` filled. printed: the number of bytes that it was given."""
    if printed <= KEPT:
        return kept[:printed].decode("utf-8", "replace")
    place = HEAD + (printed - HEAD) % TAIL
    return join(kept[:HEAD], kept[place:KEPT] + kept[HEAD:place], printed - KEPT)


def join(head: bytes, tail: bytes, left_out: int) -> str:
    """Both parts as text, with a mark between. Characters that the cuts went through are left out too."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    first = decoder.decode(head)
    begun, _ = decoder.getstate()
    start = next((at for at in range(_MULTIBYTE) if tail[at : at + 1] and tail[at] & 0xC0 != 0x80), _MULTIBYTE)
    mark = f"\n[... {left_out + len(begun) + start:,} bytes of output left out ...]\n"
    return first + mark + tail[start:].decode("utf-8", "replace")
