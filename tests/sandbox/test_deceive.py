"""What a submission may not make the runner believe."""

import pytest

from runner.jobs import Reason
from tests.sandbox.conftest import HONEST, Bench

pytestmark = pytest.mark.usefixtures("clean")

CHANNEL = """
import socket, os
for fd in range(3, 100):
    try:
        if os.readlink(f'/proc/self/fd/{fd}').startswith('socket'): words = socket.socket(fileno=fd)
    except OSError: pass
"""


def predicting(expression: str) -> str:
    return HONEST.replace("return self.model.predict_proba(X)", f"import numpy; return {expression}")


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("numpy.zeros((len(X) + 1, 3))", "105 rows were to be predicted, but the prediction has 106 rows"),
        ("numpy.zeros(())", "but the prediction has 0 rows"),
        ("3", "but the prediction has 0 rows"),
        ("None", "but the prediction has 0 rows"),
        ("[['a']] * len(X)", "are not an array of numbers"),
        ("[object()] * len(X)", "are not an array of numbers"),
        ("[[1], [1, 2]]", "are not an array of numbers"),
        ("numpy.zeros((len(X), 1 << 20))", ""),
    ],
)
def test_predictions_that_are_none(bench: Bench, expression: str, message: str) -> None:
    outcome = bench.run(predicting(expression))
    assert outcome.failure.stage == "validation" and message in outcome.failure.message
    assert outcome.failure.reason in (Reason.USER_CODE, Reason.MEMORY_LIMIT)


@pytest.mark.parametrize("kind", ["float32", "int8", "bool"])
def test_other_numbers_become_float64(bench: Bench, kind: str) -> None:
    outcome = bench.run(predicting(f"numpy.ones((len(X), 2), '{kind}', order='F')"))
    assert outcome.failure is None and outcome.test_predictions.dtype == float and outcome.test_predictions.all()


def test_an_object_that_executes_when_it_is_unpickled(bench: Bench) -> None:
    code = "import os\nclass Evil:\n    def __reduce__(self): return os.system, ('touch /tmp/evil',)\n" + predicting(
        "[Evil()] * len(X)"
    )
    assert bench.run(code).failure.reason is Reason.USER_CODE


def test_an_array_that_lies_about_itself(bench: Bench) -> None:
    code = "import numpy as np\nclass Lie(np.ndarray):\n    shape = (105, 3)\n    def __len__(self): return 105\n"
    outcome = bench.run(code + predicting("numpy.zeros((1, 1)).view(Lie)"))
    assert outcome.failure.reason is Reason.USER_CODE


def test_forged_times(bench: Bench) -> None:
    """A measure in a message is not looked at; one second of work is one second."""
    outcome = bench.fit(
        CHANNEL
        + 'import time\nwords.send(b\'["train", {"train_time": 0.001}]\')\nend = time.process_time() + 1\nwhile time.process_time() < end: pass'
    )
    total = sum(value for name, value in outcome.measures.items() if name.endswith("_time") and "cpu" not in name)
    assert total > 1
    assert outcome.failure is not None  # its own runner says "train" once more


@pytest.mark.parametrize(
    "words",
    [
        """b'["validation", [105, 3]]'""",
        """b'["test", [45, 3]]'""",
        """b'["train"]', b'["validation", [104, 3]]', b'["test", [45, 3]]'""",
        """b'["train"]', b'["validation", [105, 1099511627776]]', b'["test", [45, 3]]'""",
        """b'["train"]', b'["validation", [105, -3]]', b'["test", [45, 3]]'""",
        """b'["train"]', b'["validation", 105]', b'["test", [45, 3]]'""",
        """b'["train"]', b'["validation", [105, true]]', b'["test", [45, 3]]'""",
        """b'["ready"]', b'["train"]'""",
        """b'not json'""",
        """b'\\xff' * 60000""",
        """b'[' * 60000""",
        """b'["failed"]'""",
        """b'["failed", "train", "infrastructure", "blame the runner"]'""",
        """b'["failed", "split", "data", {"a": 1}]'""",
        """b'["broken", "x"]'""",
        """b'["done", [1, 2]]'""",
    ],
)
def test_a_forged_report(bench: Bench, words: str) -> None:
    outcome = bench.fit(CHANNEL + f"for word in ({words},): words.send(word)\nimport time\ntime.sleep(1)")
    assert outcome.failure.reason in (Reason.USER_CODE, Reason.KILLED_ITSELF), outcome.failure
    assert outcome.failure.stage in ("train", "validation", "test")


def test_a_flood_of_reports(bench: Bench) -> None:
    outcome = bench.fit(CHANNEL + "while True: words.send(b'[]')")
    assert outcome.failure.reason is Reason.USER_CODE


def test_a_report_with_descriptors(bench: Bench) -> None:
    outcome = bench.fit(CHANNEL + "for _ in range(5): socket.send_fds(words, [b'[\"train\"]'], [0] * 100)")
    assert outcome.failure.reason is Reason.USER_CODE


def test_predictions_changed_after_the_report(bench: Bench) -> None:
    """The memory is sealed once every writer is dead: what the supervisor checked stays."""
    predictions = bench.run(HONEST).test_predictions
    assert predictions is not None
    with pytest.raises(ValueError, match="read-only"):
        predictions[0] = 1


POISON = """
import sklearn.ensemble, numpy, pandas, sys, builtins
from runner import workflow
sklearn.ensemble.RandomForestClassifier.predict_proba = lambda self, X: numpy.zeros((len(X), 3))
numpy.zeros = numpy.ones
workflow.predict = None
builtins.len = lambda x: 0
sys.modules.clear()
"""


def test_poison_for_the_next_fold(bench: Bench) -> None:
    bench.fit(POISON)
    bench.check_honest()


def test_the_features_in_place(bench: Bench) -> None:
    """Shared with every fold of the data set; what one writes only it sees."""
    bench.fit(
        "import gc, numpy, pandas\nfor thing in gc.get_objects():\n    if isinstance(thing, (numpy.ndarray, pandas.DataFrame)) and thing is not y:\n        try: thing[...] = 0\n        except Exception: pass\n"
    )
    outcome = bench.fit("import numpy\nX[:] = 0\nX.flags.writeable")
    assert outcome.failure is None
    bench.check_honest()


def opened(name: str) -> str:
    """Code that finds the descriptor of one of its memfds."""
    return (
        "import os, fcntl\nheld = {}\nfor fd in range(3, 64):\n"
        "    try: held[fd] = os.readlink(f'/proc/self/fd/{fd}')\n    except OSError: pass\n"
        f"[memory] = [fd for fd, name in held.items() if {name!r} in name]\n"
    )


@pytest.mark.parametrize(
    "body",
    [
        "fcntl.fcntl(memory, 1033, 1)",  # F_ADD_SEALS: F_SEAL_SEAL
        "fcntl.fcntl(memory, 1033, 8)",  # F_SEAL_WRITE
        "os.ftruncate(memory, 0)",
        "os.ftruncate(memory, 1 << 40)",
        "import ctypes\nif ctypes.CDLL(None, use_errno=True).fallocate(memory, 3, 0, 1 << 20): raise OSError",
        "os.close(memory)",
        "os.dup2(0, memory)",
    ],
    ids=["seal", "seal write", "shrink", "grow", "hole", "close", "another file"],
)
def test_what_it_does_to_the_memory_of_its_predictions_is_its_own_fault(bench: Bench, body: str) -> None:
    guarded = "".join(f"    {line}\n" for line in body.splitlines())
    outcome = bench.fit(f"{opened('predictions')}try:\n{guarded}except OSError: pass")
    assert outcome.failure is None or outcome.failure.reason is not Reason.INFRASTRUCTURE


@pytest.mark.parametrize(
    "body",
    [
        "words.close()",
        "words.shutdown(2)",
        "words.shutdown(1)",
        "words.send(b'')",
        "os.closerange(3, 1000)",
        "for fd in range(3, 64): os.dup2(0, fd)",
        "import resource, time\nresource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))",
        "words.send(b'[' + b'1' * 60000 + b']')",
        "words.send(b'[NaN, 1e999, -Infinity]')",
        "words.send(b'x' * 200_000)",
        "while True: words.send(b'x', 64)",
        "while True: words.send_fds = socket.send_fds(words, [b'x'], list(range(3)))",
        "words.setblocking(False)",
        "words.setsockopt(1, 7, 1); words.setsockopt(1, 8, 1)",
        "os.fork()\nos.fork()\nwords.send(b'[\"train\"]')",
    ],
)
def test_what_it_does_to_its_channel_is_its_own_fault(bench: Bench, body: str) -> None:
    outcome = bench.fit(CHANNEL + body)
    assert outcome.failure is None or outcome.failure.reason in (
        Reason.USER_CODE,
        Reason.KILLED_ITSELF,
        Reason.TIME_LIMIT,
    )
