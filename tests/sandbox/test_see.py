"""What a submission may not see."""

import json
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from runner.jobs import FoldJob
from runner.sandbox.executor import Executor
from tests.sandbox.conftest import LIMITS, SECRET, SLOWNESS, Bench, with_body

pytestmark = pytest.mark.usefixtures("clean")


def test_the_environment(bench: Bench) -> None:
    outcome = bench.fit("import os\nprint(dict(os.environ), open('/proc/self/environ').read())")
    assert outcome.failure is None and "OMP_NUM_THREADS" in outcome.output
    assert SECRET not in outcome.output and "SECRET" not in outcome.output


def test_the_files_of_the_host(bench: Bench) -> None:
    here = Path(__file__).resolve()
    hidden = [str(path) for path in (here, here.parents[2] / "pyproject.toml", bench.folder, bench.data.folder)]
    hidden += [
        "/etc/shadow",
        "/etc/passwd",
        "/root/.ssh",
        "/home",
        "/var",
        "/sys",
        "/run",
        str(here.parents[2] / "app/datarun"),
    ]
    outcome = bench.fit(f"import os, json\nprint(json.dumps([p for p in {hidden!r} if os.path.exists(p)]))")
    assert json.loads(outcome.output) == []


def test_its_data_set_as_files(bench: Bench) -> None:
    outcome = bench.fit(
        "import os\nfor top, folders, files in os.walk('/'):\n"
        "    folders[:] = [f for f in folders if f not in ('proc', 'usr', 'site-packages')]\n"
        "    for f in files:\n        if f.endswith('.csv') and 'datasets' not in top: print(os.path.join(top, f))\n"
        "print('walked', os.listdir('/data'))"
    )
    assert outcome.output == "walked []\n"


def test_other_processes(bench: Bench) -> None:
    outcome = bench.fit("import os\nprint([p for p in os.listdir('/proc') if p.isdecimal()], os.getppid())")
    assert outcome.output == "['1'] 0\n"


def test_what_another_fold_left(bench: Bench) -> None:
    write = "for p in ('/tmp', '/dev/shm'): open(p + '/left', 'w').write('here')"
    assert bench.fit(write).failure is None
    outcome = bench.fit("import os\nprint(os.listdir('/tmp'), os.listdir('/dev/shm'), os.listdir('/submission'))")
    assert "left" not in outcome.output and outcome.output.count("submission_") == 1


@pytest.fixture
def listener(tmp_path: Path):
    """Servers of the host: TCP, abstract, by path."""
    servers = [socket.socket(), socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)]
    servers[0].bind(("127.0.0.1", 0))
    servers[1].bind("\0datarun-test")
    path = tmp_path / "s"
    servers[2].bind(str(path))
    for server in servers:
        server.listen()
    yield [servers[0].getsockname(), "\0datarun-test", str(path)]
    for server in servers:
        server.close()


def test_the_network_and_the_sockets_of_the_host(bench: Bench, listener: list) -> None:
    outcome = bench.fit(f"""
import socket, json
reached = []
for address in {listener!r}:
    for kind in (socket.AF_UNIX,) if isinstance(address, str) else (socket.AF_INET,):
        try:
            socket.socket(kind).connect(tuple(address) if isinstance(address, list) else address)
            reached.append(address)
        except OSError as error:
            print(type(error).__name__, error.errno)
for family in (socket.AF_INET6, socket.AF_NETLINK, socket.AF_PACKET, 40):
    try:
        socket.socket(family, socket.SOCK_RAW if family != 40 else socket.SOCK_STREAM)
        reached.append(family)
    except OSError:
        pass
print(json.dumps(reached))
""")
    assert outcome.output.splitlines()[-1] == "[]", outcome


def test_the_channel_and_memory_of_the_runner(bench: Bench) -> None:
    """Open descriptors: its output, the word channel, its labels, its predictions."""
    outcome = bench.fit(
        "import os\nfor fd in range(2000):\n    try: print(fd, os.readlink(f'/proc/self/fd/{fd}').split(':')[0].split(' ')[0])\n    except OSError: pass"
    )
    names = sorted(line.split()[1] for line in outcome.output.splitlines())
    assert names == ["/dev/null", "/memfd", "/memfd", "pipe", "pipe", "socket"]


def test_another_fold_at_the_same_time(bench: Bench) -> None:
    executor = Executor(replace(LIMITS, soft_time=60 * SLOWNESS, hard_time=70 * SLOWNESS), slots=2)
    moment = time.monotonic() + 8 * SLOWNESS  # to begin, before both look
    body = f"""
import time, os
began = time.monotonic()
open('/tmp/mine', 'x')
open('/dev/shm/mine', 'x')
time.sleep(max({moment} - began, 0))
print(began, [p for p in os.listdir('/proc') if p.isdecimal()])
"""
    outcomes = []

    def run() -> None:
        outcomes.append(executor.run_fold(job, lambda *_: None))

    job = FoldJob(bench.data, bench.submit(with_body(body)), np.arange(40))
    threads = [threading.Thread(target=run) for _ in range(2)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        executor.close()
    assert [outcome.failure for outcome in outcomes] == [None, None]
    for outcome in outcomes:
        began, processes = outcome.output.split()
        assert processes == "['1']" and float(began) < moment
