"""What is logged is in the journal, the journal is bounded, and it has nothing of what organisers sent."""

import json
import secrets

import pytest

from tests.cluster.hosts import CLUSTER, MASTER, run
from tests.e2e.live import until

USAGE = "MESSAGE_ID=ec387f577b844b8fa948f33cad9a75e6"
"""What journald says of its limits when it starts."""


@pytest.mark.parametrize("name", CLUSTER)
def test_the_journal_survives_a_boot_and_is_bounded(name: str) -> None:
    said = run(name, f"journalctl --quiet --output json --lines 1 {USAGE} JOURNAL_NAME='System Journal'")
    journal = json.loads(said)
    assert journal["JOURNAL_PATH"].startswith("/var/log/journal/")
    assert int(journal["MAX_USE"]) == 1 << 30


@pytest.mark.parametrize("name", CLUSTER)
def test_what_debian_writes_elsewhere_is_turned_over(name: str) -> None:
    assert run(name, "systemctl is-active logrotate.timer").strip() == "active"


def test_requests_are_in_the_journal() -> None:
    word = f"/healthz?{secrets.token_hex(8)}"
    ask = f"""
        /opt/datarun/master/bin/python -c 'import http.client
connection = http.client.HTTPConnection("127.0.0.1", timeout=10)
connection.request("GET", "{word}")
connection.getresponse()'"""
    run(MASTER, ask)
    until(
        lambda: f"GET {word}" in run(MASTER, "journalctl --quiet --unit nginx --since -5min"), 60, "nginx has told it"
    )


def test_the_start_of_redis_is_in_the_journal() -> None:
    assert "Ready to accept connections" in run(MASTER, "journalctl --quiet --unit redis-server")


def test_a_statement_that_fails_is_in_the_journal_without_its_values() -> None:
    value = secrets.token_hex(8)
    asked = f"select 1 / (length('{value}') - 16)"
    run(MASTER, f'cd /; ! runuser -u postgres -- psql --quiet --command "{asked}" 2>/dev/null')
    # Not by unit: journald finds none for a process that has ended when it reads what that process said.
    journal = "journalctl --quiet --identifier postgres --since -5min"
    until(lambda: "division by zero" in run(MASTER, journal), 60, "PostgreSQL has told it")
    assert value not in run(MASTER, journal)


def test_rabbitmq_turns_its_files_over() -> None:
    told = run(MASTER, "rabbitmqctl --quiet eval 'application:get_env(rabbit, log).'")
    assert "10485760" in told
