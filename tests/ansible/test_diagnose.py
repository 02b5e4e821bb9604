"""playbooks/diagnose.yml and tools/diagnose.py: what it asks, what it hides, and how it packs."""

import re
import subprocess
import tarfile

import pytest

from tests.ansible.helpers import ansible
from tools import diagnose
from tools.diagnose import Mask
from tools.hosts import Host

KEY = """-----BEGIN OPENSSH PRIVATE KEY-----
b3BlbnNzaC1rZXktdjEAAAAA
AAAAtzc2gtZWQyNTUxOQ
AAA=
-----END OPENSSH PRIVATE KEY-----
"""
HERE = Host("here", {"ansible_connection": "local"})
AWAY = {"ansible_host": "127.0.0.1", "ansible_port": 9, "ansible_user": "root"}


@pytest.fixture
def mask():
    return Mask([("vault_a", "per/fect @ß"), ("vault_b", "per/fect @ß and more"), ("vault_key", KEY), ("vault_c", "")])


@pytest.mark.parametrize(
    "text",
    [
        "it is per/fect @ß.",
        "amqps://datarun:per%2Ffect%20%40%C3%9F@10.0.0.1:5671/datarun",
        "amqps://datarun:per/fect%20%40%C3%9F@10.0.0.1",
        "?password=per%2Ffect+%40%C3%9F",
        '{"password": "per/fect @\\u00df"}',
        "runner1 sshd: b3BlbnNzaC1rZXktdjEAAAAA",
    ],
)
def test_a_secret_is_hidden_as_it_may_be_spelt(mask, text):
    hidden = mask("a.txt", text)
    assert "***" in hidden
    assert not re.search("fect|b3Bl", hidden)
    assert list(mask.found.values()) == [1]


def test_it_says_what_was_found_and_where(mask):
    mask("m/a.txt", "per/fect @ß, per/fect @ß and more, per/fect @ß")
    mask("m/b.txt", "nothing")
    assert mask.found == {"vault_a in m/a.txt": 2, "vault_b in m/a.txt": 1}


def test_what_looks_like_a_secret_is_hidden_though_nobody_named_it(mask):
    found = mask("a.txt", f"x redis://:pw@host y https://me:p/w@host/path\n{KEY}z")
    assert found == (
        "x redis://:***@host y https://me:***@host/path\n"
        "-----BEGIN OPENSSH PRIVATE KEY-----***-----END OPENSSH PRIVATE KEY-----\nz"
    )


def test_a_key_that_is_cut_is_hidden_to_the_end(mask):
    cut = "-----BEGIN RSA PRIVATE KEY-----\nMIIE\nunknown"
    assert mask("a.txt", cut) == "-----BEGIN RSA PRIVATE KEY-----***"


@pytest.mark.parametrize(
    "text", ["http://127.0.0.1:8000/a?mail=b@c", "amqps://datarun:**@10.0.0.1:5671", "unix:/run/web.sock", "a@b: c"]
)
def test_what_is_no_secret_stays_and_alarms_nobody(mask, text):
    assert mask("a.txt", text).replace("***", "**") == text
    assert not mask.found


def test_a_line_that_dumps_something_is_cut_after_its_secrets_are_hidden(mask):
    secret = "x" * (diagnose.LINE - 5) + "per/fect @ß" + "y" * 5000
    first, second = mask("a.txt", f"{secret}\nshort").splitlines()
    assert len(first) < diagnose.LINE + 10
    assert "per" not in first
    assert second == "short"


def test_it_knows_no_secret_where_none_is_named():
    assert Mask([])("a.txt", "anything") == "anything"


@pytest.fixture
def no_sudo(monkeypatch):
    monkeypatch.setattr(diagnose, "AS_ROOT", "exec sh -s")


def test_answers_are_kept_apart_and_bounded(no_sudo, monkeypatch):
    monkeypatch.setattr(diagnose, "BYTES", 100)
    answer = diagnose.collect(HERE, {"a": "echo one; echo two >&2", "none": "exit 3", "long": "seq 1000", "in": "cat"})
    assert (answer.problem, answer.files["a"], answer.files["none"]) == ("", "one\ntwo\n", "")
    # Without the line that the cut goes through.
    assert re.fullmatch(r"(\d{3}\n)+999\n1000\n", answer.files["long"])
    assert answer.files["in"] == ""


def test_a_command_that_hangs_ends_and_the_others_are_there(no_sudo, monkeypatch):
    monkeypatch.setattr(diagnose, "SECONDS", 1)
    monkeypatch.setattr(diagnose, "HOST_SECONDS", 20.0)
    answer = diagnose.collect(HERE, {"a": "echo begun; sleep 30", "b": "echo two"})
    assert answer.files == {"a": "begun\n", "b": "two\n"}


def test_a_host_that_hangs_gives_what_it_gave(no_sudo, monkeypatch):
    monkeypatch.setattr(diagnose, "HOST_SECONDS", 2.0)
    answer = diagnose.collect(HERE, {"a": "echo one", "b": "sleep 5 & echo half"})
    assert answer.files == {"a": "one\n"}
    assert answer.problem.startswith("without b")


def test_a_host_that_is_away_is_told():
    pytest.importorskip("paramiko")
    answer = diagnose.collect(Host("r1", AWAY), {"a": "true"})
    assert answer.files == {}
    assert answer.problem.startswith("NOT REACHED: ")


@pytest.mark.parametrize("name", diagnose.EVERYWHERE | diagnose.ON_MASTER | diagnose.AT_LAST)
def test_its_commands_are_shell(name):
    command = (diagnose.EVERYWHERE | diagnose.ON_MASTER | diagnose.AT_LAST)[name]
    done = subprocess.run(["sh", "-n"], input=command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_archive_is_for_its_user_alone(tmp_path):
    archive = tmp_path / "datarun-mine-1.tar.gz"
    diagnose.pack(archive, {"summary.txt": "all ß", "r1/units.txt": ""})
    assert archive.stat().st_mode & 0o777 == 0o600
    with tarfile.open(archive) as tar:
        assert tar.getnames() == ["datarun-mine-1/summary.txt", "datarun-mine-1/r1/units.txt"]
        assert tar.extractfile("datarun-mine-1/summary.txt").read().decode() == "all ß"
    assert [path.name for path in tmp_path.iterdir()] == [archive.name]


def test_an_archive_that_can_not_be_written_leaves_nothing(tmp_path):
    with pytest.raises(UnicodeEncodeError):
        diagnose.pack(tmp_path / "a.tar.gz", {"good.txt": "x" * 100_000, "bad.txt": "\ud800"})
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def cluster(tmp_path):
    """An inventory whose hosts are away; its secret is a word that the archive would have."""
    pytest.importorskip("paramiko")
    folder = tmp_path / "mine"
    (folder / "group_vars/cluster").mkdir(parents=True)
    address = "ansible_host: 127.0.0.1\n          ansible_port: 9"
    (folder / "hosts.yml").write_text(
        f"cluster:\n  children:\n    master:\n      hosts:\n        m:\n          {address}\n"
        f"    runners:\n      hosts:\n        r1:\n          {address}\n"
    )
    vault = {"vault_a": "NOT REACHED", "vault_runner_secret": "seed", "vault_unset": ""}
    (folder / "group_vars/cluster/vault.yml").write_text("".join(f"{k}: '{v}'\n" for k, v in vault.items()))
    (tmp_path / "here").mkdir()
    return folder


def play(cluster, *arguments):
    return ansible("playbook", "-i", cluster, "playbooks/diagnose.yml", *arguments, PWD=str(cluster.parent / "here"))


def test_the_playbook_packs_what_can_be_had_and_hides_the_vault(cluster):
    done = play(cluster)
    assert done.returncode == 0, done.stdout
    [archive] = (cluster.parent / "here").iterdir()
    assert re.fullmatch(r"datarun-mine-\d{8}-\d{6}\.tar\.gz", archive.name)
    assert archive.stat().st_mode & 0o777 == 0o600
    with tarfile.open(archive) as tar:
        names = [name.partition("/")[2] for name in tar.getnames()]
        summary = tar.extractfile(tar.getnames()[0]).read().decode()
    assert names == ["summary.txt", "status.txt", "control.txt"]
    for text in (summary, done.stdout):
        assert "m: ***: " in text and "r1: ***: " in text
        assert "NOT REACHED" not in text
    assert str(archive) in done.stdout


def test_in_check_mode_the_playbook_packs_nothing(cluster):
    done = play(cluster, "--check")
    assert done.returncode == 0, done.stdout
    assert "not packed: 3 files" in done.stdout
    assert re.search(r"changed=0", done.stdout)
    assert list((cluster.parent / "here").iterdir()) == []


def test_the_playbook_says_why_it_can_not(cluster):
    (cluster / "hosts.yml").write_text("cluster:\n  children:\n    master:\n      hosts:\n        m:\n")
    done = play(cluster)
    assert done.returncode == 2
    assert "at least one in the group runners" in re.sub(r"\s+", " ", done.stdout)
