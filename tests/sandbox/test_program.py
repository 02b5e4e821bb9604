"""What a submission finds that any Python program finds: its arguments, its files as modules, processes, copies."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from runner.jobs import DataSet, Limits, Reason, SplitJob
from runner.sandbox import start
from tests.sandbox.conftest import LIMITS, SLOWNESS, Bench, flowers, with_body

LONG = replace(LIMITS, soft_time=60 * SLOWNESS, hard_time=80 * SLOWNESS, memory=512 << 20)


def executors(mode: str, limits: Limits = LONG) -> Iterator[start.AnyExecutor]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATARUN_SANDBOX", mode)
        executor = start.executor(limits, 1)
    yield executor
    executor.close()


@pytest.fixture(scope="module", params=["on", "off"])
def either(request: pytest.FixtureRequest) -> Iterator[start.AnyExecutor]:
    """With isolation and without it."""
    yield from executors(request.param)


@pytest.fixture(scope="module")
def patient() -> Iterator[start.AnyExecutor]:
    yield from executors("on")


@pytest.fixture
def program(either: start.AnyExecutor, standard: DataSet, tmp_path: Path) -> Bench:
    return Bench(either, standard, tmp_path)


@pytest.fixture
def confined(patient: start.AnyExecutor, standard: DataSet, tmp_path: Path) -> Bench:
    return Bench(patient, standard, tmp_path)


def said(bench: Bench, body: str, **files: str) -> str:
    outcome = bench.run(with_body(body), 40, **files)
    assert outcome.failure is None, outcome.failure
    return outcome.output.strip()


# Its start


def test_it_has_no_arguments(program: Bench) -> None:
    body = "import argparse, json, sys\nprint(json.dumps([sys.argv, len(sys.orig_argv)]))\n"
    body += "argparse.ArgumentParser().parse_args()"
    [name], originals = json.loads(said(program, body))
    assert name.startswith("submission_") and "/" not in name
    assert originals == 1


def test_a_specific_has_no_arguments(either: start.AnyExecutor, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "specific.py").write_text("import sys\nraise ValueError(repr((sys.argv, len(sys.orig_argv))))\n")
    outcome = either.run_split(SplitJob(raw, tmp_path / "v", "d", "y", True))
    assert "(['specific.py'], 1)" in outcome.failure.message


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_it_sets_the_start_method(program: Bench, method: str) -> None:
    body = f"import multiprocessing as mp\nmp.set_start_method({method!r})\n"
    body += "with mp.Pool(2) as pool: print(pool.map(helper.half, [2, 4]), mp.get_start_method())"
    code = "import helper\n" + with_body(body)
    outcome = program.run(code, helper="def half(number): return number // 2")
    assert outcome.failure is None, outcome.failure
    assert outcome.output.strip() == f"[1, 2] {method}"


def test_the_zygotes_have_one_thread(confined: Bench) -> None:
    """Whatever was imported ahead: a fork of a process with threads may hang."""
    assert said(confined, "import os\nprint(os.listdir('/proc/self/task'))") == "['1']"


def test_what_models_import_late_is_there(confined: Bench) -> None:
    """A fold imports no module of these packages for the usual kinds of models."""
    body = """
import sys
before = set(sys.modules)
import numpy as np, pandas as pd
from sklearn import calibration, ensemble, feature_selection, impute, linear_model, naive_bayes, neighbors, svm
from sklearn.compose import make_column_transformer
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.metrics import f1_score, log_loss, roc_auc_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
import warnings
warnings.simplefilter("ignore")
A = np.arange(80.0).reshape(40, 2) % 7
frame, labels = pd.DataFrame(A, columns=["a", "b"]), np.array(["x", "y"] * 20)
for model in (ensemble.RandomForestClassifier(2), ensemble.ExtraTreesClassifier(2), linear_model.LogisticRegression(),
              ensemble.GradientBoostingClassifier(n_estimators=2), ensemble.HistGradientBoostingClassifier(max_iter=2),
              naive_bayes.GaussianNB(), neighbors.KNeighborsClassifier(), svm.SVC(), MLPClassifier(max_iter=2),
              calibration.CalibratedClassifierCV(svm.LinearSVC(), cv=2), linear_model.SGDClassifier(),
              make_pipeline(StandardScaler(), linear_model.LogisticRegression())):
    model.fit(frame, labels).predict(frame)
ensemble.HistGradientBoostingRegressor(max_iter=2).fit(A, A[:, 0]).predict(A)
ensemble.RandomForestRegressor(2).fit(frame, A[:, 0]).predict(frame)
frame["kind"] = labels
columns = make_column_transformer((impute.SimpleImputer(), ["a"]), (OneHotEncoder(), ["kind"]))
make_pipeline(columns, linear_model.Ridge()).fit(frame, A[:, 0]).predict(frame)
feature_selection.SelectKBest(k=1).fit_transform(A, labels)
TfidfVectorizer().fit_transform(["some words", "more words"])
cross_val_score(linear_model.LogisticRegression(), A, labels)
GridSearchCV(linear_model.Ridge(), {"alpha": [1, 2]}).fit(A, A[:, 0])
f1_score(labels, labels, average="macro"); roc_auc_score(labels == "x", A[:, 0]); log_loss(labels == "x", A[:, 0] / 7)
frame.groupby("kind").mean()
import os
print(sorted(set(sys.modules) - before), len(os.listdir("/proc/self/task")))
"""
    assert said(confined, body) == "[] 1"


# Its files


FILES = {
    "helper": "from other import TWO\nclass Part:\n    pass\ndef make(number):\n    return Part(), number * TWO",
    "other": "TWO = 2",
}


@pytest.mark.parametrize("kind", ["standard", "custom"])
def test_a_file_is_one_module_under_both_names(
    either: start.AnyExecutor, kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    data = request.getfixturevalue(kind)
    body = """
import helper, pickle, importlib, other as absolute
from . import helper as relative, other
from .helper import Part
assert helper is relative and absolute is other and importlib.import_module("helper") is helper
assert helper.__spec__.name == helper.__name__
assert type(pickle.loads(pickle.dumps(helper.Part()))) is Part
assert importlib.reload(helper) is relative
print("imported once")
"""
    count = "print('counted')\n"
    outcome = Bench(either, data, tmp_path).run(with_body(body), helper=FILES["helper"], other=count + FILES["other"])
    assert outcome.failure is None, outcome.failure
    assert outcome.output.splitlines() == ["counted", "imported once"]


def test_a_file_is_found_as_any_module_is(program: Bench) -> None:
    body = """
import importlib.util, pkgutil
print(importlib.util.find_spec("other").origin == __file__.replace("classifier.py", "other.py"))
print(pkgutil.get_data("other", "other.py").decode())
"""
    assert said(program, body, **FILES) == "True\nTWO = 2"


def test_elements_import_each_other(program: Bench) -> None:
    program.data = replace(program.data, workflow_elements=("feature_extractor", "classifier"))
    extractor = """
import numpy as np
SHIFT = 3
class FeatureExtractor:
    def fit(self, X, y): pass
    def transform(self, X): return X.to_numpy()
"""
    code = "from feature_extractor import SHIFT, FeatureExtractor\nfrom .feature_extractor import FeatureExtractor as Same\n"
    code += with_body("print(SHIFT, FeatureExtractor is Same)")
    outcome = program.run(code, feature_extractor=extractor)
    assert (outcome.failure, outcome.output) == (None, "3 True\n")


def test_files_import_each_other_in_a_circle(program: Bench) -> None:
    files = {
        "first": "import second\nONE = 1\ndef both(): return ONE + second.TWO",
        "second": "import first\nTWO = 2\ndef both(): return TWO + first.ONE",
    }
    assert said(program, "import first, second\nprint(first.both(), second.both())", **files) == "3 3"


def test_a_file_breaks_no_import_of_others(program: Bench) -> None:
    """Modules of Python and of installed packages come first; the file is reached with a dot."""
    names = ("random", "types", "numpy", "sklearn", "joblib", "runner", "workflow", "json", "tempfile", "mailbox")
    body = "import random, types, numpy, sklearn.svm, joblib, runner, json, tempfile, mailbox\n"
    body += "import importlib\n"
    body += f"own = [importlib.import_module('.' + name, __package__).MINE for name in {names!r}]\n"
    body += "print(len(own), random.random() < 1, types.ModuleType, numpy.ones(1)[0], mailbox.Maildir)"
    files = dict.fromkeys(names, "MINE = 1")
    assert said(program, body, **files) == f"{len(names)} True <class 'module'> 1.0 <class 'mailbox.Maildir'>"


@pytest.mark.parametrize("name", ["data", "tmp", "code_", "usr", "submission", "options", "labels"])
def test_a_file_may_be_called_like_a_folder(program: Bench, name: str) -> None:
    assert said(program, f"from {name} import VALUE\nprint(VALUE)", **{name: "VALUE = 5"}) == "5"


def test_an_init_file_of_its_own_is_run(program: Bench) -> None:
    files = {"__init__": "from helper import TWO\nFOUR = 2 * TWO", "helper": "TWO = 2"}
    assert said(program, "from . import FOUR\nimport helper\nprint(FOUR, helper.TWO)", **files) == "4 2"


@pytest.mark.parametrize("init", [{}, {"__init__": "MINE = 1"}], ids=["", "with an __init__.py"])
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver", "loky", "multiprocessing", "threading"])
def test_other_processes_find_the_files(program: Bench, method: str, init: dict[str, str]) -> None:
    pool = f"""
from concurrent.futures import ProcessPoolExecutor
import multiprocessing
with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context({method!r})) as pool:
    made = list(pool.map(helper.make, range(3)))
"""
    if method in ("loky", "multiprocessing", "threading"):
        pool = f"""
import os
from joblib import Parallel, delayed
from joblib.externals.loky import get_reusable_executor
made = Parallel(n_jobs=2, backend={method!r}, temp_folder=os.getcwd())(delayed(helper.make)(number) for number in range(3))
get_reusable_executor().shutdown()  # where nothing isolates it, its semaphores would be left
"""
    body = f"{pool}\nprint([(type(part) is Part, number) for part, number in made])"
    outcome = program.run("import helper\nfrom .helper import Part\n" + with_body(body), 40, **FILES | init)
    assert outcome.failure is None, outcome.failure
    assert "[(True, 0), (True, 2), (True, 4)]\n" in outcome.output  # loky's processes may warn as they end


# Its processes


PROCESSES = {
    "a manager": """
with mp.Manager() as manager:
    held, queue = manager.dict(a=1), manager.Queue()
    with manager.Lock(): queue.put(2)
    print(held["a"], queue.get(), list(manager.list([3])))
""",
    "a connection through a queue": """
def give(queue, done):
    ours, theirs = mp.Pipe()
    queue.put(theirs)
    ours.send(5)
    done.wait()
queue, done = fork.Queue(), fork.Event()
process = fork.Process(target=give, args=(queue, done)); process.start()
print(queue.get().recv())
done.set(); process.join()
""",
    "workers that pass arrays and descriptors": """
from multiprocessing import reduction
def work(number, queue, done):
    descriptor = os.open(f"/tmp/worker-{number}", os.O_CREAT | os.O_RDWR)
    os.write(descriptor, b"%d" % number)
    queue.put((number, reduction.DupFd(descriptor), numpy.ones(100_000)))
    done.wait()
queue, done = fork.Queue(), fork.Event()
workers = [fork.Process(target=work, args=(number, queue, done)) for number in range(2)]
for worker in workers: worker.start()
got = sorted((queue.get() for _ in workers), key=lambda item: item[0])
print([(number, os.pread(sent.detach(), 9, 0), array.sum()) for number, sent, array in got])
done.set()
for worker in workers: worker.join()
""",
    "shared memory": """
from multiprocessing import shared_memory
block = shared_memory.SharedMemory(create=True, size=80)
def fill():
    other = shared_memory.SharedMemory(block.name)
    numpy.ndarray(10, buffer=other.buf)[:] = 3
    other.close()
process = fork.Process(target=fill); process.start(); process.join()
print(numpy.ndarray(10, buffer=block.buf).sum()); block.close(); block.unlink()
""",
    "locks and values": """
with fork.Lock(), fork.RLock(), fork.Semaphore(2), fork.Condition(): pass
fork.Barrier(1).wait()
print(fork.Value("i", 3).value, fork.Array("d", 2)[:])
""",
}
PRINTED = {
    "a manager": "1 2 [3]",
    "a connection through a queue": "5",
    "workers that pass arrays and descriptors": "[(0, b'0', np.float64(100000.0)), (1, b'1', np.float64(100000.0))]",
    "shared memory": "30.0",
    "locks and values": "3 [0.0, 0.0]",
}


@pytest.mark.parametrize("what", PROCESSES)
def test_processes_work_together(confined: Bench, what: str) -> None:
    body = "import multiprocessing as mp, numpy, os\nfork = mp.get_context('fork')\n" + PROCESSES[what]
    assert said(confined, body) == PRINTED[what]


def test_a_forest_is_trained_by_two_jobs(confined: Bench) -> None:
    body = """
import joblib
from sklearn.ensemble import RandomForestClassifier
for backend in ("loky", "multiprocessing", "threading"):
    with joblib.parallel_config(backend, n_jobs=2):
        RandomForestClassifier(4, random_state=1).fit(X, y)
    print(backend)
"""
    assert said(confined, body).split() == ["loky", "multiprocessing", "threading"]


def test_a_socket_takes_options_but_no_program(confined: Bench) -> None:
    body = """
import socket
both = socket.socketpair()
both[0].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
both[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
for level, option in ((1, 26), (1, 27), (1, 50), (1, 51), (1, 1 << 20), (6, 1), (0, 2), (263, 1)):
    try: both[0].setsockopt(level, option, 1); print("set", level, option)
    except OSError as error: assert error.errno == 92, error
"""
    assert said(confined, body) == ""


# Its copies of files


def test_files_are_copied_with_what_they_have(confined: Bench) -> None:
    body = """
import os, shutil, subprocess
os.mkdir("folder"); open("folder/file", "w").close()
shutil.copy2("folder/file", "copy")
shutil.copystat("folder", "copy")
shutil.copytree("folder", "tree")
shutil.move("tree", "/dev/shm/tree")
shutil.move("copy", "/dev/shm/copy")
subprocess.run(["cp", "-a", "folder", "/dev/shm/archive"], check=True)
subprocess.run(["mv", "folder", "/dev/shm/moved"], check=True)
print(sorted(os.listdir("/dev/shm")))
"""
    assert said(confined, body) == "['archive', 'copy', 'moved', 'tree']"


def test_a_file_has_no_extended_attributes(confined: Bench) -> None:
    body = """
import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)
descriptor = os.open("file", os.O_CREAT | os.O_RDWR)
for target, kind in ((b"file", ""), (b"file", "l"), (descriptor, "f")):
    calls = {"get": (b"user.a", None, 0), "set": (b"user.a", b"1", 1, 0), "list": (None, 0), "remove": (b"user.a",)}
    for verb, arguments in calls.items():
        assert getattr(libc, f"{kind}{verb}xattr")(target, *arguments) == -1
        assert ctypes.get_errno() == errno.ENOTSUP, (kind, verb, ctypes.get_errno())
"""
    assert said(confined, body) == ""


# No network


@pytest.mark.parametrize(
    "call",
    [
        "import urllib.request; urllib.request.urlopen('http://example.com')",
        "import http.client; http.client.HTTPSConnection('example.com').request('GET', '/')",
        "import requests; requests.get('https://example.com')",
        "import socket; socket.gethostbyname('example.com')",
        "import socket; socket.create_connection(('192.0.2.1', 80))",
        "import socket; socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)",
        "import pandas; pandas.read_csv('https://example.com/d.csv')",
        "import asyncio; asyncio.run(asyncio.open_connection('example.com', 80))",
        "from sklearn import datasets; datasets.fetch_california_housing(n_retries=1)",
        "import socket\ntry: socket.gethostbyname('example.com')\nexcept OSError: raise RuntimeError('no data') from None",
    ],
)
def test_it_says_that_there_is_no_network(confined: Bench, call: str) -> None:
    failure = confined.fit(call).failure
    assert failure.reason is Reason.USER_CODE
    assert "Hint: submissions have no network" in failure.message and "Traceback" in failure.message


def test_an_error_of_files_does_not_speak_of_the_network(confined: Bench) -> None:
    for call in ("open('nothing')", "import socket; socket.socket(socket.AF_UNIX).connect('/tmp/nothing')"):
        assert "network" not in confined.fit(call).failure.message


# What is said of it


def test_the_end_of_a_long_output_is_kept(program: Bench) -> None:
    output = said(program, "import sys\nprint('start' + 'y' * (1 << 20))\nprint('the end', file=sys.stderr)")
    left_out = len("start\nthe end\n") + (1 << 20) - (64 << 10)
    assert output.startswith("starty") and output.endswith("y\nthe end")
    assert f"y\n[... {left_out:,} bytes of output left out ...]\ny" in output


def test_columns_that_are_not_the_classes_are_noted(program: Bench) -> None:
    code = with_body("").replace("predict_proba(X)\n", "predict_proba(X)[:, :2]\n")
    outcome = program.run(code)
    assert outcome.failure is None, outcome.failure
    for stage in ("validation", "test"):
        assert f"{stage}: 2 columns of probabilities, but the data has 3 classes" in outcome.notes


def test_rows_that_no_calibrator_can_use_are_the_datas_fault(either: start.AnyExecutor, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    flowers().to_csv(raw / "flowers.csv", index=False)
    assert either.run_split(SplitJob(raw, tmp_path / "v", "flowers", "species", False, 0.3, 42)).failure is None
    bench = Bench(either, DataSet(tmp_path / "v", "species", ("classifier", "calibrator"), False), tmp_path)
    calibrator = "class Calibrator:\n    def fit(self, p, y): pass\n    def predict_proba(self, p): return p\n"
    code = with_body("print('ran')")
    outcome = bench.run(code, rows=60, calibrator=calibrator)
    assert (outcome.failure, outcome.state, outcome.output) == (None, "TESTED", "ran\n")
    outcome = bench.run(code, rows=12, calibrator=calibrator)
    assert (outcome.failure.reason, outcome.failure.stage, outcome.state) == (Reason.DATA, "split", "TODO")
    assert "fewer than the 3 classes" in outcome.failure.message and "at least 21 rows" in outcome.failure.message
    assert bench.stages == []
    bench.data = replace(bench.data, workflow_elements=("classifier",))
    assert bench.run(code, rows=12).failure is None
