"""Copies of data sets: fetched once, as they are, and no more of them than there is room for."""

import errno
import hashlib
import os
import shutil
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from runner import copies, digests
from runner.copies import Copies, CopyError
from runner.jobs import SplitJob


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


def use(own, version, digest=""):
    """The copy, or the version on the shared disk."""
    with own.use(version, digest) as folder:
        return folder or version


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
        assert first is not None
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
        patched.setattr(*((shutil, "copyfileobj", full) if when == "a file" else (Path, "write_bytes", full)))
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

    monkeypatch.setattr(shutil, "copyfileobj", broken)
    with pytest.raises(CopyError, match="birds can't be copied: .*Input/output error"):
        use(local(), folder)


def test_a_copy_that_is_not_the_same_is_made_again_once(local, version, monkeypatch):
    folder, real, tries = version(), shutil.copyfileobj, []

    def damage(source, target):
        tries.append(target)
        real(source, target)
        if len(tries) == 1:
            target.write(b"other")

    monkeypatch.setattr(shutil, "copyfileobj", damage)
    copy = use(local(), folder)
    assert (copy / "train.csv").read_bytes() == (folder / "train.csv").read_bytes()


def test_a_data_set_that_is_not_what_its_sums_say_is_refused(local, version, tmp_path):
    folder = version()
    (folder / "train.csv").write_bytes(b"other")
    with pytest.raises(CopyError, match="birds: v1/train.csv on the shared disk is not what its sums say"):
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


# --- what the master knows of a version


@pytest.fixture
def digest(version):
    """The SHA-256 of the sums of a version that is there."""
    return lambda folder: hashlib.sha256(folder.with_name(f"{folder.name}.sha256").read_bytes()).hexdigest()


def own_copy(local):
    return lambda folder, digest: use(local(), folder, digest)


def shared(local, monkeypatch):
    monkeypatch.delenv("DATARUN_LOCAL_DATA", raising=False)
    copies.copies.cache_clear()
    copies._checked.clear()

    def read(folder, digest):
        with copies.local(folder, digest) as found:
            return found

    return read


@pytest.fixture(params=["a copy", "the shared disk"])
def read(request, local, monkeypatch):
    """read(version, digest), from a copy or from the shared disk."""
    return own_copy(local) if request.param == "a copy" else shared(local, monkeypatch)


def test_a_version_whose_sums_are_known_is_read(read, version, digest):
    folder = version()
    assert (read(folder, digest(folder)) / "train.csv").read_bytes() == (folder / "train.csv").read_bytes()


def forge(folder):
    (folder / "train.csv").write_bytes(b"forged")
    copies.write_sums(folder)


def pipe(path):
    path.unlink()
    os.mkfifo(path)


FORGED = {
    "with its sums": forge,
    "without its sums": lambda folder: (forge(folder), folder.with_name("v1.sha256").unlink()),
    "a file": lambda folder: (folder / "train.csv").write_bytes(b"forged"),
    "another file": lambda folder: (folder / "test.csv").write_bytes(b"forged"),
    "one file less": lambda folder: (folder / "train.csv").unlink(),
    "a link": lambda folder: (
        (folder / "train.csv").rename(folder.parent / "x"),
        (folder / "train.csv").symlink_to("../x"),
    ),
    "sums that are a pipe": lambda folder: pipe(folder.with_name("v1.sha256")),
}


@pytest.mark.parametrize("how", FORGED)
def test_a_version_that_was_altered_on_the_shared_disk_is_refused(how, read, version, digest):
    folder = version()
    known = digest(folder)
    FORGED[how](folder)
    with pytest.raises(CopyError):
        read(folder, known)


def test_a_copy_is_kept_when_the_shared_disk_is_altered(local, version, digest):
    folder, own = version(), local()
    known = digest(folder)
    copy = use(own, folder, known)
    forge(folder)
    assert use(own, folder, known) == copy
    assert b"forged" not in (copy / "train.csv").read_bytes()


# --- splits


@pytest.fixture
def job(tmp_path):
    """A split of raw files on the shared disk, and their digest."""
    raw = tmp_path / "data" / "birds" / "raw"
    raw.mkdir(parents=True)
    (raw / "birds.csv").write_bytes(b"a,b\n")
    content = hashlib.sha256(b"a,b\n").hexdigest()
    return SplitJob(raw, raw.with_name("v1"), "birds", "b", False), digests.of({"birds.csv": content})


@pytest.fixture(params=["its own disk", "the shared disk"])
def place(request, tmp_path, monkeypatch):
    """Where splits are done."""
    monkeypatch.delenv("DATARUN_LOCAL_DATA", raising=False)
    if request.param == "its own disk":
        (tmp_path / "local").mkdir()
        monkeypatch.setenv("DATARUN_LOCAL_DATA", str(tmp_path / "local"))
    return request.param


def make(job):
    shutil.copytree(job.source, job.target)
    (job.target / "train.csv").write_bytes(b"train")


def test_a_split_is_made_there_and_shown_on_the_shared_disk(job, place, tmp_path, digest):
    wanted, known = job
    with copies.workspace(wanted, known) as own:
        assert (own.target == wanted.target) == (place == "the shared disk")
        make(own)
        sums = copies.publish(own.target, wanted.target)
        assert copies.publish(own.target, wanted.target) == sums, "the message may come twice"
    assert sums == digest(wanted.target)
    assert copies.is_whole(wanted.target, sums)
    assert not copies.is_whole(wanted.target, "0" * 64)
    assert {path.name for path in wanted.target.parent.iterdir()} == {"raw", "v1", "v1.sha256"}
    assert [*tmp_path.glob("local/*/*"), *tmp_path.glob("local/*/.*")] == []


@pytest.mark.parametrize("how", ["altered", "added", "gone"])
def test_raw_files_that_are_not_what_was_sent_are_not_split(how, job, place):
    wanted, known = job
    {
        "altered": lambda: (wanted.source / "birds.csv").write_bytes(b"x,y\n"),
        "added": lambda: (wanted.source / "specific.py").write_bytes(b""),
        "gone": lambda: (wanted.source / "birds.csv").unlink(),
    }[how]()
    with pytest.raises(CopyError, match="birds on the shared disk are not what was sent"):
        with copies.workspace(wanted, known):
            pytest.fail("it is split")


def test_what_is_altered_on_the_shared_disk_meanwhile_has_no_effect(job, tmp_path, monkeypatch):
    monkeypatch.setenv("DATARUN_LOCAL_DATA", str(tmp_path))
    wanted, known = job
    with copies.workspace(wanted, known) as own:
        (wanted.source / "birds.csv").write_bytes(b"x,y\n")
        make(own)
        copies.publish(own.target, wanted.target)
    assert (wanted.target / "birds.csv").read_bytes() == b"a,b\n"


def test_a_split_is_done_on_the_shared_disk_where_there_is_no_room(job, tmp_path, monkeypatch):
    monkeypatch.setenv("DATARUN_LOCAL_DATA", str(tmp_path))
    monkeypatch.setattr(copies, "_ROOM", 1 << 62)
    wanted, known = job
    with copies.workspace(wanted, known) as own:
        assert own == wanted
