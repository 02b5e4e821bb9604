"""Ansible's commands, run from the root as an operator does; where Ansible is missing, tests fail."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    "HOME": os.environ.get("HOME", "/root"),
    "LC_ALL": "C.UTF-8",
    "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
    "ANSIBLE_NOCOLOR": "1",
}


def ansible(command, *arguments, **environment):
    """The finished process of ansible-<command>; all that it printed is in its stdout."""
    return subprocess.run(
        [Path(sys.executable).with_name(f"ansible-{command}"), *map(str, arguments)],
        cwd=ROOT,
        env=ENVIRONMENT | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
