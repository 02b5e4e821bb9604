"""What this host can't do, said before any submission runs. Supervisor: trusted, outside."""

import os
import platform
import shutil
import sys

from runner.jobs import Limits
from runner.sandbox import descriptors, launch, seccomp, wire
from runner.sandbox.line import RefusedError, ZygoteError
from runner.sandbox.report import parse
from runner.sandbox.slots import Slot

_OFF = "On a laptop, for code that you trust, DATARUN_SANDBOX=off runs submissions without isolation."
_NAMESPACES = (
    "let ordinary users make user namespaces: sysctl user.max_user_namespaces above 0; on older Debian "
    "kernel.unprivileged_userns_clone=1; on Ubuntu 24.04 and later an AppArmor profile with `userns,` for "
    "/usr/bin/bwrap; "
    "in a container, one that may (podman --privileged); in a systemd unit RestrictNamespaces=no, and neither "
    "ProtectProc= nor ProtectKernelTunables="
)
_DESCRIPTORS = "a higher hard limit of open files: ulimit -Hn, LimitNOFILE= in a systemd unit"
_REMEDIES = {
    "namespaces": _NAMESPACES,
    "rights": "run the worker as an ordinary user, or as root with the user nobody on the host",
    "seccomp": "a kernel with CONFIG_SECCOMP_FILTER, and apt install libseccomp2; pip install pyseccomp",
    "rlimits": "a kernel that counts processes by user namespace: Linux 5.14 or later",
}


class Refusal(Exception):
    """A line of defence is missing: the runner does not run."""

    def __init__(self, line: str, why: str, remedy: str) -> None:
        super().__init__(f"The sandbox lacks a line of defence, {line}: {why}. To get it: {remedy}. {_OFF}")


def before_start(limits: Limits, slots: int, sampled: bool) -> tuple[bytes, int]:
    """What can be told without starting anything.

    Returns the compiled system call filter (sampled: as it has it), and how many descriptors a fold may have open.
    """
    if sys.platform != "linux":
        why = f"{platform.system()} has none of Linux's namespaces"
        raise Refusal("namespaces", why, "run datarun on Linux, in a virtual machine for example")
    programs = [("bwrap", "bubblewrap"), ("nsenter", "util-linux"), ("setpriv", "util-linux")]
    for program, package in programs[: 3 if os.geteuid() == 0 else 2]:
        if shutil.which(program, path=os.defpath) is None:
            raise Refusal("namespaces", f"the program {program} is not installed", f"apt install {package}")
    try:
        compiled = seccomp.compile_filter(sampled)
    except (ImportError, OSError, RuntimeError) as error:
        raise Refusal("seccomp", str(error), _REMEDIES["seccomp"]) from None
    try:
        return compiled, descriptors.share(slots, limits.processes)
    except ValueError as error:
        raise Refusal("descriptors", str(error), _DESCRIPTORS) from None


def start(slot: Slot) -> None:
    """Start a slot and have a fork of it tell what it still can, once confined.

    Raises Refusal where this host confines nothing, and launch.Interrupted, an OSError, where another start may do.
    """
    try:
        slot.start()
    except launch.Interrupted:
        raise
    except (launch.LaunchError, OSError) as error:
        raise Refusal("namespaces", f"bubblewrap did not start Python: {error}", _NAMESPACES) from None
    words: list[bytes] = []
    nothing = wire.filled("nothing")
    try:
        options = {"task": "probe", "scratch": slot.limits.scratch}
        ended, output = slot.run(slot.zygote(), "probe", nothing, [], options, lambda text, _: words.append(text))
    except ZygoteError as error:
        raise launch.Interrupted(f"it ended while it was tried: {error}") from None
    except RefusedError as error:
        raise Refusal("namespaces", f"no process could be confined: {error}", _NAMESPACES) from None
    finally:
        os.close(nothing)
    report = parse(words[-1]) if words else []
    if len(report) != 2 or report[0] != "done" or not isinstance(report[1], dict):
        said = output.strip().splitlines() or [str(ended)]
        raise Refusal("namespaces", f"no process could be confined: {said[-1]}", _NAMESPACES)
    for line, remedy in _REMEDIES.items():
        if any(report[1].get(line, [True])):
            raise Refusal(line, f"a confined process could still do too much ({report[1].get(line)})", remedy)
