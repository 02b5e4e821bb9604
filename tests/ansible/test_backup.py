"""roles/backup: datarun-backup with a restic of this machine, and datarun-unpack, below a folder of the test's own."""

import io
import os
import shlex
import shutil
import subprocess
import tarfile

import jinja2
import pytest

from tests.ansible.helpers import ROOT

ROLE = ROOT / "roles" / "backup"
STUBS = {
    "runuser": 'while [ "$1" != -- ]; do shift; done; shift; exec "$@"',
    "psql": "echo 1000",
    "pg_dump": "echo the database",
}


class Backup:
    def __init__(self, root):
        self.root, self.repository = root, root / "repository"
        self.state, self.password = root / "var/lib/datarun-backup", root / "etc/datarun/backup/password"
        self.share = root / "share"
        for folder in (
            "bin",
            "var/lib/datarun-backup",
            "etc/datarun/backup",
            "share/data/iris/raw",
            "share/submission",
        ):
            (root / folder).mkdir(parents=True)
        for name, script in STUBS.items():
            (root / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
            (root / "bin" / name).chmod(0o755)
        (self.share / ".datarun").touch()
        (self.share / "data/iris/raw/iris.csv").write_text("petal,species\n")
        (self.share / "data/iris/.half.part").touch()
        self.password.write_text("first")
        self._render("datarun-backup", root / "datarun-backup")
        self._render("environment", self.password.with_name("environment"))

    def _render(self, name, place):
        templates = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
        templates.filters["quote"] = lambda value: shlex.quote(str(value))
        keep = {f"backup_keep_{name}": number for name, number in (("daily", 7), ("weekly", 5), ("monthly", 12))}
        text = templates.from_string((ROLE / "templates" / f"{name}.j2").read_text()).render(
            ansible_managed="a test",
            backup_repository=self.repository,
            backup_environment={},
            backup_database="datarun",
            backup_data_dir=self.share / "data",
            backup_submission_dir=self.share / "submission",
            backup_share_marker=self.share / ".datarun",
            **keep,
        )
        for path in ("/etc/datarun", "/var/lib/datarun-backup", "/var/cache/datarun-backup"):
            text = text.replace(path, f"{self.root}{path}")
        place.write_text(text)

    def run(self, script=None):
        """The finished process of the script, or of another one in its environment."""
        script = script or f". {self.root}/datarun-backup"
        environment = {"PATH": f"{self.root}/bin:{os.environ['PATH']}", "LC_ALL": "C.UTF-8"}
        command = ["sh", "-c", f"set -a; . {self.password.with_name('environment')}; set +a; {script}"]
        return subprocess.run(
            command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120
        )

    def works(self):
        done = self.run()
        assert done.returncode == 0, done.stdout
        return done.stdout

    def refused(self):
        done = self.run()
        assert done.returncode == 1, done.stdout
        return done.stdout


@pytest.fixture
def backup(tmp_path):
    if not shutil.which("restic"):
        pytest.skip("restic is missing: make packages")
    return Backup(tmp_path)


def test_it_works(backup):
    for count in (1, 2):
        assert f"{count} snapshots" in backup.works()
    listed = backup.run("restic ls latest").stdout
    for path in ("share/data/iris/raw/iris.csv", "etc/datarun/backup/password", "database.dump"):
        assert path in listed
    assert ".part" not in listed
    assert not (backup.state / "database.dump").exists()
    assert not list(backup.repository.rglob("locks/*"))


def test_a_new_password_of_the_vault_becomes_the_repositorys(backup):
    backup.works()
    backup.password.write_text("second")
    backup.works()
    assert backup.run("restic key list | grep -c root").stdout == "1\n"


def test_it_rejects_a_password_that_never_opened_the_repository(backup):
    backup.works()
    for file in (backup.password, backup.state / "password"):
        file.write_text("another")
    assert "vault_backup_password does not open the repository at backup_repository" in backup.refused()


def test_it_makes_no_second_repository_where_the_disk_of_the_first_is_away(backup):
    backup.works()
    backup.repository.rename(backup.root / "away")
    assert "Is its disk mounted?" in backup.refused()
    assert not backup.repository.exists()


def test_a_repository_that_is_half_made_is_made_anew(backup):
    backup.run("restic init")
    (backup.repository / "config").unlink()
    backup.works()
    assert len(list((backup.repository / "keys").iterdir())) == 1


def test_it_rejects_a_share_that_is_away(backup):
    (backup.share / ".datarun").unlink()
    assert "the share is not there" in backup.refused()


def test_it_rejects_a_dump_that_would_fill_the_disk(backup):
    (backup.root / "bin/psql").write_text("#!/bin/sh\necho 999999999999999999\n")
    assert "the dump of the database needs 999999999999999999 bytes" in backup.refused()


def test_a_dump_that_fails_is_no_backup(backup):
    (backup.root / "bin/pg_dump").write_text("#!/bin/sh\necho the database is away >&2\nexit 1\n")
    assert "the database is away" in backup.refused()
    assert "snapshot" not in backup.run("restic --quiet snapshots").stdout


# --- datarun-unpack


@pytest.fixture
def unpack(tmp_path):
    def run(*members, cut=0):
        """members: (name, content) of a file, or (name, "-> target") of a link; cut: bytes missing at the end."""
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as archive:
            for name, content in members:
                member = tarfile.TarInfo(name)
                member.mtime, member.mode = 1_600_000_000, 0o640
                if content.startswith("-> "):
                    member.type, member.linkname, content = tarfile.SYMTYPE, content[3:], ""
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content.encode()))
        packed = stream.getvalue()
        return subprocess.run(
            [ROLE / "files/datarun-unpack", tmp_path],
            input=packed[: len(packed) - cut],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    return run


ALL = ("data/iris/a", "one"), ("data/iris/b", "two"), ("data/iris/current", "-> a")


def test_what_is_missing_is_put_back_and_the_rest_left_alone(unpack, tmp_path):
    assert unpack(*ALL).stdout == b"3 files put back, 0 were there\n"
    file, link = tmp_path / "data/iris/a", tmp_path / "data/iris/current"
    assert (file.read_text(), file.stat().st_mode & 0o777, os.readlink(link)) == ("one", 0o640, "a")
    before = file.stat().st_ino
    assert unpack(*ALL).stdout == b"0 files put back, 3 were there\n"
    assert file.stat().st_ino == before


def test_what_differs_is_replaced(unpack, tmp_path):
    unpack(*ALL)
    (tmp_path / "data/iris/a").write_text("half")
    (tmp_path / "data/iris/current").unlink()
    (tmp_path / "data/iris/current").symlink_to("b")
    assert unpack(*ALL).stdout == b"2 files put back, 1 were there\n"
    assert (tmp_path / "data/iris/current").read_text() == "one"


def test_what_was_cut_off_leaves_no_half_and_is_done_by_the_next(unpack, tmp_path):
    large = "data/large", "x" * 1_000_000
    assert unpack(large, cut=500_000).returncode != 0
    assert list((tmp_path / "data").iterdir()) == []
    assert unpack(large).returncode == 0
    assert (tmp_path / "data/large").read_text() == large[1]
