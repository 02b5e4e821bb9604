"""`make flaky`: the suite again and again, in random order, beside a busy loop on every core; then what failed.

`python -m tests.flaky RUNS [ARGUMENTS OF PYTEST]`. Ctrl-C ends it; the table is shown all the same.
"""

import os
import random
import re
import shlex
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from tests import suite

FAILED = re.compile(r"(?:FAILED|ERROR) (\S+\.py\b.*?)(?: - .*)?\n")


@contextmanager
def busy_cores() -> Iterator[None]:
    """A loop on every core; they end with this process, also if it is killed."""
    command = ["setpriv", "--pdeathsig=KILL", "sh", "-c", "while :; do :; done"]
    loops = [subprocess.Popen(command) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def run(command: list[str]) -> Iterator[str]:
    """The tests that fail, and those too that pytest names when Ctrl-C has ended it."""
    command = ["env", "--default-signal=INT", "setpriv", "--pdeathsig=INT", *command]  # ignored in the background
    interrupted = False
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while True:
            try:
                line = process.stdout.readline()
            except KeyboardInterrupt:
                interrupted = True
                continue
            if not line:
                break
            print(line, end="", flush=True)
            if match := FAILED.fullmatch(line):
                yield match[1]
    if interrupted:
        raise KeyboardInterrupt
    if process.returncode not in (0, 1):
        yield f"pytest itself ({process.returncode})"


def main(runs: int, arguments: list[str]) -> int:
    seeds: defaultdict[str, list[int]] = defaultdict(list)
    again: dict[str, str] = {}
    done = 0
    try:
        with busy_cores():
            for done in range(1, runs + 1):
                seed = random.randrange(1_000_000)
                print(f"\n== run {done} of {runs}, seed {seed}", flush=True)
                for command in suite.parts(arguments):
                    command += ["--random-order", f"--random-order-seed={seed}"]
                    for test in run(command):
                        seeds[test].append(seed)
                        again[test] = shlex.join(command)
    except KeyboardInterrupt:
        print(f"\n== interrupted in run {done}")
    print(f"\n== {len(seeds)} tests failed in {done} runs")
    for test, those in sorted(seeds.items(), key=lambda item: -len(item[1])):
        print(f"{len(those):3} times  {test}\n           seeds {' '.join(map(str, those))}; again: {again[test]}")
    return 1 if seeds else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
