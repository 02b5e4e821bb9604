"""Files on the shared disk are plain ones below plain folders, or they are not opened."""

import os
import socket

import pytest

from runner import payloads, plainfile


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "root" / "folder"
    path.mkdir(parents=True)
    return path


def bind(path):
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


NOT_PLAIN = {
    "a link to a file": lambda path: path.symlink_to("/etc/hostname"),
    "a link to a device": lambda path: path.symlink_to("/dev/zero"),
    "a link to nothing": lambda path: path.symlink_to("nowhere"),
    "a pipe": os.mkfifo,
    "a socket": bind,
    "a folder": lambda path: path.mkdir(),
}


@pytest.mark.parametrize("what", NOT_PLAIN)
def test_what_is_no_plain_file_is_not_read(what, folder, monkeypatch):
    monkeypatch.chdir(folder)  # a socket's path is short
    NOT_PLAIN[what](folder / "x" if what != "a socket" else "x")
    with pytest.raises(OSError):
        plainfile.read(folder / "x")
    with plainfile.folder(folder) as descriptor, pytest.raises(OSError):
        plainfile.read("x", descriptor)


def test_a_plain_file_is_read_and_a_new_one_written(folder):
    with plainfile.folder(folder, root=folder.parent.parent) as descriptor:
        with plainfile.write("x", descriptor) as file:
            file.write(b"content")
        with plainfile.read("x", descriptor) as file:
            assert file.read() == b"content"
        with pytest.raises(FileExistsError):
            plainfile.write("x", descriptor)
    assert (folder / "x").read_bytes() == b"content"


def test_nothing_is_written_through_a_link(folder):
    (folder / "x").symlink_to(folder / "elsewhere")
    with plainfile.folder(folder) as descriptor, pytest.raises(FileExistsError):
        plainfile.write("x", descriptor)
    assert not (folder / "elsewhere").exists()


def test_a_folder_that_is_a_link_is_refused(folder, tmp_path):
    link = tmp_path / "root" / "link"
    link.symlink_to(folder)
    inner = folder / "inner"
    inner.mkdir()
    with pytest.raises(OSError), plainfile.folder(link):
        pass
    with pytest.raises(OSError), plainfile.folder(link / "inner", root=tmp_path / "root"):
        pass
    with plainfile.folder(inner, root=tmp_path / "root"):
        pass


def test_no_descriptor_stays_open(folder):
    before = os.listdir("/proc/self/fd")
    os.mkfifo(folder / "x")
    for path in ("x", "y"):
        with plainfile.folder(folder) as descriptor, pytest.raises(OSError):
            plainfile.read(path, descriptor)
    with pytest.raises(OSError), plainfile.folder(folder / "a" / "b", root=folder):
        pass
    assert os.listdir("/proc/self/fd") == before


@pytest.fixture
def large(tmp_path, monkeypatch):
    """The folder of payloads, with one of a megabyte."""
    monkeypatch.setenv("DIR_SUBMISSION", str(tmp_path))
    return tmp_path / ".large"


def kept():
    return payloads.keep([b"AAAA" * 500_000], "one")


def test_a_payload_behind_a_folder_that_is_a_link_is_damaged(large):
    text = kept()
    large.rename(large.with_name("away"))
    large.symlink_to("away")
    with pytest.raises(payloads.PayloadError):
        payloads.check(text)
    payloads.delete(text)
    with pytest.raises(OSError):
        kept()
    assert os.listdir(large) == ["one"]


def test_a_payload_that_is_no_base64_text_is_damaged(large):
    text = payloads.keep([b'","state":"' * 200_000], "one")
    with pytest.raises(payloads.PayloadError, match="not base64"):
        payloads.check(text)


def test_a_payload_without_end_is_given_up(large, monkeypatch):
    text = kept()
    payloads.check(text)
    monkeypatch.setenv("DATARUN_MAX_DATA_BYTES", "500000")
    with pytest.raises(payloads.PayloadError, match="larger than anything"):
        payloads.check(text)
