"""Copies of data sets: fetched once, as they are, and no more of them than there is room for."""

import errno
import os
import shutil
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from runner import copies
from runner.copies import Copies, CopyError


@pytest.fixture
def version(tmp_path):
    """version(name, size): a version of the data set `birds` with its sums."""

    def make(name="v1", size=100):
        folder = tmp_path / "data" / "birds" / name
        (folder / "deep").mkdir(parents=True)
        (folder / "train.csv").write_bytes(b"a" * (size - 10))
        (folder / "deep" / "odd\nname\\").write_bytes(b"b" * 10)
        copies.write_sums(folder)
        return folder

    return make


@pytest.fixture
def local(tmp_path):
    """local(most): the copies of a runner that has just started."""
    return lambda most=1000: Copies(tmp_path / "local", most)


def use(own, version):
    with own.use(version) as folder:
        return folder


def test_the_sums_are_those_of_sha256sum(version):
    folder = version()
    subprocess.run(["sha256sum", "--strict", "-c", "v1.sha256"], cwd=folder.parent, check=True)


def test_a_copy_is_made_once_and_outlives_the_worker(local, version, tmp_path):
    folder = version()
    copy = use(local(), folder)
    assert copy == tmp_path / "local" / "birds" / "v1"
    assert (copy / "deep" / "odd\nname\\").read_bytes() == b"b" * 10
    (folder / "train.csv").unlink()
    assert use(local(), folder) == copy
    assert (copy / "train.csv").exists()


def test_two_slots_copy_once(local, version, monkeypatch):
    folder, own, copied = version(), local(), []
    meet = threading.Barrier(2)
    real = own._copy
    monkeypatch.setattr(own, "_copy", lambda *arguments: (copied.append(1), real(*arguments)))

    def run(_):
        meet.wait()
        return use(own, folder)

    with ThreadPoolExecutor(2) as pool:
        assert len({*pool.map(run, range(2))}) == 1
    assert len(copied) == 1


def test_the_least_recently_used_goes_first(local, version):
    own = local(300)
    first, second, third = (use(own, version(name)) for name in ("v1", "v2", "v3"))
    for age, copy in ((10, first), (30, second), (20, third)):
        os.utime(copy.with_name(f"{copy.name}.sha256"), (1e9 - age, 1e9 - age))
    use(own, version("v4"))
    assert first.exists() and third.exists()
    assert not second.exists() and not second.with_name("v2.sha256").exists()


def test_one_in_use_stays_and_the_other_is_read_from_the_shared_disk(local, version):
    own = local(150)
    with own.use(version("v1")) as first:
        second = version("v2")
        assert use(own, second) == second
        assert first.exists()
    assert use(own, second) != second
    assert not first.exists()


def test_what_never_fits_is_read_from_the_shared_disk(local, version):
    large = version("v1", 2000)
    assert use(local(), large) == large


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
@pytest.mark.parametrize("when", ["a file", "the sums"])
def test_what_the_own_disk_has_no_room_for_is_read_from_the_shared_disk(when, number, local, version, monkeypatch):
    folder, own = version(), local()

    def full(*_):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(*((shutil, "copyfile", full) if when == "a file" else (Path, "write_bytes", full)))
        assert use(own, folder) == folder
    assert [*(own._folder / "birds").iterdir()] == []
    assert use(own, folder) != folder


def test_a_copy_on_a_disk_that_can_only_be_read_is_used(local, version, monkeypatch):
    folder, own = version(), local()
    copy = use(own, folder)

    def read_only(*_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "utime", read_only)
    assert use(own, folder) == copy


def test_a_disk_that_fails_is_no_disk_without_room(local, version, monkeypatch):
    folder = version()

    def broken(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(shutil, "copyfile", broken)
    with pytest.raises(CopyError, match="birds can't be copied: .*Input/output error"):
        use(local(), folder)


def test_a_copy_that_is_not_the_same_is_made_again_once(local, version, monkeypatch):
    folder, real, tries = version(), shutil.copyfile, []

    def damage(source, target):
        tries.append(target)
        real(source, target)
        if len(tries) == 1:
            target.write_bytes(b"other")

    monkeypatch.setattr(shutil, "copyfile", damage)
    copy = use(local(), folder)
    assert (copy / "train.csv").read_bytes() == (folder / "train.csv").read_bytes()


def test_a_data_set_that_is_not_what_its_sums_say_is_refused(local, version, tmp_path):
    folder = version()
    (folder / "train.csv").write_bytes(b"other")
    with pytest.raises(CopyError, match="birds on the shared disk is not what its sums say"):
        use(local(), folder)
    assert [*(tmp_path / "local" / "birds").iterdir()] == []


def test_a_version_without_sums_is_read_from_the_shared_disk(local, version):
    folder = version()
    folder.with_name("v1.sha256").unlink()
    assert use(local(), folder) == folder


def test_another_version_of_the_same_name_is_never_served_stale(local, version):
    folder, own = version(), local()
    use(own, folder)
    (folder / "train.csv").write_bytes(b"new")
    copies.write_sums(folder)
    assert (use(own, folder) / "train.csv").read_bytes() == b"new"


def test_what_an_interrupted_copy_left_is_removed_at_the_start(local, tmp_path):
    left = tmp_path / "local" / "birds" / ".0123.part"
    left.mkdir(parents=True)
    (left / "train.csv").touch()
    local()
    assert not left.exists()
