"""No secret is where it must not be: in a list of processes, a unit, a log, a file that anybody may read."""

from urllib.parse import quote

import pytest

from tests.cluster.hosts import CLUSTER, HOSTS, LOCAL, MASTER, RUNNERS, VARIABLES, run

READABLE = "/etc /home /mnt /opt /root /run /srv /tmp /usr/local /var"
KEPT = "/etc /home /opt /root /run /srv /tmp /usr/local /var/backups /var/cache /var/lib /var/spool /var/tmp"


OF_ALL_KEYS = ("-----", "b3BlbnNzaC1rZXktdjE")
"""So begin lines that all private keys of OpenSSH have, those of other hosts as well."""


def lines(*secrets: str) -> set[str]:
    """What to look for: each line of a key, and a password also as it stands in a URL."""
    found = {line for secret in secrets for line in secret.splitlines() if not line.startswith(OF_ALL_KEYS)}
    return {word for line in found for word in (line, quote(line, safe=""), quote(line))}


VAULT: dict[str, str] = VARIABLES[MASTER]["vault"]
OF_RUNNER = {name: str(VARIABLES[name]["cluster_runner_password"]) for name in RUNNERS}
ALL = lines(*VAULT.values(), *OF_RUNNER.values())


def hidden(line: str) -> str:
    """What a failed test may show of a line."""
    for word in sorted(ALL, key=len, reverse=True):
        line = line.replace(word, "*" * 8)
    return line


def telling(printed: str) -> list[str]:
    """The lines with a secret in them."""
    return [hidden(line)[-300:] for line in printed.splitlines() if hidden(line) != line]


def search(name: str, words: set[str], command: str) -> list[str]:
    """What grep prints; the script has the words in its variable of that name."""
    text = "\n".join(sorted(words))
    script = f"words=$(cat <<'END_OF_WORDS'\n{text}\nEND_OF_WORDS\n)\n{command} || [ $? = 1 ]"
    return [hidden(line)[-300:] for line in run(name, script).splitlines()]


def through(folders: str, grep: str, worst: int) -> str:
    """The files in these folders that have one of the words. Says at which it is: all of them may take minutes."""
    return f"""for folder in {folders}; do
    echo "$folder" >&2
    printf '%s\\n' "$words" | {grep} -rlsaF -D skip -f - $folder
    code=$?; [ $code -le {worst} ] || exit $code
done"""


def test_there_is_something_to_look_for() -> None:
    assert {"vault_postgresql_password", "vault_rabbitmq_password", "vault_redis_password"} <= set(VAULT)
    assert {"vault_master_admin_password", "vault_master_secret_key", "vault_runner_secret"} <= set(VAULT)
    assert len(set(OF_RUNNER.values())) == len(RUNNERS)
    assert min(map(len, ALL)) > 8


@pytest.mark.parametrize("name", HOSTS)
def test_no_list_of_processes_shows_a_secret(name: str) -> None:
    printed = run(name, "ps -eww -o args; cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '; true")
    assert len(printed.splitlines()) > 5
    assert telling(printed) == []


@pytest.mark.parametrize("name", HOSTS)
def test_no_unit_shows_a_secret(name: str) -> None:
    printed = run(name, "systemctl show --all --no-pager '*'")
    assert "Environment" in printed
    assert telling(printed) == []


@pytest.mark.parametrize("name", HOSTS)
def test_no_secret_is_in_the_journal(name: str) -> None:
    """In none of its fields: the command line of whatever wrote a line is one of them."""
    find = "journalctl --all --no-pager --output export --quiet | grep -aF -m 5 -f <(printf '%s\\n' \"$words\")"
    assert search(name, ALL, find) == []


@pytest.mark.parametrize("name", HOSTS)
def test_no_secret_is_in_a_log(name: str) -> None:
    assert search(name, ALL, "printf '%s\\n' \"$words\" | grep -rlaF -D skip --exclude-dir journal -f - /var/log") == []


@pytest.mark.parametrize("name", HOSTS)
def test_nobody_can_read_a_secret(name: str) -> None:
    """Looked for as a user who has no rights at all."""
    assert search(name, ALL, through(READABLE, "runuser -u nobody -- grep", worst=2)) == []


@pytest.mark.skipif(LOCAL, reason="this machine has the inventory")
@pytest.mark.parametrize("name", CLUSTER)
def test_a_host_keeps_no_secret_that_is_not_its_own(name: str) -> None:
    """A runner knows its own password and the share's key; the secret behind the runners' passwords nobody."""
    own = {OF_RUNNER[name]} if name in OF_RUNNER else set()
    if name == MASTER:
        own |= set(VAULT.values()) - {VAULT["vault_runner_secret"]}
    own.add(VAULT.get("vault_sciencefs_private_key", ""))
    assert search(name, ALL - lines(*own), through(KEPT, "grep", worst=1)) == []


@pytest.mark.parametrize("name", CLUSTER)
def test_a_host_has_its_own_secrets(name: str) -> None:
    """Without this the searches above could look in the wrong places."""
    own = OF_RUNNER.get(name) or VAULT["vault_postgresql_password"]
    find = "printf '%s\\n' \"$words\" | grep -rlaF -D skip -f - /etc/datarun/secrets"
    assert search(name, lines(own), find) != []


@pytest.mark.parametrize("name", RUNNERS)
def test_a_runner_has_no_django(name: str) -> None:
    printed = run(name, "/opt/datarun/runner/bin/python -c 'import django' 2>&1 || true")
    assert printed.endswith("No module named 'django'\n")
