"""`inventories/single` on a bare host: what docs/cluster.md prints below "One machine", done by an ordinary user."""

import re
import shlex
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from test_files import kits, post_api
from tests.ansible.helpers import ROOT
from tests.cluster.playbooks import SECONDS, Recap, environment, rig
from tests.e2e import live

pytestmark = pytest.mark.scenario

NAME, SUITE, ADDRESS = "single", "trixie", "10.81.0.15"
NEVER = {4369, 5432, 5555, 5671, 5672, 6379, 15672, 25672}
"""Services of the master: tried, even where none listens."""
USERS = ["datarun", "datarun-runner"]


def ssh(script: str, code: int = 0, stdin: bytes = b"") -> str:
    """What a script prints that bash runs on the host, as its first user."""
    folder = environment()["DATARUN_CLUSTER_DIR"]
    options = ["-i", f"{folder}/key", "-o", f"UserKnownHostsFile={folder}/known_hosts", "-o", "BatchMode=yes"]
    process = subprocess.run(
        ["ssh", *options, f"debian@{ADDRESS}", "bash -euc " + shlex.quote(script)],
        input=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=SECONDS,
    )  # fmt: skip
    text = process.stdout.decode(errors="replace")
    assert process.returncode == code, text[-8000:]
    return text


def documented() -> str:
    """The commands."""
    found = re.search(r"^## One machine\n\n((?: {4}.*\n)+)", (ROOT / "docs/cluster.md").read_text(), re.M)
    assert found, "docs/cluster.md prints no commands below '## One machine'"
    return found[1]


@pytest.fixture(scope="module")
def first() -> Iterator[Recap]:
    """The first run of site.yml, on a host that has had nothing but a checkout."""
    rig("up", f"{NAME}={SUITE}={ADDRESS}")
    try:
        files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout
        tar = ["tar", "--create", "--null", "--files-from=-"]
        checkout = subprocess.run(tar, cwd=ROOT, input=files, stdout=subprocess.PIPE, check=True).stdout
        ssh("mkdir datarun; tar --extract --directory datarun", stdin=checkout)
        yield Recap(ssh(f"cd datarun\n{documented()}"))
    finally:
        rig("remove", NAME)


@pytest.fixture(scope="module")
def authority(first: Recap, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("authority") / "ca.pem"
    path.write_text(ssh("cat /etc/datarun/ca.pem"))
    return path


def test_the_run_proves_the_runner(first: Recap) -> None:
    assert f"{NAME}:" in first.text.rpartition("Require that all runners serve")[2]


def test_a_challenge_runs_with_what_the_last_lines_say(
    first: Recap, authority: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority))
    told = re.sub(r"\s+", " ", first.text.rpartition("Say where the API is")[2])
    found = re.search(r"(https://\S+) .* user is (\w+), the password is in (\S+)", told)
    assert found, told
    url, login, file = found.groups()
    assert url == f"https://{ADDRESS}/"
    organiser = live.Organiser(SimpleNamespace(url=url.rstrip("/"), evidence=journal))  # type: ignore[arg-type]
    organiser.who = (url, login, ssh(f"cat {file}").strip())
    kit = kits.IRIS
    data_id = organiser.data(kit.data_files[0], kit.data_files[1:], kit.target_column, kit.workflow_elements)
    organiser.split(data_id, kit.custom, kit.held_out_test, kit.random_state)
    files = kit.submission_files(kit.submissions[0])
    folds = [organiser.fold(data_id, files, range(90), priority) for priority in "LH"]
    records = organiser.ended(*folds, seconds=120)
    assert [(record["state"], record["runner"]) for record in records] == [("TESTED", f"celery@{NAME}")] * 2
    assert len(post_api.get_prediction_new(*organiser.who, data_id).json()) == 2
    # The split is a folder that the runner has made in the data set's, which is the master's.
    assert ssh("sudo find /mnt/datarun/data -mindepth 2 -printf '%u\\n' | sort -u").split() == USERS
    delete = f"from runapp.models import RawData; RawData.objects.get(id={data_id}).delete()"
    ssh(f'sudo datarun-manage shell --command "{delete}"')
    assert ssh("sudo ls -A /mnt/datarun/data") == ""


def journal() -> str:
    return ssh("sudo journalctl --unit datarun-runner --lines 20 --no-pager --output cat")


def test_a_second_run_changes_nothing(first: Recap) -> None:
    again = Recap(ssh("cd datarun\n. .venv/bin/activate\nansible-playbook site.yml"))
    assert again.changed == {NAME: 0}, again.text[-8000:]


def test_secrets_are_for_their_user_alone(first: Recap) -> None:
    modes = ssh("cd datarun/inventories/single; stat --format '%a %U' .secrets .secrets/*").splitlines()
    assert modes == ["700 debian"] + ["600 debian"] * 8


READABLE = """
for user in datarun datarun-runner nobody; do
    for path in $(sudo sh -c 'ls /etc/datarun/secrets/*') /var/lib/datarun /var/lib/datarun-runner /mnt/datarun; do
        if sudo -u $user test -r $path; then echo $user $path; fi
    done
done
"""


def test_master_and_runner_have_their_own_secrets_and_share_the_disk(first: Recap) -> None:
    secrets = set(ssh("sudo find /etc/datarun/secrets -type f").split())
    of_runner = {path for path in secrets if "/runner_" in path}
    assert len(secrets) > len(of_runner) > 1
    assert {tuple(line.split()) for line in ssh(READABLE).splitlines()} == {
        *(("datarun", path) for path in {"/mnt/datarun", "/var/lib/datarun", *secrets - of_runner}),
        *(("datarun-runner", path) for path in {"/mnt/datarun", "/var/lib/datarun-runner", *of_runner}),
    }


def test_it_is_reached_by_ssh_and_https_alone(first: Recap) -> None:
    listening = {int(line.split()[3].rpartition(":")[2]) for line in ssh("ss -Hltn").splitlines()}
    assert {5432, 5671, 6379} < listening

    def reached(port: int) -> bool:
        try:
            socket.create_connection((ADDRESS, port), timeout=2).close()
        except OSError:
            return False
        return True

    with ThreadPoolExecutor(16) as pool:
        ports = sorted(listening | NEVER)
        assert {port for port, open_ in zip(ports, pool.map(reached, ports), strict=True) if open_} == {22, 80, 443}
