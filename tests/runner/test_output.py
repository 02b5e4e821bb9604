"""Of long output the first and the last part are kept, within a bounded file."""

import os

import pytest

from runner.sandbox import output


@pytest.fixture
def kept(tmp_path):
    """kept(data, size) -> the text of that data, kept in pieces of that size; and the file's size."""
    numbers = iter(range(100))

    def kept(data, size):
        fd = os.open(tmp_path / str(next(numbers)), os.O_RDWR | os.O_CREAT)
        try:
            for start in range(0, len(data), size):
                output.keep(fd, memoryview(data)[start : start + size], start)
            return output.unroll(os.pread(fd, 1 << 20, 0), len(data)), os.fstat(fd).st_size
        finally:
            os.close(fd)

    return kept


LETTERS = bytes(range(97, 123))


@pytest.mark.parametrize("size", [1000, 4096, 32 << 10, 50_000, 1 << 18])
@pytest.mark.parametrize("length", [0, 1, 32 << 10, (64 << 10) - 1, 64 << 10])
def test_it_keeps_all_of_what_is_short(length, size, kept):
    data = (LETTERS * 4000)[:length]
    assert kept(data, size)[0] == data.decode()


@pytest.mark.parametrize("size", [1000, 4096, 32 << 10, 50_000, 1 << 18])
@pytest.mark.parametrize("length", [(64 << 10) + 1, 70_000, 96 << 10, 1_000_003])
def test_it_keeps_both_ends_of_what_is_long(length, size, kept):
    data = (LETTERS * 40_000)[:length]
    text, stored = kept(data, size)
    left_out = length - output.KEPT
    mark = f"\n[... {left_out:,} bytes of output left out ...]\n"
    assert text == data[: output.HEAD].decode() + mark + data[-output.TAIL :].decode()
    assert stored <= output.KEPT


@pytest.mark.parametrize("character", ["é", "€", "\U0001f600"])
@pytest.mark.parametrize("shift", range(4))
def test_a_cut_leaves_no_broken_character(character, shift, kept):
    data = b"-" * shift + character.encode() * 60_000 + b"end"
    text, _ = kept(data, 10_000)
    assert "\ufffd" not in text
    number = int(text.split("[... ")[1].split(" ")[0].replace(",", ""))
    shown = len("".join(text.split(f"\n[... {number:,} bytes of output left out ...]\n")).encode())
    assert number + shown == len(data)


def test_what_is_no_text_is_shown_as_far_as_it_is(kept):
    text, _ = kept(b"start" + b"\x80\xff" * 100_000 + b"end", 10_000)
    assert text.startswith("start")
    assert text.endswith("end")
