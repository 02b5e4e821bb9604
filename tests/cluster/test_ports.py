"""What can be reached from where: nothing but the API, ssh, and for runners broker and cache."""

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.cluster.hosts import CLUSTER, HOSTS, LOCAL, MASTER, RUNNERS, VARIABLES, run

NEVER = {4369, 5432, 5555, 5672, 8000, 15672, 25672}
"""Erlang, PostgreSQL, flower, RabbitMQ without TLS, gunicorn, RabbitMQ's management: tried, even where none listens."""

CONNECT = """
import json, socket
from concurrent.futures import ThreadPoolExecutor

def connect(target):
    try:
        socket.create_connection(target, timeout=30 if target in {allowed} else 2).close()
    except OSError:
        return None
    return target

with ThreadPoolExecutor(64) as pool:
    print(json.dumps([target for target in pool.map(connect, {targets}) if target]))
"""


def address(name: str) -> str:
    return str(VARIABLES[name]["cluster_address"])


@pytest.fixture(scope="module")
def targets() -> list[tuple[str, int]]:
    """All that listens on a host of the cluster, and what never may."""
    if LOCAL:
        pytest.skip("this machine is the cluster: to itself all is open")
    return [
        (address(name), port) for name in CLUSTER for port in sorted(listening(name) | NEVER | {80, 443, 5671, 6379})
    ]


def listening(name: str) -> set[int]:
    return {int(line.split()[3].rpartition(":")[2]) for line in run(name, "ss -Hltn").splitlines()}


def allowed(source: str) -> set[tuple[str, int]]:
    found = {(address(name), VARIABLES[name].get("ansible_port", 22)) for name in CLUSTER}
    found |= {(address(MASTER), port) for port in (80, 443)}
    if source in (MASTER, *RUNNERS):
        found |= {(address(MASTER), port) for port in (5671, 6379)}
    return found


def connect(source: str, targets: list[tuple[str, int]]) -> str:
    return CONNECT.replace("{targets}", repr(targets)).replace("{allowed}", repr(allowed(source)))


def reached(printed: str) -> set[tuple[str, int]]:
    return {(address, port) for address, port in json.loads(printed)}


@pytest.mark.parametrize("source", HOSTS)
def test_a_host_reaches_what_it_needs_and_no_more(source: str, targets: Any) -> None:
    script = connect(source, targets)
    assert reached(run(source, f"/usr/bin/python3 - <<'END'\n{script}\nEND")) == allowed(source)


def test_the_control_machine_reaches_the_api_and_ssh(targets: Any) -> None:
    script = connect("", targets)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert reached(done.stdout) == allowed("")


def test_rabbitmq_redis_and_postgresql_do_listen() -> None:
    assert {5671, 6379, 5432, 15672} <= listening(MASTER)
