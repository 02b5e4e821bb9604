"""Backups under load, what is kept of them, and a master out of one after the loss of its disk."""

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from test_files import post_api
from tests.ansible.helpers import ROOT
from tests.chaos.load import Load
from tests.cluster.conftest import Organiser
from tests.cluster.faults import left_behind
from tests.cluster.hosts import ANSIBLE, MASTER, RUNNERS, host, run
from tests.cluster.load import workers
from tests.cluster.operations import BOUND, Row, rows, under_load
from tests.cluster.playbooks import Inventory, environment, rig
from tests.cluster.test_secrets import ALL, search
from tests.e2e.live import until

pytestmark = pytest.mark.operations

SUITE, ADDRESS = "bookworm", "10.81.0.10"
"""Of the master, as in inventories/molecule."""

OPEN = "set -a; . /etc/datarun/backup/environment; set +a\n"
TEST = "test"
"""The tag of snapshots that a test makes."""


def snapshots(*filters: str) -> list[dict[str, Any]]:
    """None where there is no repository yet."""
    ask = f"{OPEN}restic --no-lock snapshots --host datarun --json {' '.join(filters)} 2>/dev/null || echo '[]'"
    found: list[dict[str, Any]] = json.loads(run(MASTER, ask)) or []
    return found


def ids() -> set[str]:
    return {snapshot["id"] for snapshot in snapshots()}


def test_it_backs_up_in_the_middle_of_a_load(load: Load, inventory: Inventory) -> None:
    before = ids()
    with under_load(load, "backup"):
        recap = inventory.play("playbooks/backup.yml")
    [new] = ids() - before
    assert f"snapshot {new[:8]} saved" in recap.text
    held = run(MASTER, f"{OPEN}restic --no-lock ls {new}").splitlines()
    assert {"/var/lib/datarun-backup/database.dump", "/etc/datarun/pki/ca.key"} <= {*held}
    assert any(path.startswith("/mnt/datarun/submission/submission_") for path in held)


def test_one_that_was_broken_off_is_done_again(inventory: Inventory) -> None:
    before = ids()
    inventory.break_off("playbooks/backup.yml", at="Back up now")
    inventory.play("playbooks/backup.yml")
    assert ids() - before
    assert run(MASTER, f"{OPEN}restic --no-lock list locks") == ""


def test_one_that_was_killed_is_in_nobodys_way(inventory: Inventory) -> None:
    run(MASTER, "systemctl start --no-block datarun-backup")
    until(lambda: run(MASTER, "pgrep -x restic || true"), 60, "restic runs")
    run(MASTER, "systemctl kill --signal KILL datarun-backup")
    before = ids()
    inventory.play("playbooks/backup.yml")
    assert len(ids() - before) == 1
    assert run(MASTER, f"{OPEN}restic --no-lock list locks; ls /var/lib/datarun-backup") == (
        "errors\nlock\npassword\nrepository\n"
    )


def test_check_mode_says_what_it_would_do_and_does_nothing(inventory: Inventory) -> None:
    before = ids()
    recap = inventory.play("playbooks/backup.yml", "--check")
    assert "Would back up the database" in recap.text
    assert not any(recap.changed.values())
    assert ids() == before


def test_a_timer_backs_up() -> None:
    timer = host(MASTER).service("datarun-backup.timer")
    assert timer.is_running
    assert timer.is_enabled
    assert run(MASTER, "systemctl show -P Unit datarun-backup.timer").strip() == "datarun-backup.service"
    assert run(MASTER, "systemctl show -P NextElapseUSecRealtime datarun-backup.timer").strip()


def test_it_keeps_as_many_as_the_inventory_says() -> None:
    """Of fourteen months past: with that of this month twelve are kept, and of two on one day the later."""
    times = [f"{2020 + month // 12}-{month % 12 + 1:02}-01 01:00:00" for month in range(14)]
    times.append(times[-1].replace(" 01:", " 02:"))
    make = f"restic --quiet backup --host datarun --tag {TEST} --time"
    try:
        run(MASTER, OPEN + "".join(f"{make} '{when}' /etc/hostname\n" for when in times))
        run(MASTER, "systemctl start datarun-backup")
        kept = sorted(snapshot["time"][:19].replace("T", " ") for snapshot in snapshots("--tag", TEST))
        assert kept == [*times[-12:-2], times[-1]]
    finally:
        mine = " ".join(snapshot["id"] for snapshot in snapshots("--tag", TEST))
        run(MASTER, f"{OPEN}[ -z '{mine}' ] || restic --quiet forget {mine}")


def test_nothing_of_it_can_be_read_without_the_password() -> None:
    folder = run(MASTER, f'{OPEN}echo "$RESTIC_REPOSITORY"').strip()
    words = ALL | {"PRIVATE KEY", "runapp_submissionfold", "class Classifier"}
    assert search(MASTER, words, f"printf '%s\\n' \"$words\" | grep -rlaF -f - {folder}") == []
    own = f"{folder} /etc/datarun/backup /var/lib/datarun-backup /var/cache/datarun-backup"
    assert run(MASTER, f"find {own} -type f -perm /077; find {own} -maxdepth 0 -perm /077") == ""


def test_a_master_that_holds_something_is_not_restored(inventory: Inventory) -> None:
    before = ids()
    text = inventory.play("playbooks/restore.yml", code=2).text
    assert "data sets and folds, which a backup would replace" in " ".join(text.split())
    assert ids() == before
    assert "datarun-web" in run(MASTER, "systemctl list-units --state running --plain --no-legend 'datarun-*'")


def test_the_loss_of_the_masters_disk(load: Load, api: Organiser, authority: Path, inventory: Inventory) -> None:
    with load.steady(pause=0.5) as accepted:
        until(lambda: len(accepted) >= 10, 60, "folds are accepted")
    assert not load.judge(accepted, BOUND).broken()
    records = {fold: api.look(fold) for fold in accepted}
    for name in RUNNERS:
        run(name, "systemctl stop datarun-runner")
    with load.steady(pause=0.2) as waiting:
        until(lambda: len(waiting) >= 10, 60, "folds are accepted")
    run(MASTER, "systemctl start datarun-backup")
    folds = light(api)
    assert {folds[fold] for fold in waiting} == {"TODO"}

    began = time.monotonic()
    rig("remove", MASTER)
    rig("up", f"{MASTER}={SUITE}={ADDRESS}")
    host.cache_clear()
    until(lambda: reached(inventory), 120, "Ansible reaches the new host")
    for name in RUNNERS:  # with what they have
        run(name, "systemctl start datarun-runner")

    assert "Would restore the snapshot latest" in inventory.play("playbooks/restore.yml", "--check").text
    assert run(MASTER, "ls -d /etc/datarun /opt/datarun 2>/dev/null || true") == ""
    inventory.break_off("playbooks/restore.yml", at="Load the database")
    inventory.break_off("playbooks/restore.yml", at="Queue what is open")
    tried = time.monotonic()
    recap = inventory.play("playbooks/restore.yml")
    seconds = time.monotonic() - tried
    assert f"{len(waiting)} folds are queued; 0 will be" in recap.text

    assert run(MASTER, "cat /etc/datarun/ca.pem") == authority.read_text()
    assert {f"celery@{name}" for name in RUNNERS} <= {*workers()}
    verdict = load.judge(waiting, BOUND)
    assert not verdict.broken()
    assert {fold: api.look(fold) for fold in accepted} == records
    assert light(api).keys() == folds.keys()
    rows.append(Row("restore, third run", seconds, time.monotonic() - began, verdict))

    held = "/etc/systemd/system/datarun-.service.d/restore.conf /var/lib/datarun-backup/restored"
    assert run(MASTER, f"ls {held} 2>/dev/null || true") == ""
    recap = inventory.play("site.yml")
    assert not any(recap.changed.values()), recap.text[-20000:]
    run(MASTER, "systemctl start datarun-backup")
    until(lambda: not left_behind(), 60, lambda: f"nothing is left behind: {left_behind()}")


def light(api: Organiser) -> dict[int, str]:
    """Each fold's state."""
    return {fold["databoard_sf_id"]: fold["state"] for fold in post_api.get_submission_fold_light(*api.who).json()}


def reached(inventory: Inventory) -> bool:
    """A connection that Ansible keeps to the host that is gone ends with the first try."""
    command = [str(ANSIBLE), MASTER, "-i", str(inventory.folder), "-m", "ansible.builtin.ping"]
    done = subprocess.run(command, cwd=ROOT, env=environment(), stdin=subprocess.DEVNULL, capture_output=True)
    return done.returncode == 0
