"""Arrays on the wire: what goes in comes out, what is damaged is refused, and memory stays bounded."""

import base64
import hashlib
import os
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

from runner import payloads
from runner.payloads import PayloadError

APP = Path(payloads.__file__).parents[1]

PIECE = payloads._PIECE

AMPLE = 1 << 30


@pytest.fixture(autouse=True)
def large(tmp_path, monkeypatch):
    """The folder where large payloads lie."""
    monkeypatch.setenv("DIR_SUBMISSION", str(tmp_path / "share"))
    return tmp_path / "share" / ".large"


def encode(data):
    return base64.b64encode(zlib.compress(data)).decode()


def noise(size):
    """Bytes that zlib can't make smaller."""
    return np.random.default_rng(57).integers(0, 256, size, np.uint8)


# --- there and back ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 7, 1000, 150_000, PIECE // 8 - 1, PIECE // 8, PIECE // 8 + 1, 400_000])
@pytest.mark.parametrize("dtype", ["<i8", "<f8"])
def test_an_array_comes_back_bit_for_bit(size, dtype):
    array = noise(8 * size).view(dtype)
    back = payloads.unpack(payloads.pack(array, "a"), dtype, AMPLE)
    assert back.dtype == np.dtype(dtype)
    assert back.tobytes() == array.tobytes()


def test_special_numbers_come_back():
    array = np.array([np.nan, np.inf, -np.inf, -0.0, 5e-324, np.finfo(float).max])
    assert payloads.unpack(payloads.pack(array, "a"), "<f8", AMPLE).tobytes() == array.tobytes()


@pytest.mark.parametrize("array", [np.zeros((0, 3)), np.zeros((5, 0)), np.zeros(0)], ids=lambda array: str(array.shape))
def test_an_empty_array_is_an_empty_stream(array):
    text = payloads.pack(array, "a")
    assert zlib.decompress(base64.b64decode(text)) == b""
    assert len(payloads.unpack(text, "<f8", AMPLE)) == 0


@pytest.mark.parametrize("order", ["C", "F"])
def test_the_wire_holds_rows_in_c_order(order):
    """The documented client's way: base64, zlib, float64 little-endian, reshape."""
    array = np.asarray(noise(8 * 3000).view("<i8").reshape(1000, 3) / 7, order=order)
    wire = np.frombuffer(zlib.decompress(base64.b64decode(payloads.pack(array, "a"), validate=True)), "<f8")
    assert np.array_equal(wire.reshape(1000, 3), array)


def test_what_the_documented_client_sends_is_read():
    indices = np.array([3, 1, 2**40, 0], "<i8")
    assert payloads.unpack(encode(indices.tobytes()), "<i8", AMPLE).tolist() == [3, 1, 2**40, 0]


@pytest.mark.parametrize("level", [0, 1, 9])
def test_any_level_of_zlib_is_read(level):
    data = noise(3 * PIECE)
    text = base64.b64encode(zlib.compress(data, level)).decode()
    assert payloads.unpack(text, "u1", AMPLE).tobytes() == data.tobytes()


# --- in the message or in a file ---------------------------------------------------------------------


def test_what_fits_travels_in_the_message(large):
    text = payloads.pack(np.arange(1000), "a")
    assert not payloads.is_file(text)
    assert not large.exists()


@pytest.mark.parametrize(("more", "in_file"), [(0, False), (4, True)])
def test_the_threshold_is_the_length_of_the_text(more, in_file, large):
    text = b"A" * (payloads.INLINE_BYTES + more)
    kept = payloads.keep((text[start : start + 999] for start in range(0, len(text), 999)), "a")
    assert payloads.is_file(kept) == in_file == large.exists()
    assert b"".join(payloads.pieces(kept)) == text


def test_a_file_holds_the_text_and_is_named_with_its_hash(large):
    array = noise(1_600_000).view("<f8")
    text = payloads.pack(array, "task.predictions")
    content = (large / "task.predictions").read_bytes()
    assert text == f"@{hashlib.sha256(content).hexdigest()}/task.predictions"
    assert zlib.decompress(base64.b64decode(content, validate=True)) == array.tobytes()
    assert b"".join(payloads.pieces(text)) == content
    payloads.check(text)
    assert payloads.unpack(text, "<f8", AMPLE).tobytes() == array.tobytes()
    assert [path.name for path in large.iterdir()] == ["task.predictions"]


def test_a_name_that_is_used_again_holds_the_newer_array():
    payloads.pack(noise(1_600_000), "a")
    text = payloads.pack(noise(1_600_001), "a")
    assert len(payloads.unpack(text, "u1", AMPLE)) == 1_600_001


def test_a_file_is_there_whole_or_not_at_all(large):
    def breaks():
        yield b"A" * (payloads.INLINE_BYTES + 4)
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="disk is full"):
        payloads.keep(breaks(), "a")
    assert list(large.iterdir()) == []


def test_deleting(large):
    text = payloads.pack(noise(1_600_000), "a")
    payloads.delete(text)
    assert list(large.iterdir()) == []
    payloads.delete(text)
    payloads.delete(payloads.pack(np.arange(3), "a"))
    payloads.delete("")


# --- damage ------------------------------------------------------------------------------------------


@pytest.fixture
def kept():
    return payloads.pack(noise(1_600_000), "a")


def use_it(text):
    payloads.unpack(text, "u1", AMPLE)


READERS = pytest.mark.parametrize("read", [payloads.check, use_it], ids=["check", "unpack"])


def _flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@READERS
@pytest.mark.parametrize(
    "damage",
    [
        _flip,
        lambda path: path.write_bytes(path.read_bytes()[:-4]),
        lambda path: path.write_bytes(path.read_bytes() + b"AAAA"),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(encode(b"another").encode()),
        lambda path: path.unlink(),
        lambda path: (path.unlink(), path.mkdir()),
    ],
    ids=["a flipped bit", "cut off", "longer", "empty", "another", "missing", "a folder"],
)
def test_a_file_that_is_not_the_one_sent_is_refused(damage, read, kept, large):
    damage(large / "a")
    with pytest.raises(PayloadError):
        read(kept)


def test_a_text_with_another_files_hash_is_refused(kept):
    other = payloads.pack(noise(1_600_002), "b")
    with pytest.raises(PayloadError, match="is not the file that was sent"):
        payloads.check(kept.split("/")[0] + "/" + other.split("/")[1])


@READERS
@pytest.mark.parametrize(
    "name", ["", ".", "..", "../secret", "/etc/hostname", "x/../../secret", "sub/file", "a\0b", "n" * 5000]
)
def test_a_name_can_not_leave_the_folder(name, read, large):
    large.mkdir(parents=True)
    secret = large.parent / "secret"
    secret.write_bytes(b"AAAA")
    digest = hashlib.sha256(b"AAAA").hexdigest()
    with pytest.raises(PayloadError):
        read(f"@{digest}/{name}")


@pytest.mark.parametrize("name", ["..", "../secret", "x/../../secret", ""])
def test_nothing_outside_the_folder_is_deleted(name, large):
    large.mkdir(parents=True)
    (large / "kept").touch()
    secret = large.parent / "secret"
    secret.touch()
    with pytest.raises(PayloadError):
        payloads.delete(f"@00/{name}")
    assert secret.exists()
    assert (large / "kept").exists()


GOOD = encode(bytes(noise(3000)))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "cut off"),
        ("no base64!", "not base64"),
        ("é" * 8, "not base64"),
        ("\ud800" * 4, "not base64"),
        (GOOD[:-1], "not base64"),
        (GOOD[:400] + "\n" + GOOD[400:], "not base64"),
        (GOOD + "=", "not base64"),
        (GOOD + "====", "not base64"),
        (base64.urlsafe_b64encode(b"\xfb\xff\xfe").decode(), "not base64"),
        (base64.b64encode(b"plain bytes").decode(), "not zlib"),
        (base64.b64encode(zlib.compress(b"x" * 99)[2:-4]).decode(), "not zlib"),
        (base64.b64encode(zlib.compress(b"x" * 99)[:-1] + b"?").decode(), "not zlib"),
        (GOOD[:2000], "cut off"),
        (GOOD[:-8], "cut off"),
        (base64.b64encode(zlib.compress(b"12345678") + b"!").decode(), "data after the end"),
        (base64.b64encode(zlib.compress(b"12345678") * 2).decode(), "data after the end"),
        (base64.b64encode(zlib.compress(bytes(noise(PIECE))) + b"!" * 2 * PIECE).decode(), "data after the end"),
    ],
)
def test_a_text_that_is_no_array_says_why(text, says):
    with pytest.raises(PayloadError, match=says):
        payloads.unpack(text, "u1", AMPLE)


@pytest.mark.parametrize("at", [1, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE])
def test_a_stray_letter_is_seen_wherever_it_stands(at):
    text = encode(bytes(noise(2 * PIECE)))
    with pytest.raises(PayloadError):
        payloads.unpack(text[:at] + "*" + text[at + 1 :], "u1", AMPLE)


@pytest.mark.parametrize("size", [1, 7, 9, 4095])
def test_bytes_that_are_no_whole_numbers_are_counted(size):
    with pytest.raises(PayloadError, match=f"holds {size} bytes: not a multiple of 8"):
        payloads.unpack(encode(bytes(size)), "<i8", AMPLE)


@pytest.mark.parametrize("size", [8, 8000, PIECE, PIECE + 8, 3 * PIECE])
@pytest.mark.parametrize("content", [bytes, lambda size: bytes(noise(size))], ids=["zeros", "noise"])
def test_the_bound_is_exact(size, content):
    text = encode(content(size))
    assert len(payloads.unpack(text, "u1", size)) == size
    with pytest.raises(PayloadError, match=f"more than the {size - 1} bytes that are allowed"):
        payloads.unpack(text, "u1", size - 1)


# --- memory ------------------------------------------------------------------------------------------

MEASURED = """
import base64, sys, zlib
import numpy as np
from pathlib import Path
from runner import payloads

def kilobytes(key):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1])

def peak(work):
    "The result of work, and by how much it raised the memory of this process at most, in bytes."
    Path("/proc/self/clear_refs").write_text("5")
    before = kilobytes("VmRSS")
    result = work()
    return result, 1024 * (kilobytes("VmHWM") - before)
"""


def measure(code, tmp_path):
    """Run the code in a process of its own; the numbers that it prints."""
    environment = os.environ | {"PYTHONPATH": str(APP), "DIR_SUBMISSION": str(tmp_path)}
    ran = subprocess.run([sys.executable, "-c", MEASURED + code], env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return [float(word) for word in ran.stdout.split()]


@pytest.mark.parametrize(
    ("make", "dtype"),
    [
        ("3 * np.arange(10_000_000)", "<i8"),
        ("np.random.default_rng(57).integers(0, 257, (1_000_000, 10)) / 256", "<f8"),
    ],
    ids=["10 million indices", "1e6 x 10 predictions"],
)
def test_a_large_array_takes_little_more_memory_than_itself(make, dtype, tmp_path):
    packing, checking, unpacking = measure(
        f"""
array = {make}
assert array.dtype == {dtype!r} and array.nbytes == 80_000_000
text, packing = peak(lambda: payloads.pack(array, "a"))
_, checking = peak(lambda: payloads.check(text))
back, unpacking = peak(lambda: payloads.unpack(text, {dtype!r}, 1 << 30))
assert payloads.is_file(text)
assert np.array_equal(back, array.ravel())
print(packing / array.nbytes, checking / array.nbytes, unpacking / array.nbytes)
""",
        tmp_path,
    )
    assert packing < 0.2
    assert checking < 0.1
    assert unpacking < 1.3


def test_an_array_in_the_wrong_order_costs_one_copy(tmp_path):
    [packing] = measure(
        """
array = np.asfortranarray(np.zeros((200_000, 10)))
array += 1  # zeros are not there before they are touched
_, packing = peak(lambda: payloads.pack(array, "a"))
print(packing / array.nbytes)
""",
        tmp_path,
    )
    assert packing < 1.2


def test_a_bomb_goes_off_in_bounded_memory(tmp_path):
    """100 MB of zeros in a tenth of a megabyte, under a bound of 5 MB; refused, and read piece by piece."""
    size, refusing, streaming = measure(
        """
stream = zlib.compressobj()
binary = b"".join(stream.compress(bytes(1 << 20)) for _ in range(100)) + stream.flush()
text = base64.b64encode(binary).decode()

def refuse():
    try:
        payloads.unpack(text, "u1", 5_000_000)
    except payloads.PayloadError as error:
        assert "more than the 5000000 bytes" in str(error)
    else:
        raise AssertionError

def read():
    assert sum(map(len, payloads.inflate([text.encode()], 1 << 30))) == 100 << 20

print(len(text), peak(refuse)[1], peak(read)[1])
""",
        tmp_path,
    )
    assert size < 200_000
    assert refusing < 20_000_000
    assert streaming < 20_000_000
