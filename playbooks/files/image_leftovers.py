"""What of this host must not get into an image, one path a line; with --erase it is removed first, as far as it can be.

stdin: JSON {"gone": [globs of what must not be there], "empty": [folders that must be empty], "secrets": [texts that no
file of the root file system may have]}, beside what every host has. The host's ssh keys go last, and only once nothing
else is left: without them nobody gets in any more who is not in already.
"""

import glob
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

# Not apt's lists: Ansible takes empty ones for fresh, for a day.
GONE = """
/etc/nftables.conf /etc/nginx/conf.d/datarun*.conf
/etc/systemd/system/datarun-* /etc/systemd/system/*/datarun-* /var/lib/datarun-*
/etc/rabbitmq/tls /etc/rabbitmq/definitions.json /etc/redis/tls /etc/redis/users.acl
/etc/postgresql/*/main /var/lib/postgresql/*/main /var/lib/postgresql/.[!.]*
/etc/ssl/private/ssl-cert-snakeoil.key /etc/ssl/certs/ssl-cert-snakeoil.pem
/var/lib/dbus/machine-id /var/lib/systemd/random-seed /var/lib/systemd/credential.secret
/var/lib/NetworkManager/secret_key /var/lib/NetworkManager/*.lease /var/lib/dhcp/*.leases /var/lib/dhcpcd/*.lease
/var/cache/apt/archives/*.deb
/root/.*_history /home/*/.*_history /root/.cache /home/*/.cache
/root/.ansible/tmp/ansible-tmp-* /home/*/.ansible/tmp/ansible-tmp-*
""".split()
EMPTY = """
/etc/datarun /var/lib/datarun /var/cache/datarun /var/lib/rabbitmq /var/lib/redis /var/lib/cloud
/var/log/journal /var/lib/systemd/coredump /var/crash /var/backups /var/tmp
""".split()
KEPT = "/etc/datarun/image.json"
LOGS = "/var/log"
MACHINE_ID = Path("/etc/machine-id")
HOST_KEYS = "/etc/ssh/ssh_host_*_key*"
OWN_KEYS = "/etc /home /root /srv /usr/local /var".split()
"""Where no private key may be, whoever has put it there; elsewhere are those that libraries are tested with."""
PRIVATE_KEY = "^-----BEGIN ([A-Z]+ )*PRIVATE KEY-----"
OPENSSH = "b3BlbnNzaC1rZXktdjE"
"""So begins the first line of an OpenSSH private key, which has nothing of the key: it is that of all of its kind."""
SHORTEST = 8
"""Characters of a line below which it would be found everywhere."""


def there(gone: list[str], empty: list[str]) -> list[str]:
    """All that is there of what must not be."""
    found = [path for pattern in GONE + gone for path in glob.glob(pattern)]
    found += [str(path) for folder in EMPTY + empty if os.path.isdir(folder) for path in Path(folder).iterdir()]
    # The services' folders stay, with their owners.
    found += [str(path) for path in Path(LOGS).rglob("*") if path.is_file() or path.is_symlink()]
    if MACHINE_ID.exists() and MACHINE_ID.stat().st_size:
        found.append(str(MACHINE_ID))
    return sorted({*found} - {KEPT})


def remove(paths: list[str]) -> None:
    # The short files of /etc may be secrets: those are overwritten, where the file system lets them be.
    short = [str(file) for path in paths if path.startswith("/etc/") for file in files(path)]
    if short:
        subprocess.run(["shred", "--iterations=1", "--", *short], check=True)
    for path in paths:
        if path == str(MACHINE_ID):
            MACHINE_ID.write_text("")  # an empty one is made anew at the next start; without it all units are preset
        elif os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path, ignore_errors=True)  # what is left is told
        elif os.path.lexists(path):
            os.unlink(path)


def files(path: str) -> list[Path]:
    """The file, or those below the folder; no links."""
    inside = [Path(path), *Path(path).rglob("*")]
    return [file for file in inside if file.is_file() and not file.is_symlink()]


def with_secrets(secrets: list[str]) -> list[str]:
    """Files with a line of a secret in them, as it is, as a URL has it, or its SHA-256."""
    lines = {line for secret in secrets for line in secret.splitlines()}
    lines = {line for line in lines if "-----" not in line and not line.startswith(OPENSSH)}
    words = {form for line in lines if len(line) >= SHORTEST for form in forms(line)}
    if not words:
        return []
    memory = os.memfd_create("words")  # in no command line, and on no disk
    os.write(memory, "\n".join(sorted(words)).encode())
    return search(["/"], ["-aF", "-f", f"/proc/self/fd/{memory}"], memory)


def forms(line: str) -> set[str]:
    return {line, quote(line, safe=""), quote(line), hashlib.sha256(line.encode()).hexdigest()}


def private_keys() -> list[str]:
    named = search([folder for folder in OWN_KEYS if os.path.isdir(folder)], ["-aE", "-m1", "-e", PRIVATE_KEY])
    return [path for path in named if path not in glob.glob(HOST_KEYS)]


def search(folders: list[str], how: list[str], *inherited: int) -> list[str]:
    """The files of these folders' own file systems in which grep finds what it is told to look for."""
    find = subprocess.Popen(
        ["find", *folders, "-ignore_readdir_race", "-xdev", "(", "-path", "/proc", "-o", "-path", "/sys", ")", "-prune"]
        + ["-o", "-type", "f", "-size", "+0", "-print0"],
        stdout=subprocess.PIPE,
    )
    grep = subprocess.run(
        ["xargs", "--null", "--no-run-if-empty", "grep", "-ls", *how, "--"],
        stdin=find.stdout, stdout=subprocess.PIPE, text=True, errors="replace",
        env=os.environ | {"LC_ALL": "C"}, pass_fds=inherited,
    )  # fmt: skip
    assert find.wait() == 0, f"find ended with {find.returncode}"
    assert grep.returncode in (0, 123), f"grep ended with {grep.returncode}"  # 123: it found nothing in some files
    return grep.stdout.splitlines()


def main() -> None:
    asked = json.load(sys.stdin)
    erase = "--erase" in sys.argv
    if erase:
        subprocess.run(["journalctl", "--relinquish-var"], check=True)  # or it would begin anew at once
        remove(there(asked["gone"], asked["empty"]))
    left = there(asked["gone"], asked["empty"])
    left += [f"{path} (a secret of the inventory is in it)" for path in with_secrets(asked["secrets"])]
    left += [f"{path} (a private key)" for path in private_keys()]
    if erase and not left:
        remove(glob.glob(HOST_KEYS))
    left += glob.glob(HOST_KEYS)
    print(*(f"{path}\n" for path in sorted(left)), sep="", end="")


if __name__ == "__main__":
    main()
