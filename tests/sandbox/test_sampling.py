"""Memory where no cgroup counts it: nothing that a fold may do hides what it has, and what it shares counts once."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from runner.jobs import Reason
from runner.sandbox import cgroups
from runner.sandbox.executor import Executor
from tests.sandbox.conftest import LIMITS, SLOWNESS, Bench

GROW = """
def grow(size=100 << 20):
    block = bytearray(size)
    for place in range(0, size, 4096): block[place] = 1
    time.sleep(600)
def children(count, work):
    for _ in range(count):
        if os.fork() == 0:
            try: work()
            finally: os._exit(1)
    time.sleep(600)
import ctypes, mmap, os, socket, stat, subprocess, sys, threading, time
libc = ctypes.CDLL(None)
"""
HIDDEN = {
    "processes that are small each": "children(8, lambda: grow(60 << 20))",
    "processes that nobody may look into": "libc.prctl(4, 0, 0, 0, 0)\nchildren(4, grow)",
    "programs that nobody may read": """
import shutil
program = shutil.copy(os.path.realpath(sys.executable), "/tmp/program")
os.chmod(program, 0o111)
code = "import time; b = bytearray(90 << 20); b[::4096] = bytes(len(b[::4096])); time.sleep(600)"
environment = {"PYTHONHOME": sys.base_prefix, "LD_LIBRARY_PATH": sys.base_prefix + "/lib"}
for _ in range(4): subprocess.Popen([program, "-S", "-c", code], env=environment)
time.sleep(600)
""",
    "processes whose parents have ended": """
for _ in range(4):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0: grow()
        os._exit(0)
time.sleep(600)
""",
    "processes whose first thread has ended": """
def work():
    threading.Thread(target=grow).start()
    libc.syscall({"x86_64": 60, "aarch64": 93}[os.uname().machine], 0)
children(4, work)
""",
    "what was sent into sockets whose other end is closed": """
def work():
    kept = []
    for _ in range(300):
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        try:
            while True: ours.send(b"x")
        except BlockingIOError: pass
        ours.close()
        kept.append(theirs)
    time.sleep(600)
children(5, work)
""",
    "predictions that are not mapped": """
(fd,) = [int(fd) for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")
         and "predictions" in os.readlink(f"/proc/self/fd/{fd}")]
size = min(os.fstat(fd).st_size, 150 << 20)
for place in range(0, size, 1 << 20):
    with mmap.mmap(fd, min(1 << 20, size - place), offset=place) as block: block[::4096] = bytes(len(block[::4096]))
children(2, lambda: grow((330 << 20) - size >> 1))
""",
    "files in memory": """
for place in ("/tmp", "/dev/shm"):
    with open(place + "/file", "wb") as file: file.write(bytes(30 << 20))
    os.unlink(place + "/file") if place == "/dev/shm" and os.open(place + "/file", os.O_RDONLY) else None
grow(215 << 20)
""",
}


@pytest.fixture(scope="module")
def executor_that_samples() -> Iterator[Executor]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cgroups, "best", cgroups.Sampling)
        executor = Executor(replace(LIMITS, soft_time=60 * SLOWNESS, hard_time=70 * SLOWNESS), slots=1)
    yield executor
    executor.close()


@pytest.fixture
def sampled(bench: Bench, executor_that_samples: Executor) -> Iterator[Bench]:
    bench = replace(bench, executor=executor_that_samples)
    yield bench
    bench.check_honest()


@pytest.mark.parametrize("how", HIDDEN)
def test_memory_is_not_hidden_in(sampled: Bench, how: str) -> None:
    outcome = sampled.fit(GROW + HIDDEN[how])
    assert outcome.failure is not None and outcome.failure.reason is Reason.MEMORY_LIMIT, outcome
    assert outcome.measures["train_memory"] > 256 << 10


@pytest.mark.parametrize(
    "call",
    [
        "mmap.mmap(-1, 1 << 20)",
        "mmap.mmap(os.open('/dev/zero', os.O_RDWR), 1 << 20)",
        "socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)",
        "os.splice(*os.pipe(), 1)",
        "os.sendfile(1, os.open('/usr/bin/env', os.O_RDONLY), 0, 1)",
    ],
)
def test_memory_that_can_not_be_counted_is_refused(sampled: Bench, call: str) -> None:
    outcome = sampled.fit(f"import mmap, os, socket\ntry: {call}; print('done')\nexcept OSError: print('refused')")
    assert outcome.output == "refused\n"


def test_what_processes_share_counts_once(sampled: Bench) -> None:
    body = """
import numpy, os, subprocess, time
from multiprocessing import shared_memory
block = numpy.ones(15 << 20)
shared = shared_memory.SharedMemory(create=True, size=30 << 20)
shared.buf[:] = bytes(len(shared.buf))
children = []
for _ in range(4):
    ours, theirs = os.pipe()
    if os.fork() == 0:
        print(block.sum(), len(bytes(shared.buf)))
        os.read(ours, 1)
        os._exit(0)
    children.append(theirs)
for _ in range(100): subprocess.run(["/usr/bin/true"])  # for a moment, each has the memory of this process
"""
    outcome = sampled.fit(body)
    assert outcome.failure is None, outcome.failure
    assert 150_000 < outcome.measures["train_memory"] <= 256 << 10


def test_copies_of_files_need_no_calls_that_are_refused(sampled: Bench) -> None:
    body = "import shutil\nprint(shutil.copyfile('/usr/bin/env', '/tmp/env'), open('/tmp/env', 'rb').read(4))"
    assert sampled.fit(body).output == "/tmp/env b'\\x7fELF'\n"
