"""Playbooks, run on the cluster as an operator does: on a copy of its inventory that a test edits."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import yaml

from tests.ansible.helpers import ENVIRONMENT, ROOT
from tests.ansible.mitogen import MITOGEN
from tests.cluster.hosts import INVENTORY

SECONDS = 1200.0


class Inventory:
    """A copy in `folder`. hosts: the content of its hosts.yml; save() after each edit."""

    def __init__(self, folder: Path) -> None:
        shutil.copytree(ROOT / INVENTORY, folder)
        self.folder = folder
        self.hosts: dict[str, Any] = yaml.safe_load((folder / "hosts.yml").read_text())

    @property
    def runners(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = self.hosts["rig"]["children"]["cluster"]["children"]["runners"]["hosts"]
        return found

    def save(self) -> None:
        (self.folder / "hosts.yml").write_text(yaml.safe_dump(self.hosts))

    def command(self, playbook: str, *arguments: str) -> list[str]:
        program = str(Path(sys.executable).with_name("ansible-playbook"))
        return [program, "-i", str(self.folder), playbook, *arguments]

    def start(self, playbook: str, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(playbook, *arguments), cwd=ROOT, env=environment(), text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def play(self, playbook: str, *arguments: str, code: int = 0) -> "Recap":
        return finish(self.start(playbook, *arguments), code)

    def break_off(self, playbook: str, *arguments: str, at: str) -> None:
        """Run it until it begins the task of this name, and kill it there, as a lost terminal or a reboot does."""
        process = self.start(playbook, *arguments)
        assert process.stdout is not None
        hung = threading.Timer(SECONDS, process.kill)
        hung.start()
        said = ""
        try:
            for line in process.stdout:
                said += line
                if f"[{at}]" in line or f" : {at}]" in line:
                    return
        finally:
            hung.cancel()
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        raise AssertionError(f"it never came to the task {at!r}:\n{said[-8000:]}")


class Recap:
    """What a run printed; how many changes it made, a host; which tasks made them."""

    def __init__(self, text: str) -> None:
        self.text = text
        recap = text.rpartition("PLAY RECAP")[2]
        self.changed = {name: int(count) for name, count in re.findall(r"^(\S+) +: .* changed=(\d+)", recap, re.M)}


def finish(process: "subprocess.Popen[str]", code: int = 0) -> Recap:
    try:
        text, _ = process.communicate(timeout=SECONDS)
    finally:
        process.kill()  # of a test that is interrupted
    assert process.returncode == code, text[-8000:]
    return Recap(text)


def environment() -> dict[str, str]:
    folder = os.environ.get("DATARUN_CLUSTER_DIR", str(ROOT / ".cluster"))
    return os.environ | ENVIRONMENT | MITOGEN | {"DATARUN_CLUSTER_DIR": folder}


def rig(*arguments: str) -> None:
    """molecule/hosts: the machine's side of the test hosts."""
    subprocess.run([ROOT / "molecule/hosts", *arguments], env=environment(), check=True)
