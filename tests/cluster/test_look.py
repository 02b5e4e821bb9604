"""A look at the cluster in the middle of a load: the table, and what tells of it in one archive, without secrets."""

import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.chaos.load import KINDS, Load
from tests.cluster.hosts import CLUSTER, MASTER, RUNNERS, run
from tests.cluster.load import workers
from tests.cluster.operations import under_load
from tests.cluster.playbooks import Inventory, rig
from tests.cluster.test_secrets import telling
from tests.e2e.live import until
from tools import diagnose

pytestmark = pytest.mark.operations

FIRST, SECOND = RUNNERS
STATUS, DIAGNOSE = "playbooks/status.yml", "playbooks/diagnose.yml"
PLANTED = "a-password-that-no-vault-knows"


def files_of(name: str) -> set[str]:
    asked = diagnose.EVERYWHERE | diagnose.AT_LAST | (diagnose.ON_MASTER if name == MASTER else {})
    return {f"{name}/{file}.txt" for file in asked}


def unpacked(archive: Path) -> dict[str, str]:
    """File -> text, all of it, or it fails."""
    with tarfile.open(archive) as tar:
        read = {member.name.partition("/")[2]: tar.extractfile(member) for member in tar.getmembers()}
        return {name: file.read().decode() for name, file in read.items() if file}


def line(printed: str, name: str) -> str:
    """Of the table."""
    [found] = [line for line in printed.splitlines() if re.match(rf"\W*{name} +(yes|no) ", line)]
    return found


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the operator is."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.setenv("PWD", str(here))
    return here


@dataclass
class Looked:
    """What was printed and packed in the middle of a load, and what was left on the hosts."""

    printed: str = ""
    summary: str = ""
    files: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)


@pytest.fixture(scope="module")
def looked(load: Load, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Looked]:
    inventory = Inventory(tmp_path_factory.mktemp("looked") / "rig")
    here = tmp_path_factory.mktemp("here")
    # A password that is in a log by mistake.
    run(FIRST, f"logger --priority user.warning 'can not connect to amqps://somebody:{PLANTED}@10.81.0.10:5671'")
    began = {name: run(name, "date +%s").strip() for name in CLUSTER}
    found = Looked()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PWD", str(here))
        with under_load(load, "a look"):
            found.printed = inventory.play(STATUS).text
        with under_load(load, "a diagnosis"):
            found.summary = inventory.play(DIAGNOSE).text
    [archive] = here.iterdir()
    assert re.fullmatch(r"datarun-rig-\d{8}-\d{6}\.tar\.gz", archive.name)
    assert archive.stat().st_mode & 0o777 == 0o600
    found.files = unpacked(archive)
    for name in CLUSTER:
        # What a private /tmp holds is the services' own.
        search = "find /etc /home /opt /root /srv /tmp /usr/local /var/tmp -path '*/systemd-private-*' -prune -o"
        found.left[name] = run(name, f"{search} -type f -newermt @{began[name]} -print; true")
    yield found


def test_the_table_has_a_line_a_runner(looked: Looked) -> None:
    for name in RUNNERS:
        said = line(looked.printed, name)
        assert re.match(rf"\W*{name} +yes +\d", said), said
        assert re.search(r"\d of \d", said), said


def test_all_hosts_gave_all(looked: Looked) -> None:
    files = {"summary.txt", "status.txt", "control.txt"}
    assert looked.files.keys() == files.union(*map(files_of, CLUSTER))
    for name in CLUSTER:
        assert f"{name}: all\n" in looked.files["summary.txt"], looked.files["summary.txt"]


@pytest.mark.parametrize("name", CLUSTER)
def test_no_command_is_missing_on_a_host(name: str, looked: Looked) -> None:
    wrong = re.compile(
        r"^(sh: .*not found|sh: .*[Ss]yntax error|.*: (invalid|unrecognized) option|.*[Uu]nknown option)"
    )
    found = {file: text.splitlines() for file, text in looked.files.items() if file.startswith(f"{name}/")}
    journals = {file for file in found if "/journal-" in file or file.endswith("-log.txt")}
    assert [(file, line) for file in found.keys() - journals for line in found[file] if wrong.match(line)] == []


TELLING = {
    f"{FIRST}/units.txt": "datarun-runner.service",
    f"{FIRST}/journal-datarun.txt": "datarun-runner",
    f"{FIRST}/python.txt": "celery",
    f"{FIRST}/packages.txt": "bubblewrap",
    f"{FIRST}/configuration.txt": "DATARUN_QUEUES=L,celery",
    f"{FIRST}/firewall.txt": "table inet datarun",
    f"{FIRST}/certificates.txt": "notAfter=",
    f"{FIRST}/disks.txt": "/mnt/datarun",
    f"{FIRST}/share.txt": "/mnt/datarun",
    f"{FIRST}/network.txt": ":22",
    f"{FIRST}/system.txt": "Debian",
    f"{FIRST}/files.txt": "/var/lib/datarun-runner/spool",
    f"{FIRST}/processes.txt": "celery",
    f"{MASTER}/units.txt": "datarun-results.service",
    f"{MASTER}/journal-datarun.txt": "datarun-results",
    f"{MASTER}/journal-services.txt": "nginx",
    f"{MASTER}/journal-postgresql.txt": "ready to accept connections",
    f"{MASTER}/queues.txt": "master_periodic",
    f"{MASTER}/metrics.txt": "datarun_broker_up 1.0",
    f"{MASTER}/migrations.txt": "[X] 0001_initial",
    f"{MASTER}/database.txt": "datarun",
    f"{MASTER}/readyz.txt": '200 {"database"',
    f"{MASTER}/rabbitmq-log.txt": "rabbit",
    "status.txt": FIRST,
    "control.txt": "ansible",
}


@pytest.mark.parametrize("file", TELLING)
def test_a_file_tells_what_it_is_for(file: str, looked: Looked) -> None:
    assert TELLING[file] in looked.files[file], looked.files[file][-2000:]


def test_workers_and_consumers_are_there(looked: Looked) -> None:
    assert json.loads(looked.files[f"{MASTER}/workers.txt"]).keys() >= {f"celery@{name}" for name in RUNNERS}
    for name in RUNNERS:
        assert f"runner-{name}" in looked.files[f"{MASTER}/queues.txt"]


def test_no_secret_is_in_it(looked: Looked) -> None:
    for file, text in looked.files.items():
        assert telling(text) == [], file
        assert "PRIVATE KEY-----\n" not in text, file
    assert telling(looked.printed + looked.summary) == []


def test_a_password_that_nobody_named_is_hidden_and_told(looked: Looked) -> None:
    assert "amqps://somebody:***@10.81.0.10:5671" in looked.files[f"{FIRST}/journal-warnings.txt"]
    assert [file for file, text in looked.files.items() if PLANTED in text] == []
    assert re.search(
        rf"masked, \d+ times: a password in a URL in {FIRST}/journal-warnings.txt", looked.files["summary.txt"]
    )


def test_nothing_of_submissions_and_data_is_in_it(looked: Looked) -> None:
    lines = {line.strip() for kind in KINDS.values() for line in kind.code.splitlines()}
    theirs = {line for line in lines if len(line) > 25} | {"my own mistake", "sepal length"}
    assert len(theirs) > 5
    assert [(file, word) for file, text in looked.files.items() for word in theirs if word in text] == []


def test_nothing_is_left_on_the_hosts(looked: Looked) -> None:
    assert looked.left == dict.fromkeys(CLUSTER, "")


def test_check_mode_packs_nothing(inventory: Inventory, folder: Path) -> None:
    recap = inventory.play(DIAGNOSE, "--check")
    assert "not packed" in recap.text
    assert not any(recap.changed.values())
    assert not any(inventory.play(STATUS, "--check").changed.values())
    assert list(folder.iterdir()) == []


def test_broken_off_it_leaves_no_half_archive_and_can_be_run_again(inventory: Inventory, folder: Path) -> None:
    inventory.break_off(DIAGNOSE, at="Collect it, mask what is secret, and pack it")
    inventory.play(DIAGNOSE)
    archives = list(folder.iterdir())
    assert archives
    for archive in archives:
        assert archive.name.startswith("datarun-inventory-")
        assert "summary.txt" in unpacked(archive)


@pytest.fixture
def frozen() -> Iterator[None]:
    """The second runner answers nobody, and no packet tells so."""
    rig("freeze", SECOND)
    try:
        yield
    finally:
        rig("thaw", SECOND)
        until(lambda: workers().get(f"celery@{SECOND}", {}).get("queues"), 240, f"{SECOND} works again")


def test_a_host_that_is_away_is_named_and_the_rest_is_there(inventory: Inventory, folder: Path, frozen: None) -> None:
    printed = inventory.play(STATUS).text
    assert re.match(rf"\W*{SECOND} +no ", line(printed, SECOND))
    assert re.match(rf"\W*{FIRST} +yes ", line(printed, FIRST))
    said = inventory.play(DIAGNOSE).text
    [archive] = folder.iterdir()
    files = unpacked(archive)
    assert re.search(rf"{SECOND}: NOT REACHED: \S+", files["summary.txt"])
    assert re.search(rf"{SECOND}: NOT REACHED: \S+", said)
    assert {name.partition("/")[0] for name in files if "/" in name} == {MASTER, FIRST}
    for name in (MASTER, FIRST):
        assert files_of(name) <= files.keys()
