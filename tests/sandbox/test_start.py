"""Starting and refusing to."""

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from runner.env import ConfigurationError
from runner.jobs import SOFT_LIMIT_TEXT, DataSet, Reason, SplitJob
from runner.sandbox import cgroups, launch, seccomp, selftest, start
from runner.sandbox.executor import Executor
from runner.sandbox.plain import NOTE
from tests.e2e.live import until
from tests.sandbox.conftest import HONEST, LIMITS, Bench


@pytest.mark.parametrize(("program", "package"), [("bwrap", "bubblewrap"), ("nsenter", "util-linux")])
def test_it_rejects_a_host_without_a_program(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, program: str, package: str
) -> None:
    for other in {"bwrap", "nsenter", "setpriv"} - {program}:
        (tmp_path / other).touch(0o755)
    monkeypatch.setattr(os, "defpath", str(tmp_path))
    words = f"namespaces.*{program} is not installed.*apt install {package}.*DATARUN_SANDBOX=off"
    with pytest.raises(selftest.Refusal, match=words):
        start.executor(LIMITS, 1)


def test_it_rejects_another_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(selftest.Refusal, match="run datarun on Linux.*DATARUN_SANDBOX=off"):
        start.executor(LIMITS, 1)


def test_it_rejects_a_host_without_libseccomp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyseccomp", None)
    with pytest.raises(selftest.Refusal, match="seccomp.*apt install libseccomp2; pip install pyseccomp"):
        start.executor(LIMITS, 1)


def test_it_rejects_a_kernel_without_user_namespaces(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As on a host that forbids them: bubblewrap says what the kernel said."""
    monkeypatch.setattr(
        launch,
        "parent_command",
        lambda *a: ["bwrap", "--ro-bind", "/", "/", "--unshare-user", "--uid", "0", "--", "bwrap", "--no-such"],
    )
    with pytest.raises(selftest.Refusal, match="bubblewrap did not start Python"):
        Executor(LIMITS, 1)


def test_a_zygote_that_is_killed_while_it_starts_is_no_reason_to_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "parent_command", lambda *a: ["sh", "-c", "kill -KILL $$"])
    with pytest.raises(launch.Interrupted, match="killed while it started"):
        Executor(LIMITS, 1)


def test_it_rejects_a_filter_that_lets_everything_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        seccomp, "compile_filter", lambda sampled: bytes([6, 0, 0, 0, 0, 0, 255, 127])
    )  # return SECCOMP_RET_ALLOW
    with pytest.raises(selftest.Refusal, match="seccomp"):
        Executor(LIMITS, 1)


def test_it_rejects_a_setting_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATARUN_SANDBOX", "0")
    with pytest.raises(ValueError, match="use on or off"):
        start.executor(LIMITS, 1)


@pytest.mark.parametrize("sandbox", ["on", "off"])
def test_a_fold_computes_with_the_variables_of_its_runner(
    sandbox: str, monkeypatch: pytest.MonkeyPatch, standard: DataSet, tmp_path: Path
) -> None:
    given = {"OPENBLAS_L2_SIZE": "512", "MKL_CBWR": "COMPATIBLE", "X_CHOSEN": "a b=c"}
    for name, value in {"DATARUN_SANDBOX": sandbox, "DATARUN_FOLD_VARIABLES": "X_CHOSEN", **given}.items():
        monkeypatch.setenv(name, value)
    executor = start.executor(LIMITS, 1)
    try:
        outcome = Bench(executor, standard, tmp_path).fit("import os, json\nprint(json.dumps(dict(os.environ)))")
        seen = json.loads(outcome.output)
    finally:
        executor.close()
    assert given.items() <= seen.items()
    assert "DATARUN_FOLD_VARIABLES" not in seen and "DATARUN_TEST_SECRET" not in seen


@pytest.mark.parametrize("sandbox", ["on", "off"])
def test_it_rejects_a_variable_that_is_the_same_in_every_fold(sandbox: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"DATARUN_SANDBOX": sandbox, "DATARUN_FOLD_VARIABLES": "OMP_NUM_THREADS"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    with pytest.raises(ConfigurationError, match="OMP_NUM_THREADS, which is '1' in every fold: leave it out"):
        start.executor(LIMITS, 1)


def test_sampling_where_no_cgroup_is_ours(monkeypatch: pytest.MonkeyPatch, standard: DataSet, tmp_path: Path) -> None:
    monkeypatch.setattr(cgroups, "best", cgroups.Sampling)
    executor = Executor(LIMITS, 1)
    try:
        bench = Bench(executor, standard, tmp_path)
        bench.check_honest()
        outcome = bench.run(HONEST)
        assert outcome.notes == [cgroups.Sampling.note]
        assert 500 < outcome.measures["train_memory"] < 100_000 and outcome.measures["train_cpu_time"] > 0
        outcome = bench.fit("import numpy, time\nb = numpy.ones(15 << 20)\nprint(b.nbytes)")
        assert 120_000 < outcome.measures["train_memory"] < 160_000
        outcome = bench.fit(
            "import os, time\nfor _ in range(8):\n    if os.fork() == 0:\n        b = bytearray(b'x' * (100 << 20)); time.sleep(60)\ntime.sleep(60)"
        )
        assert outcome.failure.reason is Reason.MEMORY_LIMIT
    finally:
        executor.close()


def test_slots_have_cpus_of_their_own_where_no_cgroup_shares_them_out(
    monkeypatch: pytest.MonkeyPatch, standard: DataSet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cgroups, "best", cgroups.Sampling)
    body = """
import json, os, time
before = os.sched_getaffinity(0)
os.sched_setaffinity(0, range(os.cpu_count()))
if os.fork() == 0: os._exit(os.sched_getaffinity(0) != before)
print(json.dumps([sorted(before), sorted(os.sched_getaffinity(0)), os.wait()[1], os.getsid(0)]))
time.sleep(2)
"""
    with caplog.at_level(logging.INFO):
        executor = Executor(LIMITS, 2)
    try:
        bench = Bench(executor, standard, tmp_path)
        with ThreadPoolExecutor(2) as pool:
            outcomes = list(pool.map(bench.fit, [body] * 2))
    finally:
        executor.close()
    assert "CPU by affinity" in caplog.text
    cpus = set[int]()
    for outcome in outcomes:
        before, after, status, _ = json.loads(outcome.output)
        assert before == after and status == 0 and before
        cpus |= {*before}
    everywhere = os.sched_getaffinity(0)
    assert cpus == everywhere if len(everywhere) > 1 else cpus <= everywhere


@pytest.mark.parametrize(
    ("slots", "cpus", "shares"),
    [
        (2, {0, 1}, [[0], [1]]),
        (2, {1, 3, 4}, [[1, 4], [3]]),
        (1, {0, 1}, [[0, 1]]),
        (3, {0, 1}, [[0], [1], [0]]),
    ],
)
def test_the_cpus_of_each_slot(
    monkeypatch: pytest.MonkeyPatch, slots: int, cpus: set[int], shares: list[list[int]]
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: cpus)
    assert cgroups.shares(slots) == shares


def test_it_rejects_a_host_with_few_descriptors() -> None:
    code = """
import os, resource
from runner.jobs import Limits
from runner.sandbox import kernel, selftest
resource.setrlimit(resource.RLIMIT_NOFILE, (512, 512))
if os.geteuid() == 0: kernel.drop_capabilities()  # it could raise the limit again
selftest.before_start(Limits(), 1, True)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(launch.__file__).parents[2]
    )
    assert "512 open files" in done.stderr and "LimitNOFILE= in a systemd unit" in done.stderr, done.stderr


def test_off_is_said_and_shown(
    monkeypatch: pytest.MonkeyPatch, standard: DataSet, custom: DataSet, tmp_path: Path, caplog
) -> None:
    monkeypatch.setenv("DATARUN_SANDBOX", "off")
    with caplog.at_level(logging.WARNING):
        executor = start.executor(LIMITS, 1)
    assert "WITHOUT isolation" in caplog.text
    for data in (standard, custom):
        bench = Bench(executor, data, tmp_path / data.folder.name)
        bench.folder.mkdir()
        bench.check_honest()
        assert NOTE in bench.run(HONEST).notes
    outcome = bench.fit("print('so far')\nimport time\ntime.sleep(60)")
    assert outcome.failure.reason is Reason.TIME_LIMIT and SOFT_LIMIT_TEXT in outcome.failure.message
    assert outcome.output == "so far\n"
    assert 'File "classifier.py", line 5, in fit' in bench.fit("raise ValueError").failure.message
    assert bench.fit("import os\nos._exit(3)").failure.reason is Reason.KILLED_ITSELF
    assert bench.fit("import numpy\nnumpy.ones(1 << 32)").failure.reason is Reason.MEMORY_LIMIT


def test_off_no_fold_outlives_a_supervisor_that_is_killed(
    monkeypatch: pytest.MonkeyPatch, standard: DataSet, tmp_path: Path
) -> None:
    monkeypatch.setenv("DATARUN_SANDBOX", "off")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    bench, note = Bench(start.executor(LIMITS, 1), standard, tmp_path), tmp_path / "note"
    if not (supervisor := os.fork()):
        try:
            bench.fit(f"import os, time\nopen({str(note)!r}, 'w').write(f'{{os.getpid()}}.')\ntime.sleep(600)")
        finally:
            os._exit(0)
    until(lambda: note.exists() and note.read_text().endswith("."), 60, "the fold runs")
    os.kill(supervisor, signal.SIGKILL)
    os.waitpid(supervisor, 0)
    until(lambda: not Path("/proc", note.read_text().strip(".")).exists(), 60, "the fold is gone")


def test_off_splits(monkeypatch: pytest.MonkeyPatch, standard: DataSet, folder: Path, tmp_path: Path) -> None:
    monkeypatch.setenv("DATARUN_SANDBOX", "off")
    executor = start.executor(LIMITS, 1)
    outcome = executor.run_split(SplitJob(folder / "raw", tmp_path / "v", "flowers", "species", False, 0.3, 42))
    assert outcome.rows == (105, 45)
    assert (tmp_path / "v/train.csv").read_text() == (standard.folder / "train.csv").read_text()
    outcome = executor.run_split(SplitJob(folder / "raw", tmp_path / "w", "flowers", "none", False, 0.3, 42))
    assert outcome.failure.reason is Reason.DATA and not (tmp_path / "w").exists()
