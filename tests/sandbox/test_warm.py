"""What is read or imported once, and that it is dropped again."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np

from runner.jobs import DataSet, SplitJob
from runner.sandbox.data import DataSets, Held
from runner.sandbox.executor import Executor
from tests.runner.folds import descendants, state_of
from tests.sandbox.conftest import HONEST, LIMITS, Bench, wait_for


def test_the_packages_that_a_submission_imports_are_imported_once(bench: Bench) -> None:
    body = "import sys\nprint('pygments' in sys.modules)\n"
    assert bench.fit(body).output == "False\n"
    assert bench.fit(body + "import pygments").output == "True\n"
    assert bench.fit(body).output == "False\n"  # not in the memory of those that do not ask for it


def test_only_installed_packages_are_imported_by_the_zygote(bench: Bench) -> None:
    text = b"import os, sys\n  from pygments.token import X\nimport runner\nimport django\nimport nothing\nfrom . import helper\n"
    assert bench.executor._packages([b"", b"classifier.py", b"", text]) <= {"pygments", "django"}


def test_a_specific_is_imported_once(executor: Executor, folder: Path, custom: DataSet, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    train = "def train_submission(module_path, X, y, train_is):\n"
    code = (folder / "raw-custom/specific.py").read_text().replace(train, f"{train}    print(STAMP)\n")
    (raw / "specific.py").write_text(f"import time\nSTAMP = time.monotonic_ns()\n{code}")
    (raw / "flowers.csv").write_bytes((folder / "raw-custom/flowers.csv").read_bytes())
    assert executor.run_split(SplitJob(raw, tmp_path / "v", "stamped", "species", True)).failure is None
    bench = Bench(executor, DataSet(tmp_path / "v", "species", ("classifier",), True), tmp_path)
    bench.check_honest()
    [stamp, *others] = [bench.run(HONEST).output for _ in range(3)]
    assert int(stamp) > 0 and others == [stamp, stamp]


def test_the_least_recently_used_data_set_goes() -> None:
    data, read = DataSets(most=250), []

    def get(name: str) -> None:
        def make() -> Held:
            read.append(name)
            return Held(os.dup(0), np.zeros(1), (1, 1), size=100)

        data.get(Path(name), make)

    for name in ("a", "b", "a", "c", "a", "b"):
        get(name)
    assert read == ["a", "b", "c", "b"]
    assert data.folders() == {Path("a"), Path("b")}


def test_folds_are_right_when_no_data_set_can_be_kept(standard: DataSet, folder: Path, tmp_path: Path) -> None:
    executor = Executor(LIMITS, slots=1, cache=0)
    try:
        other = DataSet(tmp_path / "v", "species", ("classifier",), False)
        assert (
            executor.run_split(SplitJob(folder / "raw", other.folder, "flowers", "species", False, 0.4, 1)).failure
            is None
        )
        for number, data in enumerate((standard, other, standard, other)):
            place = tmp_path / str(number)
            place.mkdir()
            Bench(executor, data, place).check_honest()
    finally:
        executor.close()


def test_zygotes_end_with_a_supervisor_that_is_killed() -> None:
    code = "import sys, time\nfrom runner.jobs import Limits\nfrom runner.sandbox.executor import Executor\n"
    code += "e = Executor(Limits(), 1)\nprint('ready', flush=True)\ntime.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    family = descendants(process.pid)
    assert len(family) > 2
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()

    def alive() -> list[int]:
        return [pid for pid in family if state_of(pid) not in (None, "Z")]

    wait_for(lambda: not alive(), lambda: f"still there: {alive()}")
