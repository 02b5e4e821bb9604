"""All that a person needs who looks for what is wrong with a cluster, in one archive: playbooks/diagnose.yml.

    python -m tools.diagnose [ARCHIVE.tar.gz] <inventory.json

stdin: what `ansible-inventory --list` prints, and under "secrets" [name, value] of whatever no file of the archive may
contain. Hosts are asked all at once (tools.hosts) and only look; no secret is sent to them, nothing is left on them.
Without ARCHIVE it says what it would pack.

Of submissions it collects nothing: no code, data or predictions. Each answer is bounded, and so are its lines, as a
program that fails may log what it was working on.
"""

import io
import json
import os
import re
import secrets
import shlex
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

from tools import status
from tools.hosts import AS_ROOT, Host, InventoryError, Run, read_inventory, with_connection

ROOT = Path(__file__).parents[1]

SECONDS = 60
"""For a command on a host."""

HOST_SECONDS = 240.0
"""For all commands on a host."""

BYTES = 1_000_000
"""Of what a command prints, its end."""

LINE = 2000
"""Letters of a line, its begin."""

LOGGED = "journalctl --quiet --no-pager --output with-unit --lines 5000"

EVERYWHERE = {
    "system": "date --iso-8601=ns; timedatectl; uptime; nproc; free --mebi; uname -srvm; cat /etc/os-release",
    "disks": "findmnt --list; df --local --human-readable; df --local --inodes",
    "units": """
        systemctl list-units --all --no-pager --plain 'datarun*' 'nginx*' 'postgresql*' 'rabbitmq*' 'redis*' 'epmd*' \
            'nftables*' 'systemd-journald*' 'systemd-timesyncd*' '*mount'
        systemctl list-units --failed --no-pager --plain
        systemctl list-timers --all --no-pager
        systemctl status --no-pager --full --lines 0 'datarun*'""",
    "processes": "ps -e -o pid,ppid,user,etime,time,stat,rss,wchan:20,comm --sort -rss",
    "network": "ip -brief address; ss -Hltnp; ss -Htn",
    "firewall": "nft list ruleset",
    "packages": "dpkg-query --show",
    "python": """
        for python in /opt/datarun/*/bin/python; do
            echo "==> $python"; cat "${python%/bin/python}/.wheel"; echo
            "$python" -m pip list --disable-pip-version-check
        done""",
    "certificates": """
        for file in /etc/datarun/ca.pem /etc/datarun/pki/*.pem /etc/rabbitmq/tls/*.pem /etc/redis/tls/*.pem; do
            [ -e "$file" ] || continue
            echo "==> $file"; openssl x509 -noout -subject -issuer -dates -fingerprint -in "$file"
        done""",
    "configuration": """
        for file in /etc/datarun/*.env /etc/datarun/*.json /etc/systemd/system/datarun* /etc/systemd/system/*mount \
            /etc/systemd/journald.conf.d/* /etc/nftables.conf /etc/nginx/conf.d/* /etc/rabbitmq/*.conf \
            /etc/redis/redis.conf /etc/postgresql/*/*/conf.d/*; do
            [ -f "$file" ] || continue
            echo "==> $file"; cat "$file"
        done""",
    "files": """
        ls -la /etc/datarun /opt/datarun /var/lib/datarun-runner/spool
        journalctl --disk-usage; du -sh /var/cache/datarun /var/log/*""",
    "journal-datarun": f"{LOGGED} --unit 'datarun*'",
    "journal-warnings": f"{LOGGED} --priority warning",
    "journal-kernel": f"{LOGGED} --dmesg",
}
"""File -> shell commands, run as root. None has a secret to show."""

ON_MASTER = {
    "queues": """
        list() { rabbitmqctl --timeout 15 "$@" </dev/null; }
        list --quiet --no-table-headers list_vhosts name | while read -r vhost; do
            echo "==> $vhost"
            list -p "$vhost" list_queues name type messages_ready messages_unacknowledged consumers state
            list -p "$vhost" list_consumers
        done
        list list_connections user peer_host peer_port state connected_at channels""",
    "workers": "datarun-manage workers",
    "metrics": "datarun-manage shell -v 0 -c 'from runapp.services.metrics import metrics; print(metrics().decode())'",
    "migrations": "datarun-manage showmigrations",
    # As a load balancer asks.
    "readyz": """
        . /etc/datarun/master.env
        /opt/datarun/master/bin/python - "${DR_ALLOWED_HOSTS%%,*}" <<'END'
import http.client, sys
connection = http.client.HTTPConnection("127.0.0.1", timeout=10)
connection.request("GET", "/readyz", headers={"Host": sys.argv[1]})
answer = connection.getresponse()
print(answer.status, answer.read().decode())
END""",
    "database": """
        ask() { (cd / && runuser -u postgres -- psql --no-psqlrc --command "$1"); }
        ask "select datname, pg_size_pretty(pg_database_size(oid)) from pg_database"
        ask "select datname, state, count(*), max(now() - state_change) from pg_stat_activity group by 1, 2" """,
    "journal-services": f"{LOGGED} --unit nginx --unit 'postgresql*' --unit rabbitmq-server --unit redis-server",
    # What a session says at its end may have no unit: journald asks the process for it, which is gone.
    "journal-postgresql": f"{LOGGED} --identifier postgres",
    "rabbitmq-log": "tail --lines 5000 /var/log/rabbitmq/*.log",
}

AT_LAST = {
    "share": """
        data=$(sed -n 's/^DIR_DATA=//p' /etc/datarun/*.env | head -n 1)
        ls -ld "$data"; df --human-readable "$data"; df --inodes "$data" """,
}
"""What hangs, beyond any time-out, where the share's server is gone."""


@dataclass
class Answer:
    """What a host gave. files: name -> text; problem: why it gave nothing, or not all."""

    files: dict[str, str] = field(default_factory=dict)
    problem: str = ""


def collect(host: Host, commands: dict[str, str]) -> Answer:
    """Ask a host; never raises."""
    answer, boundary = Answer(), secrets.token_hex(16)

    def ask(run: Run) -> None:
        out, err = run(AS_ROOT, script(commands, boundary), HOST_SECONDS)
        answer.files = parse(out, boundary)
        if missing := commands.keys() - answer.files:
            what = f"without {', '.join(sorted(missing))}" if answer.files else "GAVE NOTHING"
            answer.problem = f"{what}: {err.strip() or 'no whole answer'}"

    try:
        with_connection(host, ask)
    except Exception as error:
        answer.problem = f"NOT REACHED: {str(error) or type(error).__name__}"
    return answer


def script(commands: dict[str, str], boundary: str) -> str:
    lines = ["export LC_ALL=C.UTF-8 PYTHONDONTWRITEBYTECODE=1"]
    for name, command in commands.items():
        bounded = f"timeout --kill-after 1 {SECONDS} sh -c {shlex.quote(command)} </dev/null 2>&1 | tail -c {BYTES}"
        lines += [f"printf '{boundary} {name}\\n'", bounded, f"printf '{boundary}\\n'"]
    return "\n".join(lines) + "\n"


def parse(printed: str, boundary: str) -> dict[str, str]:
    """What `script` printed, as far as each command came to its end."""
    found = re.findall(rf"{boundary} (\S+)\n(.*?){boundary}\n", printed, re.S)
    # A cut may go through a secret: without the line that it went through.
    return {name: text.partition("\n")[2] if len(text.encode()) >= BYTES else text for name, text in found}


PATTERNS = {
    "a private key": re.compile(
        r"(-----BEGIN [A-Z ]*PRIVATE KEY-----)(.*?)(-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.S
    ),
    # Not the port of an address without credentials.
    "a password in a URL": re.compile(r"(//[^\s/:@]*:)(?!\d+/)([^\s\"'<>@]+)(@)"),
}


class Mask:
    """Replaces what must not be seen, and counts what it found."""

    def __init__(self, known: list[tuple[str, str]]) -> None:
        """known: names and values."""
        self.found: Counter[str] = Counter()
        self._names = {word: name for name, value in known for word in spellings(value)}
        # The longest first: one may begin with another.
        words = sorted(self._names, key=len, reverse=True)
        self._words = re.compile("|".join(map(re.escape, words)) or r"(?!)")

    def __call__(self, place: str, text: str) -> str:
        def known(match: re.Match[str]) -> str:
            self.found[f"{self._names[match[0]]} in {place}"] += 1
            return "***"

        text = self._words.sub(known, text)
        for what, pattern in PATTERNS.items():

            def shaped(match: re.Match[str], what: str = what) -> str:
                if match[2].strip("*"):  # Celery hides its own
                    self.found[f"{what} in {place}"] += 1
                return f"{match[1]}***{match[3]}"

            text = pattern.sub(shaped, text)
        return re.sub(rf"(?m)^(.{{{LINE}}}).+$", r"\1 ...", text)


def spellings(value: str) -> set[str]:
    """How a secret may stand in a text: as it is, in a URL, in JSON; of a key each line that tells something."""
    lines = value.splitlines()
    if len(lines) > 1:
        lines = [line for line in lines if len(line) >= 16 and not line.startswith("-----")]
    spelt = {word for line in lines for word in (line, quote(line), quote(line, safe=""), quote_plus(line))}
    return {word for word in spelt | {json.dumps(word)[1:-1] for word in spelt} if word.strip()}


def here() -> str:
    """What the control machine runs."""
    said = []
    for command in (
        ["git", "describe", "--always", "--dirty", "--tags"],
        [str(Path(sys.executable).with_name("ansible")), "--version"],
    ):
        try:
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS)
            said.append(f"$ {' '.join(command)}\n{done.stdout}{done.stderr}")
        except (OSError, subprocess.TimeoutExpired) as error:
            said.append(f"$ {' '.join(command)}\n{error}\n")
    return "\n".join(said)


def gather(master: Host, runners: list[Host], known: list[tuple[str, str]]) -> dict[str, str]:
    """File -> text of all hosts, of this machine, and summary.txt, which is for a person."""
    machines = {host.name: host for host in (master, *runners)}
    asked = {name: EVERYWHERE | (ON_MASTER if name == master.name else {}) | AT_LAST for name in machines}
    with ThreadPoolExecutor(len(machines) + 2) as pool:
        table, versions = pool.submit(status.report, master, runners), pool.submit(here)
        answers = dict(zip(machines, pool.map(collect, machines.values(), asked.values()), strict=True))
    files = {"status.txt": table.result() + "\n", "control.txt": versions.result()}
    for name, answer in answers.items():
        files |= {f"{name}/{file}.txt": text for file, text in answer.files.items()}
    mask = Mask(known)
    files = {name: mask(name, text) for name, text in files.items()}
    summary = [f"{name}: {answer.problem or 'all'}" for name, answer in answers.items()]
    summary += [f"masked, {count} times: {what}" for what, count in sorted(mask.found.items())]
    if mask.found:
        summary.append(
            "What was masked is not in this archive, but it is on those hosts: see docs/operations.md, Look."
        )
    return {"summary.txt": mask("summary.txt", "\n".join(summary)) + "\n"} | files


def pack(archive: Path, files: dict[str, str]) -> None:
    """The whole archive, for this user alone, or none."""
    handle, part = tempfile.mkstemp(prefix=".datarun-", dir=archive.parent)
    try:
        with os.fdopen(handle, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as tar:
            for name, text in files.items():
                content = text.encode()
                entry = tarfile.TarInfo(f"{archive.name.removesuffix('.tar.gz')}/{name}")
                entry.size, entry.mtime, entry.mode = len(content), int(time.time()), 0o600
                tar.addfile(entry, io.BytesIO(content))
        os.replace(part, archive)
    except BaseException:
        os.unlink(part)
        raise


def main() -> int:
    archive = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    text = sys.stdin.read()
    try:
        master, runners = read_inventory(text)
        known: list[tuple[str, Any]] = json.loads(text).get("secrets", [])
        if archive and not os.access(archive.parent, os.W_OK):
            raise InventoryError(f"{archive.parent} can't be written to: run it in another folder")
        files = gather(master, runners, [(name, str(value)) for name, value in known])
    except InventoryError as error:
        print(error, file=sys.stderr)
        return 1
    if archive:
        pack(archive, files)
    sizes = sum(map(len, files.values()))
    print(f"{files['summary.txt']}{archive or 'not packed'}: {len(files)} files, {sizes / 2**20:.1f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
