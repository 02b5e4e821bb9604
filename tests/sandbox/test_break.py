"""What a submission may not break: the runner, the next fold, the machine."""

import resource
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from runner.jobs import HARD_LIMIT_TEXT, SOFT_LIMIT_TEXT, Outcome, Reason
from runner.sandbox.executor import Executor
from tests.sandbox.conftest import LIMITS, SLOWNESS, Bench

pytestmark = pytest.mark.usefixtures("clean")


@pytest.fixture
def patient(bench: Bench) -> Iterator[Bench]:
    """For what takes its time: no limit of time comes first."""
    executor = Executor(replace(LIMITS, soft_time=60 * SLOWNESS, hard_time=70 * SLOWNESS), slots=1)
    yield replace(bench, executor=executor)
    executor.close()


def test_a_fork_bomb(bench: Bench) -> None:
    outcome = bench.fit("import os\nwhile True: os.fork()")
    assert outcome.failure.reason in (Reason.USER_CODE, Reason.TIME_LIMIT)


IN_FLIGHT = """
import os, socket, time
kept = []
def fill():
    try:
        while True:
            kept.extend(socket.socketpair())
            socket.send_fds(kept[-1], [b"x"], [0] * 253)
    except OSError as error: return error.errno
for _ in range(16):
    if os.fork() == 0:
        fill()
        time.sleep(600)
while fill() != 109: time.sleep(0.1)  # ETOOMANYREFS
print("full", flush=True)
time.sleep(600)
"""


def test_descriptors_in_flight_stop_no_other_fold(bench: Bench) -> None:
    """The kernel counts those of all processes of a user, and compares them with the sender's limit."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, before[1]))  # as systemd and shells have it
    two = Executor(LIMITS, slots=2)
    try:
        busy = replace(bench, executor=two)
        attacks: list[Outcome] = []
        thread = threading.Thread(target=lambda: attacks.append(busy.fit(IN_FLIGHT)))
        thread.start()
        while not attacks:
            busy.check_honest()
        thread.join()
    finally:
        two.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert attacks[0].output == "full\n" and attacks[0].failure.reason is Reason.TIME_LIMIT


def test_as_many_threads_as_it_wants(bench: Bench) -> None:
    outcome = bench.fit(
        "import threading, time\nfor _ in range(1000): threading.Thread(target=time.sleep, args=(9,), daemon=True).start()"
    )
    assert outcome.failure.reason is Reason.USER_CODE
    assert "can't start new thread" in outcome.failure.message


def test_more_memory_than_it_may(bench: Bench) -> None:
    outcome = bench.fit("import numpy\nnumpy.ones(30 << 27)")
    assert outcome.failure.reason is Reason.MEMORY_LIMIT
    assert 'File "classifier.py"' in outcome.failure.message


def test_memory_over_many_processes(bench: Bench) -> None:
    outcome = bench.fit(
        "import os, time\nfor _ in range(8):\n    if os.fork() == 0:\n        b = bytearray(b'x' * (100 << 20)); time.sleep(60)\ntime.sleep(60)"
    )
    assert outcome.failure.reason in (Reason.MEMORY_LIMIT, Reason.TIME_LIMIT)


def test_memory_in_files(bench: Bench) -> None:
    outcome = bench.fit("for n in range(99):\n    open(f'/dev/shm/{n}', 'wb').write(b'x' * (10 << 20))")
    assert outcome.failure.reason is Reason.SCRATCH_SPACE


def test_memory_that_no_file_system_bounds(bench: Bench) -> None:
    outcome = bench.fit("import os\nos.memfd_create('more')")
    assert outcome.failure.reason is Reason.USER_CODE and "not implemented" in outcome.failure.message


def test_a_full_disk(bench: Bench) -> None:
    outcome = bench.fit("f = open('/tmp/big', 'wb')\nwhile True: f.write(b'x' * (1 << 20))")
    assert outcome.failure.reason is Reason.SCRATCH_SPACE
    assert 'File "classifier.py"' in outcome.failure.message


def test_all_inodes(bench: Bench) -> None:
    outcome = bench.fit("n = 0\nwhile True:\n    open(f'/tmp/{n}', 'w').close()\n    n += 1")
    assert outcome.failure.reason is Reason.SCRATCH_SPACE


@pytest.mark.parametrize(
    "place", ["/usr/x", "/submission/x", "/code/runner/x", "/x", "/data/x", "/proc/sys/kernel/core_pattern"]
)
def test_writing_elsewhere(bench: Bench, place: str) -> None:
    outcome = bench.fit(f"open({place!r}, 'w')")
    assert outcome.failure.reason is Reason.USER_CODE


def test_endless_output(patient: Bench) -> None:
    outcome = patient.fit("import os\nwhile True: os.write(1, b'x' * 65536)")
    assert outcome.failure.reason is Reason.OUTPUT
    assert outcome.output.count("x") == 64 << 10 and "left out" in outcome.output


def test_long_output_loses_its_middle(bench: Bench) -> None:
    outcome = bench.fit("print('y' * (10 << 20) + 'the end')")
    assert outcome.failure is None and outcome.output.endswith("yythe end\n")
    left_out = (10 << 20) + len("the end\n") - (64 << 10)
    assert f"y\n[... {left_out:,} bytes of output left out ...]\ny" in outcome.output


def test_sleeping_past_the_soft_limit(bench: Bench) -> None:
    outcome = bench.fit("import time\ntime.sleep(60)")
    assert outcome.failure.reason is Reason.TIME_LIMIT
    assert (
        SOFT_LIMIT_TEXT in outcome.failure.message and 'File "classifier.py", line 6, in fit' in outcome.failure.message
    )


def test_swallowing_the_soft_limit(bench: Bench) -> None:
    outcome = bench.fit("import time\nwhile True:\n    try: time.sleep(60)\n    except BaseException: pass")
    assert outcome.failure.reason is Reason.TIME_LIMIT and HARD_LIMIT_TEXT in outcome.failure.message


def test_a_result_after_the_soft_limit(bench: Bench) -> None:
    outcome = bench.fit("import time\ntry: time.sleep(60)\nexcept BaseException: pass")
    assert outcome.failure.reason is Reason.TIME_LIMIT and SOFT_LIMIT_TEXT in outcome.failure.message


def test_deafness_to_signals(bench: Bench) -> None:
    start = time.monotonic()
    outcome = bench.fit(
        "import signal, time\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\nwhile True: time.sleep(1)"
    )
    assert outcome.failure.reason is Reason.TIME_LIMIT and HARD_LIMIT_TEXT in outcome.failure.message
    assert LIMITS.hard_time <= time.monotonic() - start < 60 * SLOWNESS  # it would never end


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("import os\nos._exit(3)", "exit code 3"),
        ("import os\nos._exit(0)", "exit code 0"),
        ("import ctypes\nctypes.string_at(0)", "SIGSEGV"),
        ("import os\nos.abort()", "SIG"),
        ("import os\nos.execv('/usr/bin/true', ['true'])", "exit code 0"),
    ],
)
def test_ending_itself(bench: Bench, body: str, says: str) -> None:
    outcome = bench.fit(body)
    assert outcome.failure.reason is Reason.KILLED_ITSELF and says in outcome.failure.message, outcome.failure


def test_sys_exit_is_an_error_like_others(bench: Bench) -> None:
    outcome = bench.fit("import sys\nsys.exit(0)")
    assert outcome.failure.reason is Reason.USER_CODE and outcome.failure.message.endswith("SystemExit: 0")


def test_stopping_itself(bench: Bench) -> None:
    outcome = bench.fit("import os, signal\nif os.fork(): os.kill(-1, signal.SIGSTOP)\nimport time\ntime.sleep(60)")
    assert outcome.failure.reason is Reason.TIME_LIMIT


def test_killing_everything(bench: Bench) -> None:
    outcome = bench.fit(
        "import os\nfor pid in (0, -1, 1, 2, 3, os.getppid()):\n    try: os.kill(pid, 9)\n    except OSError: pass"
    )
    assert outcome.failure is None, outcome.failure  # process 1 of its namespace is deaf to its own


def test_processes_left_behind(bench: Bench) -> None:
    outcome = bench.fit(
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        while True: time.sleep(1)\n    os._exit(0)\nos.wait()"
    )
    assert outcome.failure is None


def test_a_fork_that_returns_from_fit(bench: Bench) -> None:
    outcome = bench.fit("import os\nos.fork()")
    assert outcome.state in ("TESTED", "TODO", "TRAINED", "VALIDATED")
    assert outcome.failure is None or outcome.failure.reason is Reason.USER_CODE


@pytest.mark.parametrize(
    "call",
    [
        "libc.ptrace(16, 2, 0, 0)",
        "libc.unshare(0x10000000)",
        "libc.unshare(0x00020000)",
        "libc.mount(b'x', b'/tmp', b'tmpfs', 0, 0)",
        "libc.umount2(b'/data', 2)",
        "libc.setns(0, 0)",
        "libc.syscall(56, 0x10000011, 0, 0, 0, 0)",
        "libc.syscall(425, 1, 0)",
        "libc.syscall(321, 0, 0, 0)",
        "libc.setuid(0)",
        "libc.process_vm_readv(2, 0, 0, 0, 0, 0)",
        "libc.prctl(24, 0)",
        "libc.chroot(b'/tmp')",
        "libc.keyctl(0, 0)",
        "libc.shmget(0, 4096, 0o1666)",
        "libc.userfaultfd(0)",
    ],
)
def test_calls_of_the_system(bench: Bench, call: str) -> None:
    assert (
        bench.fit(
            f"import ctypes\nlibc = ctypes.CDLL(None)\nlibc.syscall.restype = ctypes.c_long\ntry: print({call})\nexcept AttributeError: print(-1)"
        ).output.strip()
        == "-1"
    )


def test_raising_its_own_limits(bench: Bench) -> None:
    outcome = bench.fit(
        "import resource as r\nfor limit in (r.RLIMIT_AS, r.RLIMIT_NPROC, r.RLIMIT_CORE):\n    try: r.setrlimit(limit, (r.RLIM_INFINITY, r.RLIM_INFINITY)); print('raised')\n    except (OSError, ValueError): print('refused')"
    )
    assert outcome.output.split() == ["refused"] * 3


@pytest.mark.parametrize(
    "body", ["raise ValueError('z' * (50 << 20))", "raise ValueError('\\ud800\\0\U0001f600' * 100_000)"]
)
def test_a_long_message(bench: Bench, body: str) -> None:
    outcome = bench.fit(body)
    assert outcome.failure.reason is Reason.USER_CODE and "ValueError" in outcome.failure.message
    assert len(outcome.failure.message) < 1 << 16


def test_an_exception_whose_text_raises(bench: Bench) -> None:
    outcome = bench.fit("class E(Exception):\n    def __str__(self): raise KeyError\nraise E")
    assert outcome.failure.reason is Reason.USER_CODE and 'File "classifier.py"' in outcome.failure.message


def test_endless_recursion(bench: Bench) -> None:
    outcome = bench.fit("def down(): down()\ndown()")
    assert outcome.failure.reason is Reason.USER_CODE and "RecursionError" in outcome.failure.message


def test_closing_all_descriptors(bench: Bench) -> None:
    outcome = bench.fit("import os\nos.closerange(0, 1000)")
    assert outcome.failure.reason is Reason.KILLED_ITSELF


def test_an_import_that_never_ends(bench: Bench) -> None:
    outcome = bench.run("while True: pass")
    assert outcome.failure.reason is Reason.TIME_LIMIT and outcome.failure.stage == "train"
