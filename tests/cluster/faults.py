"""What may befall a cluster of test hosts: each fault is done and, where it lasts, undone by one call."""

import base64
import tempfile
import time
from pathlib import Path

from paramiko import SSHException

from tests.chaos.faults import TWICE, Fault, moved_clock
from tests.cluster.hosts import MASTER, RUNNERS, VARIABLES, as_datarun, host, run
from tests.cluster.playbooks import rig
from tests.e2e.live import until

STORAGE = "storage"
FIRST = RUNNERS[0]

SHORT, LONG = 10.0, 180.0
"""Seconds that something is away. LONG is longer than every time-out: RabbitMQ's heartbeat (60 s, missed twice), and
the time after which the periodic task gives a fold of this cluster to another runner (35 + 60 + 30 s)."""

SPOOL = "/var/lib/datarun-runner/spool"
FILL = "cat /dev/zero >full 2>/dev/null || true"
"""Until nothing is left, whatever is written meanwhile."""


def all_faults() -> dict[str, Fault]:
    faults: dict[str, Fault] = {
        "runner killed": lambda: _kill(FIRST, "datarun-runner"),
        "zygotes killed": _zygotes_killed,
        "master's worker killed": lambda: _kill(MASTER, "datarun-results"),
        "web server killed": lambda: _kill(MASTER, "datarun-web"),
        "two master's workers": _second_masters_worker,
        "redis flushed": _redis_flushed,
        "results twice": lambda: run(MASTER, as_datarun("master", TWICE.read_text(), f"{SHORT:g}")),
        "runner's power off": lambda: power_off(FIRST),
        "runner cut off": lambda: _meanwhile("cut", "heal", FIRST, SHORT),
        "runner cut off for long": lambda: _meanwhile("cut", "heal", FIRST, LONG),
        "runner frozen": lambda: _meanwhile("freeze", "thaw", FIRST, SHORT),
        "runner frozen for long": lambda: _meanwhile("freeze", "thaw", FIRST, LONG),
        "share frozen": lambda: _meanwhile("freeze", "thaw", STORAGE, SHORT),
        "share cut off": lambda: _meanwhile("cut", "heal", STORAGE, SHORT),
        "share cut off for long": lambda: _meanwhile("cut", "heal", STORAGE, LONG),
        "share full": _share_full,
        "share unmounted": lambda: run(FIRST, "umount --lazy --types fuse.sshfs --all"),
        "master rebooted": lambda: power_off(MASTER),
        "runner's disk full": _disk_full,
        "runner's clock moved": lambda: _clock_moved(FIRST, ["datarun-runner"]),
        "master's clock moved": lambda: _clock_moved(MASTER, ["datarun-web", "datarun-results"]),
    }  # fmt: skip
    for name, unit in (
        ("postgresql", "postgresql@*.service"),
        ("rabbitmq", "rabbitmq-server.service"),
        ("redis", "redis-server.service"),
    ):
        faults[f"{name} stopped"] = lambda unit=unit: _away(unit, f"systemctl stop '{unit}'")  # type: ignore[misc]
        faults[f"{name} killed"] = lambda unit=unit: _away(unit, f"systemctl kill --signal KILL '{unit}'")  # type: ignore[misc]
        faults[f"{name} restarted"] = lambda unit=unit: run(MASTER, f"systemctl restart '{unit}'")  # type: ignore[misc]
    return faults


def left_behind() -> list[str]:
    """What is still there of folds that have all ended: messages, results on runners' disks, failed units."""
    found = []
    queues = (
        f"rabbitmqctl --quiet --no-table-headers -p {VARIABLES[MASTER]['rabbitmq_vhost']} list_queues name messages"
    )
    for line in run(MASTER, queues).splitlines():
        name, count = line.split("\t")
        if int(count):
            found.append(f"{count} messages in {name}")
    for name in RUNNERS:
        files = run(name, f"find {SPOOL} -type f ! -name lock").split()
        found += [f"{name}: {file}" for file in files]
    for name in (MASTER, *RUNNERS):
        found += [f"{name}: {line}" for line in run(name, "systemctl --failed --no-legend --plain").splitlines()]
    return found


def power_off(name: str) -> None:
    rig("kill", name)
    time.sleep(SHORT)
    rig("start", name)
    host.cache_clear()  # the connections that it had
    until(lambda: _answers(name), 120, f"{name} is up again")


def _answers(name: str) -> bool:
    try:
        return run(name, "systemctl is-system-running --wait || true").strip() in ("running", "degraded")
    except (OSError, EOFError, AssertionError, SSHException):
        host.cache_clear()
        return False


def _kill(name: str, unit: str) -> None:
    run(name, f"systemctl kill --kill-whom main --signal KILL {unit}")


def _away(unit: str, end: str) -> None:
    units = run(MASTER, f"systemctl list-units --plain --no-legend '{unit}' | cut -d' ' -f1").split()
    run(MASTER, end)
    time.sleep(SHORT)
    run(MASTER, f"systemctl start {' '.join(units)}")


def _meanwhile(begin: str, end: str, name: str, seconds: float) -> None:
    rig(begin, name)
    try:
        time.sleep(seconds)
    finally:
        rig(end, name)


def _zygotes_killed() -> None:
    """As soon as there are any: the runner may just start."""
    run(FIRST, "for _ in {1..60}; do pkill --signal KILL --full runner.sandbox.zygote && exit; sleep 1; done; exit 1")


def _redis_flushed() -> None:
    run(MASTER, "systemctl stop redis-server; rm -f /var/lib/redis/*; systemctl start redis-server")


def _second_masters_worker() -> None:
    celery = f"timeout {SHORT:g} /opt/datarun/master/bin/celery --quiet -A datarun"
    worker = f"{celery} worker -Q master_periodic -c 1 -n second@%h"
    run(MASTER, f"set -a; . /etc/datarun/master.env; set +a; cd /var/lib/datarun; "
        f"setpriv --reuid datarun --regid datarun --init-groups {worker} || [ $? = 124 ]")  # fmt: skip


def _share_full() -> None:
    """Of the share's disk, a small one (molecule/default/prepare.yml), nothing is left."""
    try:
        run(STORAGE, f"cd /home/science/datarun && {FILL}")
        time.sleep(SHORT)
    finally:
        run(STORAGE, "rm /home/science/datarun/full")


def _disk_full() -> None:
    """A runner has no room for the results that it keeps until the broker has them."""
    run(FIRST, f"""
        systemctl stop datarun-runner
        mount -t tmpfs -o size=1m tmpfs {SPOOL} && chown datarun: {SPOOL}
        cd {SPOOL} && {FILL}
        systemctl start datarun-runner""")  # fmt: skip
    try:
        time.sleep(SHORT)
    finally:
        run(FIRST, f"rm {SPOOL}/full")
        time.sleep(SHORT)
        run(FIRST, f"systemctl stop datarun-runner; umount {SPOOL}; systemctl start datarun-runner")


def _clock_moved(name: str, units: list[str]) -> None:
    """Three hours ahead while folds run, and back: for these units, as the hosts of a machine have one clock."""
    with tempfile.TemporaryDirectory() as folder:
        library = base64.b64encode(moved_clock(Path(folder)).read_bytes()).decode()
    drop_in = "[Service]\nEnvironment=LD_PRELOAD=/usr/local/lib/clock.so MOVED_CLOCK=/run/clock\n"
    folders = [f"/run/systemd/system/{unit}.service.d" for unit in units]
    run(name, f"""
        base64 --decode >/usr/local/lib/clock.so <<<{library}
        echo 0 >/run/clock
        for folder in {' '.join(folders)}; do
            mkdir -p $folder
            printf '%s' '{drop_in}' >$folder/clock.conf
        done
        systemctl daemon-reload
        systemctl restart {' '.join(units)}""")  # fmt: skip
    try:
        for moved in (10800, 0):
            time.sleep(SHORT)
            run(name, f"echo {moved} >/run/clock")
        time.sleep(SHORT)
    finally:
        run(name, f"""
            rm -r {' '.join(folders)} /usr/local/lib/clock.so
            systemctl daemon-reload
            systemctl restart {' '.join(units)}""")  # fmt: skip
