"""What runs on each host, as whom, from which files; the share; the broker's queues and policies."""

import json
import re
import time
from typing import Any

import pytest

from tests.cluster.hosts import CLUSTER, MASTER, RUNNERS, USERS, VARIABLES, as_datarun, host, run

SERVICES = [
    *((MASTER, unit) for unit in ("datarun-web", "datarun-results", "datarun-flower", "nginx")),
    *((MASTER, unit) for unit in ("postgresql", "rabbitmq-server", "redis-server")),
    *((name, "datarun-runner") for name in RUNNERS),
    *((name, "nftables") for name in CLUSTER),
]
ON_SSHFS = VARIABLES[MASTER].get("sciencefs_type") == "sshfs"
MOUNT_POINT = VARIABLES[MASTER]["cluster_mount_point"]


def properties(name: str, unit: str) -> dict[str, str]:
    lines = run(name, f"systemctl show --all --no-pager {unit}").splitlines()
    return {key: value for key, _, value in (line.partition("=") for line in lines)}


@pytest.mark.parametrize(("name", "unit"), SERVICES)
def test_a_service_runs_now_and_after_a_boot(name: str, unit: str) -> None:
    service = host(name).service(unit)
    assert service.is_running
    assert service.is_enabled


@pytest.mark.parametrize("name", CLUSTER)
def test_nothing_of_datarun_has_failed(name: str) -> None:
    assert run(name, "systemctl list-units --failed --plain --no-legend 'datarun*' 'mnt-*'") == ""


@pytest.mark.parametrize("name", sorted(set(RUNNERS) - {MASTER}))
def test_a_runner_has_no_service_of_the_master(name: str) -> None:
    files = run(name, "systemctl list-unit-files --plain --no-legend 'datarun*' | cut -d' ' -f1").split()
    assert files == ["datarun-runner.service"]
    installed = run(name, "dpkg-query --show --showformat '${Package} '").split()
    assert not {"rabbitmq-server", "redis-server", "nginx", "nginx-light", "postgresql"} & set(installed)


@pytest.mark.parametrize("name", RUNNERS)
def test_a_runner_is_told_to_finish_its_folds_before_it_ends(name: str) -> None:
    unit = properties(name, "datarun-runner")
    seconds = VARIABLES[name]["runner_hard_time_limit"] + 60
    # systemd shows times for people: 2min
    shown = run(name, f"systemd-analyze timespan {seconds}s | sed -n 's/ *Human: //p'").strip()
    wanted = {
        "Delegate": "yes",
        "KillMode": "mixed",
        "User": "datarun-runner",
        "TimeoutStopUSec": shown,
        "Restart": "always",
    }
    assert {key: unit[key] for key in wanted} == wanted


@pytest.mark.parametrize("name", RUNNERS)
def test_a_runner_works_as_the_inventory_says(name: str) -> None:
    runner = VARIABLES[name]
    [line] = run(name, "ps --no-headers -ww -o args $(systemctl show -P MainPID datarun-runner)").splitlines()
    words = line.split()
    assert words[words.index("-n") + 1] == f"celery@{name}"
    assert words[words.index("-Q") + 1].split(",") == runner["runner_queues"]
    assert words[words.index("-c") + 1] == str(runner["runner_concurrency"])


@pytest.mark.parametrize("name", CLUSTER)
def test_no_service_of_datarun_runs_as_root(name: str) -> None:
    units = run(name, "systemctl list-units --plain --no-legend --type=service 'datarun*' | cut -d' ' -f1").split()
    assert units
    assert {unit: properties(name, unit)["User"] for unit in units} == {
        unit: USERS["runner" if unit == "datarun-runner.service" else "master"] for unit in units
    }


EXPOSED = [
    *((MASTER, f"datarun-{unit}", 3.0) for unit in ("web", "results", "flower", "backup")),
    *((name, "datarun-runner", 3.5) for name in RUNNERS),
]
"""What `systemd-analyze security` says of a unit, 10 at worst, is below this. The sandbox needs the most."""


@pytest.mark.parametrize(("name", "unit", "bound"), EXPOSED)
def test_a_unit_may_do_little_more_than_its_work(name: str, unit: str, bound: float) -> None:
    printed = run(name, f"systemd-analyze security --no-pager {unit}")
    [exposure] = re.findall(r"Overall exposure level for \S+: ([0-9.]+)", printed)
    assert float(exposure) < bound, printed


@pytest.mark.parametrize("name", CLUSTER)
def test_secrets_belong_to_root_and_are_for_one_user_to_read(name: str) -> None:
    files = run(name, "find /etc/datarun/secrets -mindepth 1 -printf '%P %y %m %u:%g\\n'").splitlines()
    assert files
    for line in files:
        user = USERS["runner" if line.startswith("runner_") else "master"]
        assert line.endswith(f" f 640 root:{user}")


@pytest.mark.parametrize(("one", "other"), [("datarun", "datarun-runner"), ("datarun-runner", "datarun")])
@pytest.mark.parametrize("name", CLUSTER)
def test_master_and_runner_see_nothing_of_each_other(name: str, one: str, other: str) -> None:
    """One user's files are for itself, but for what is on the share."""
    places = "/etc/datarun /var/lib/datarun /var/lib/datarun-runner /var/cache/datarun /run/datarun-nginx"
    found = run(name, f"find $(ls -d {places} 2>/dev/null) '(' -user {other} -o -group {other} ')' -print")
    assert found
    script = 'while read -r path; do if [ -r "$path" ]; then echo "$path"; fi; done'
    assert run(name, f"runuser -u {one} -- sh -c '{script}' <<'END'\n{found}END") == ""


@pytest.mark.parametrize("name", CLUSTER)
def test_the_share_is_for_master_and_runner_alone(name: str) -> None:
    look = f"ls {MOUNT_POINT} >/dev/null 2>&1 && echo seen || echo refused"
    for user, seen in {"nobody": "refused", **dict.fromkeys(USERS.values(), "seen")}.items():
        assert run(name, f"runuser -u {user} -- sh -c '{look}'").strip() == seen, user


@pytest.mark.parametrize("socket", ["web.sock", "flower.sock"])
def test_nginx_alone_reaches_the_sockets_behind_it(socket: str) -> None:
    path = f"/run/datarun-nginx/{socket}"
    connect = f"import socket; socket.socket(socket.AF_UNIX).connect('{path}')"
    run(MASTER, f'runuser -u www-data -- /usr/bin/python3 -c "{connect}"')
    for user in ("nobody", "datarun-runner"):
        said = run(MASTER, f'runuser -u {user} -- /usr/bin/python3 -c "{connect}" 2>&1 || true')
        assert said.endswith("Permission denied\n")


PACK = "import numpy as np; from runner import payloads; print(payloads.pack(np.random.rand(200_000), 'trial'))"
UNPACK = "import sys; from runner import payloads; payloads.check(sys.argv[1]); payloads.delete(sys.argv[1])"


@pytest.mark.parametrize("name", RUNNERS)
def test_the_master_reads_and_deletes_what_a_runner_writes(name: str) -> None:
    text = run(name, f"umask 007\n{as_datarun('runner', PACK)}").strip()
    assert text.startswith("@")
    run(MASTER, as_datarun("master", UNPACK, text))
    assert run(MASTER, f"find {MOUNT_POINT} -name trial") == ""


@pytest.mark.parametrize("name", CLUSTER)
def test_private_keys_are_roots_alone(name: str) -> None:
    find = "find /etc/datarun -type f -not -path '*/secrets/*' -exec grep -lI 'PRIVATE KEY' {} +"
    keys = run(name, f"{find} | xargs -r stat -c '%n %a %U'").splitlines()
    assert keys or not ON_SSHFS
    assert [line for line in keys if not line.endswith(" 600 root")] == []


@pytest.mark.parametrize("name", CLUSTER)
def test_the_share_is_mounted_and_marked(name: str) -> None:
    assert host(name).file(VARIABLES[MASTER]["cluster_share_marker"]).is_file
    if VARIABLES[MASTER].get("sciencefs_type") != "local":
        assert host(name).mount_point(MOUNT_POINT).exists


@pytest.mark.skipif(not ON_SSHFS, reason="sciencefs_type is not sshfs")
@pytest.mark.parametrize("name", CLUSTER)
def test_the_share_is_that_of_the_pinned_host_and_comes_back_by_itself(name: str) -> None:
    options = set(run(name, "ps --no-headers -ww -o args -C sshfs,mount.fuse.sshfs").replace(",", " ").split())
    assert {
        "reconnect",
        "StrictHostKeyChecking=yes",
        "UserKnownHostsFile=/etc/datarun/sciencefs/known_hosts",
    } <= options
    assert {"ServerAliveInterval=5", "ServerAliveCountMax=3", "ConnectTimeout=10", "BatchMode=yes"} <= options
    ssh = run(name, "ps --no-headers -ww -o args -C ssh").splitlines()
    assert any("StrictHostKeyChecking=yes" in line for line in ssh)
    automount = host(name).service(run(name, f"systemd-escape --path --suffix=automount {MOUNT_POINT}").strip())
    assert automount.is_running
    assert automount.is_enabled


@pytest.mark.parametrize("name", CLUSTER)
def test_datarun_may_not_write_what_it_runs(name: str) -> None:
    folders = "/opt/datarun /etc/datarun /etc/systemd/system/datarun*"
    assert run(name, f"find {folders} -not -type l '(' -user datarun -o -user datarun-runner -o -perm /022 ')'") == ""


@pytest.mark.parametrize("name", CLUSTER)
def test_the_clock_is_right(name: str) -> None:
    began = time.time()
    there = float(run(name, "date +%s.%N"))
    assert began - 2 < there < time.time() + 2


def test_postgresql_listens_on_the_master_alone() -> None:
    listeners = run(MASTER, "ss -Hltn sport = :5432").splitlines()
    assert {line.split()[3] for line in listeners} <= {"127.0.0.1:5432", "[::1]:5432"}
    assert host(MASTER).socket("tcp://127.0.0.1:5432").is_listening


def rabbitmq(*words: str) -> Any:
    return json.loads(run(MASTER, f"rabbitmqctl --quiet {' '.join(words)} --formatter json"))


def test_the_queues_are_quorum_queues() -> None:
    queues = rabbitmq("list_queues", "-p", VARIABLES[MASTER]["rabbitmq_vhost"], "name", "type", "durable", "policy")
    found = {queue["name"]: queue for queue in queues}
    for name in ("L", "H", "celery", "master_periodic", "dead"):
        assert (found[name]["type"], found[name]["durable"]) in (("quorum", True), ("rabbit_quorum_queue", True))
    assert {found[name]["policy"] for name in ("L", "H", "celery")} == {"work"}


def test_work_that_ends_its_runner_again_and_again_goes_to_the_dead_letters() -> None:
    vhost = VARIABLES[MASTER]["rabbitmq_vhost"]
    [policy] = [policy for policy in rabbitmq("list_policies", "-p", vhost) if policy["name"] == "work"]
    definition = json.loads(policy["definition"]) if isinstance(policy["definition"], str) else policy["definition"]
    assert definition["delivery-limit"] > 1
    bindings = rabbitmq("list_bindings", "-p", vhost, "source_name", "destination_name")
    assert {"source_name": definition["dead-letter-exchange"], "destination_name": "dead"} in bindings


def test_no_queue_holds_dead_letters() -> None:
    queues = rabbitmq("list_queues", "-p", VARIABLES[MASTER]["rabbitmq_vhost"], "name", "messages")
    assert [queue["messages"] for queue in queues if queue["name"] == "dead"] == [0]


def test_a_fold_may_take_as_long_as_its_runner_lets_it() -> None:
    printed = run(MASTER, "rabbitmqctl --quiet eval 'application:get_env(rabbit, consumer_timeout).'")
    limit = max(VARIABLES[name]["runner_hard_time_limit"] for name in RUNNERS)
    assert int(printed.strip().strip("{}").split(",")[1]) / 1000 > limit


def test_redis_forgets_rather_than_fills_the_memory() -> None:
    settings = run(MASTER, "cat /etc/redis/redis.conf")
    assert "maxmemory " in settings
    assert "port 0\n" in settings
