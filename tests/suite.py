"""`make test`: each part of the suite where it belongs.

`python -m tests.suite [ARGUMENTS OF PYTEST]`. First `tests/app` and `tests/e2e` on PostgreSQL, RabbitMQ and Redis;
then all else, with those of the two that are marked `embedded`, on the embedded default. Where a service is not
installed, or arguments choose the tests, all of them run on the embedded default.
"""

import subprocess
import sys

from tests import services

PYTEST = [sys.executable, "-m", "pytest", "--dist", "loadfile", "--no-loadscope-reorder"]
PROCESSES = 4
"""On two cores, as tests wait much of their time: 10 % faster than three."""
ON_SERVICES = ["tests/app", "tests/e2e"]


def parts(arguments: list[str]) -> list[list[str]]:
    """The commands that run the suite, or what the arguments choose of it."""
    if arguments:
        return [[*PYTEST, "-n", str(PROCESSES), *arguments]]
    if missing := services.missing_packages():
        print(f"on the embedded default alone; missing Debian packages: {' '.join(missing)}", file=sys.stderr)
        return [[*PYTEST, "-n", str(PROCESSES)]]
    # Each process has services of its own.
    process = f"{PROCESSES}*popen//python={sys.executable} -m tests.services {sys.executable}"
    return [[*PYTEST, "--tx", process, *ON_SERVICES], [*PYTEST, "-n", str(PROCESSES), "--once"]]


def main(arguments: list[str]) -> int:
    try:
        return max(subprocess.call(command) for command in parts(arguments))
    except KeyboardInterrupt:
        return 130  # pytest has said what had failed until then


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
