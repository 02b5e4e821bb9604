"""What tests of folds share: a classifier with given code in it, a specific.py, what was left on the machine."""

import os
import re
import textwrap
from collections import defaultdict
from pathlib import Path

import numpy as np

from runner.jobs import DataSet

MEASURES = {
    "train_time",
    "validation_time",
    "test_time",
    "train_cpu_time",
    "test_cpu_time",
    "train_memory",
    "test_memory",
}

ALL = np.arange(30)


def classifier(top="", init="pass", fit="pass", predict="pass", result="np.full((len(X), 2), 0.5)"):
    """A classifier with this code in it; `TEST` tells the test set from the train set of `small_data`."""

    def body(code):
        return textwrap.indent(textwrap.dedent(code).strip(), 8 * " ")

    return f"""
import os
import signal
import subprocess
import sys
import time
import numpy as np
{textwrap.dedent(top)}

class Classifier:
    def __init__(self):
{body(init)}

    def fit(self, X, y):
{body(fit)}

    def predict_proba(self, X):
        TEST = len(X) == 10
{body(predict)}
        return {result}
"""


def assert_failed(outcome, reason, stage, *says):
    failure = outcome.failure
    assert failure is not None, f"{outcome.state}: {outcome.output}"
    assert (failure.reason, failure.stage) == (reason, stage), failure.message
    for text in says:
        assert text in failure.message
    assert outcome.state == {"split": "TODO", "train": "TODO", "validation": "TRAINED", "test": "VALIDATED"}[stage]
    assert "site-packages" not in failure.message
    assert 'File "/' not in failure.message


SPECIFIC = """
import importlib
import numpy as np

def prepare_data(raw_data_path):
    {prepare_data}

def get_train_data(raw_data_path):
    {get_train_data}
    return np.zeros((30, 2)), np.zeros(30)

def get_test_data(raw_data_path):
    return np.zeros((10, 2)), np.zeros(10)

def train_submission(module_path, X, y, train_indices):
    {train_submission}
    model = importlib.import_module('.classifier', module_path).Classifier()
    model.fit(X[train_indices], y[train_indices])
    return model

def test_submission(model, X, test_indices):
    {test_submission}
    return model.predict_proba(X[test_indices])
"""


def write_specific(folder, top="", **code):
    folder.mkdir(parents=True, exist_ok=True)
    places = dict.fromkeys(("prepare_data", "get_train_data", "train_submission", "test_submission"), "pass")
    (folder / "specific.py").write_text(top + SPECIFIC.format(**places | code))
    return DataSet(folder, "", (), custom=True)


def listing(folder):
    """Each file below the folder with its content's size and time."""
    return {
        str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def names(folder):
    return {path.name for path in folder.iterdir()}


def processes_with(mark):
    """Ids of the processes that have this word in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if mark.encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
        except OSError:  # it has just ended
            pass
    return found


def descendants(of=None, waiting=True):
    """Ids of the processes below this one, or below another; `waiting`: with the fork of each zygote that waits.

    That is another one after each fold.
    """
    children = defaultdict(list)
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            children[int(path.read_text().rpartition(")")[2].split()[1])].append(int(path.parent.name))
        except OSError:
            pass
    found, new = set(), {of or os.getpid()}
    while new := {child for pid in new for child in _below(pid, children[pid], waiting)}:
        found |= new
    return found


def _below(pid, children, waiting):
    if waiting:
        return children
    forks = [child for child in children if pid_namespaces(child) == pid_namespaces(pid) + 1 == 2]
    return [child for child in children if child not in forks[:1]]


def pid_namespaces(pid):
    """How many a process is in below this one's; -1 once it is gone."""
    try:
        return len(next(line for line in Path(f"/proc/{pid}/status").open() if line.startswith("NSpid:")).split()) - 2
    except OSError:
        return -1


def state_of(pid):
    try:
        return re.match(r"\s*(\w)", Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2])[1]
    except OSError:
        return None
