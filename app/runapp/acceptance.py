"""Prove that each runner serves each of its queues, with canaries through the REST API.

The queues are shared, so no canary can be addressed: each queue gets as many as its runners have slots, each takes
SLEEP seconds, so that they spread, and rounds are repeated until every runner was seen in every queue of its. Where
a canary ran, its record says. Canaries come and go in data sets of their own, `canary-<hex>-<number>`: data,
submission and folds are deleted at the end.
"""

import logging
import secrets
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from celery import current_app
from django.db.models import Q
from django.utils import timezone

from runapp.models import RawData, Submission, SubmissionFold
from test_files import post_api
from test_files.demo import Server

log = logging.getLogger(__name__)

SPLITS = "celery"
"""The queue of the splits; the others have folds."""

SLEEP = 1.0
"""Seconds that a canary takes."""

POLL = 0.5
"""Seconds between two looks at the canaries."""

ANSWER = 2.0
"""Seconds in which a worker says what it runs."""

LAST_SECONDS = 60.0
"""How long canaries that run are waited for before they are deleted."""

SAY = 10.0
"""Seconds between two lines that say what is waited for."""

IDS = range(2_000_000_000, 2**31 - 1)
"""Where submissions and folds of canaries have their ids: organisers count from 1."""
WIDTH = 100_000
"""Ids that a run keeps free for itself."""

SPECIFIC = f"""
import importlib
import time
from pathlib import Path

import numpy as np

def prepare_data(raw_data_path):
    time.sleep({SLEEP})
    rows = np.loadtxt(Path(raw_data_path, "canary.csv"), delimiter=",", dtype=np.int64)
    for name, part in (("train", rows[::2]), ("test", rows[1::2])):
        np.savetxt(Path(raw_data_path, name + ".csv"), part, fmt="%d", delimiter=",")

def get_train_data(raw_data_path):
    return read(raw_data_path, "train.csv")

def get_test_data(raw_data_path):
    return read(raw_data_path, "test.csv")

def read(raw_data_path, name):
    rows = np.loadtxt(Path(raw_data_path, name), delimiter=",", dtype=np.int64)
    return rows[:, :-1], rows[:, -1]

def train_submission(module_path, X, y, train_indices):
    model = importlib.import_module(".model", module_path).Model()
    model.fit(X[train_indices], y[train_indices])
    return model

def test_submission(model, X, test_indices):
    return model.predict(X[test_indices])
"""

MODEL = f"""
import time

class Model:
    def fit(self, X, y):
        time.sleep({SLEEP})
        self.weights = X.T @ y

    def predict(self, X):
        return X @ self.weights / 8
"""


@dataclass(frozen=True)
class Runner:
    """What the inventory says of a runner: its worker is celery@<name>."""

    name: str
    queues: tuple[str, ...]
    slots: int

    @property
    def worker(self) -> str:
        return f"celery@{self.name}"


@dataclass
class Verdict:
    """Of a runner in a queue. why: "ok", or what is wrong. blamed: whether the runner has to do with it."""

    why: str
    seconds: float
    blamed: bool = True

    @property
    def ok(self) -> bool:
        return self.why == "ok"


@dataclass
class Data:
    """The numbers that a run's canaries work on: small and whole, so that no order of summing rounds them."""

    rows: np.ndarray = field(
        default_factory=lambda: np.random.default_rng().integers(-50, 50, size=(40, 4), dtype=np.int64)
    )

    @property
    def train(self) -> np.ndarray:
        return self.rows[::2]

    @property
    def test(self) -> np.ndarray:
        return self.rows[1::2]

    def problem(self, record: dict[str, Any], train_is: np.ndarray) -> str | None:
        """What is wrong with a tested fold's predictions, bit for bit; None if nothing is."""
        weights = self.train[train_is, :-1].T @ self.train[train_is, -1]
        for name, part in (("full_train_predictions", self.train), ("test_predictions", self.test)):
            expected = (part[:, :-1] @ weights / 8).reshape(-1, 1)
            try:
                got = post_api.decode_predictions(record[name], len(part))
            except (ValueError, zlib.error) as error:
                return f"wrong predictions: its {name} can't be read: {error}"
            if got.shape != expected.shape or got.tobytes() != expected.tobytes():
                return f"wrong predictions: its {name} begin with {got[:3, 0]}, right is {expected[:3, 0]}"
        return None


class Acceptance:
    """One run. say: gets the lines that tell how it goes."""

    def __init__(self, server: Server, runners: Iterable[Runner], timeout: float, say: Callable[[str], None]) -> None:
        self.server, self.runners, self.timeout, self.say = server, {r.name: r for r in runners}, timeout, say
        self.name = f"canary-{secrets.token_hex(4)}"
        self.data = Data()
        self.data_id: int | None = None  # a split data set, which the folds use
        self.submission_id = free_ids()
        self.next_id = self.submission_id + 1
        self.n_data = 0
        self.folds: dict[int, tuple[str, np.ndarray]] = {}  # that run or wait: id -> queue, train_is
        self.splits: dict[str, int] = {}  # name of the data set -> id
        self.verdicts: dict[tuple[str, str], Verdict] = {}
        self.last_round: dict[str, float] = {}
        self.began_at, self.began = timezone.now(), time.monotonic()
        self._interrupted = self._cleaning = False

    def interrupt(self, *_: object) -> None:
        """The handler of a signal. A second one does not wait for the request under way; none stops the cleaning."""
        if self._interrupted and not self._cleaning:
            raise KeyboardInterrupt
        self._interrupted = True

    def run(self) -> dict[tuple[str, str], Verdict]:
        """(runner, queue) -> verdict. Raises DemoError where the API refuses or does not answer, KeyboardInterrupt."""
        try:
            with tempfile.TemporaryDirectory(prefix="datarun-canary-") as folder:
                self._write(Path(folder))
                self._watch()
        finally:
            self._clean()
        for name, queue in self._missing():
            self.verdicts[name, queue] = self.unreached(self.runners[name], queue)
        return self.verdicts

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def _missing(self) -> list[tuple[str, str]]:
        """The runners and queues without a verdict."""
        pairs = [(runner.name, queue) for runner in self.runners.values() for queue in runner.queues]
        return [pair for pair in pairs if pair not in self.verdicts]

    def _watch(self) -> None:
        said = 0.0
        while (missing := self._missing()) and self.seconds < self.timeout:
            self._stop_if_interrupted()
            queues = {queue for _, queue in missing}
            if self.data_id is None and not self.splits and SPLITS not in queues:
                return  # each runner failed to split
            for queue in sorted(queues):
                self._send(queue)
            time.sleep(POLL)
            self._look_at_splits()
            self._look_at_folds()
            if (missing := self._missing()) and self.seconds >= said:
                said = self.seconds + SAY
                waiting = ", ".join(f"{name}/{queue}" for name, queue in missing)
                self.say(
                    f"{self.seconds:3.0f} s: waiting for {waiting}; "
                    f"{len(self.splits)} splits and {len(self.folds)} folds are on their way"
                )

    def _call(self, function: Callable[..., Any], *args: Any) -> Any:
        """A request to its end: the server may accept what it sends after its sender has left and deleted the rest."""
        answer = self.server.call(function, *args)
        self._stop_if_interrupted()
        return answer

    def _stop_if_interrupted(self) -> None:
        if self._interrupted:
            raise KeyboardInterrupt

    # Sending

    def _write(self, folder: Path) -> None:
        self.files = [folder / "canary.csv", folder / "specific.py"]
        np.savetxt(self.files[0], self.data.rows, fmt="%d", delimiter=",")
        self.files[1].write_text(SPECIFIC)
        self.model = folder / "model.py"
        self.model.write_text(MODEL)

    def _send(self, queue: str) -> None:
        """A round of canaries, unless one is on its way."""
        on_its_way = self.splits if queue == SPLITS else [of for of, _ in self.folds.values() if of == queue]
        # A runner that fails at once must not make a flood of rounds.
        if on_its_way or self.seconds < self.last_round.get(queue, 0.0):
            return
        if queue != SPLITS and self.data_id is None:
            return
        self.last_round[queue] = self.seconds + SLEEP
        for _ in range(sum(runner.slots for runner in self.runners.values() if queue in runner.queues)):
            if queue == SPLITS:
                self._send_split()
            else:
                self._send_fold(queue)

    def _send_split(self) -> None:
        name = f"{self.name}-{self.n_data}"
        self.n_data += 1
        answer = self._call(post_api.post_data, name, "", "canary", self.files[0], self.files[1:])
        self._call(post_api.custom_post_split, answer["id"])
        self.splits[name] = answer["id"]

    def _send_fold(self, queue: str) -> None:
        fold_id, self.next_id = self.next_id, self.next_id + 1
        n_train = len(self.data.train)
        # Other rows each time: a remembered answer would be wrong.
        rows = np.sort(np.random.default_rng().choice(n_train, n_train // 2, replace=False))
        self._call(
            post_api.post_submission_fold,
            self.submission_id,
            fold_id,
            rows,
            np.setdiff1d(np.arange(n_train), rows),
            queue,
            self.data_id,
            [self.model],
        )
        self.folds[fold_id] = queue, rows

    # Looking

    def _look_at_splits(self) -> None:
        if not self.splits:
            return
        for row in self._call(post_api.get_raw_data):
            if row["name"] not in self.splits or row["split_state"] not in ("DONE", "ERROR"):
                continue
            number = self.splits.pop(row["name"])
            rows, expected = (row["n_train"], row["n_test"]), (len(self.data.train), len(self.data.test))
            if row["split_state"] == "ERROR":
                problem = row["split_log"] or "the split failed and left no message"
            elif rows != expected:
                problem = f"a wrong split: {rows} train and test rows, right are {expected}"
            else:
                problem = None
                self.data_id = self.data_id or number
            # Not a field of the API, which is the manual's.
            self._judge(RawData.objects.get(pk=number).split_runner, SPLITS, problem)

    def _look_at_folds(self) -> None:
        if not self.folds:
            return
        # This call also takes the folds off the list of new predictions, which an organiser asks for.
        for record in self._call(post_api.get_prediction_list, list(self.folds)):
            if record["state"] not in ("TESTED", "ERROR"):
                continue
            fold_id = record["databoard_sf_id"]
            queue, rows = self.folds.pop(fold_id)
            fold = self._call(post_api.get_submission_fold_detail, fold_id)
            if record["state"] == "ERROR":
                problem = record["log_messages"] or "the fold failed and left no message"
            else:
                problem = self.data.problem(record, rows)
            self._judge(fold["runner"], queue, problem)

    def _judge(self, worker: str, queue: str, problem: str | None) -> None:
        """The first canary decides: a runner that is wrong at times is wrong."""
        runner = next((runner for runner in self.runners.values() if runner.worker == worker), None)
        if runner is None or queue not in runner.queues:
            self.say(f"{worker or 'nobody'} took a canary of the queue {queue}, but should not serve it")
        elif (pair := (runner.name, queue)) not in self.verdicts:
            self.verdicts[pair] = Verdict(problem or "ok", self.seconds)
            self.say(f"{self.seconds:3.0f} s: {runner.name}/{queue}: {problem or 'ok'}")

    def unreached(self, runner: Runner, queue: str) -> Verdict:
        if queue != SPLITS and self.data_id is None:
            return Verdict("not tried: no runner has split the canaries' data", self.seconds, blamed=False)
        at_work = Q(state__in=SubmissionFold.OPEN) | Q(finished_at__gte=self.began_at)
        text = f"no canary reached it within {self.timeout:g} s: "
        if SubmissionFold.objects.filter(at_work, runner=runner.worker).exists():
            return Verdict(f"{text}it is at work on other folds; give it more time", self.seconds, blamed=False)
        return Verdict(f"{text}is datarun-runner running there?", self.seconds)

    # Leaving

    def _clean(self) -> None:
        """Delete all that was sent, also what the server accepted without our hearing of it."""
        self._cleaning = True
        data_sets = RawData.objects.filter(name__startswith=f"{self.name}-")
        folds = SubmissionFold.objects.filter(databoard_s__raw_data__in=data_sets)
        tasks = [*folds.values_list("task_id", flat=True), *data_sets.values_list("split_task_id", flat=True)]
        open_folds = folds.filter(state__in=SubmissionFold.OPEN)
        if open_folds.exists() or data_sets.filter(split_state=RawData.Split.QUEUED).exists():
            _try("revoke what still waits", lambda: current_app.control.revoke(tasks))
            time.sleep(SLEEP + 1)  # what runs comes to its end
            _try("ask what still runs", lambda: wait_for({*tasks}))
        data_sets.delete()  # with submissions, folds and files (runapp.signals)
        for task in filter(None, tasks):
            _try("forget a result", current_app.AsyncResult(task).forget)


def free_ids() -> int:
    """The first of WIDTH numbers that no submission and no fold has."""
    while True:
        first = IDS.start + secrets.randbelow(len(IDS) - WIDTH)
        used = [
            model.objects.filter(pk__range=(first, first + WIDTH)).exists() for model in (Submission, SubmissionFold)
        ]
        if not any(used):
            return first


def wait_for(tasks: set[str]) -> None:
    """Until no worker runs one of the tasks, or LAST_SECONDS: a split would write to a folder that is being deleted.

    All are asked: one that the inventory does not name may have taken a canary.
    """
    deadline = time.monotonic() + LAST_SECONDS
    while time.monotonic() < deadline:
        active = current_app.control.inspect(timeout=ANSWER).active() or {}
        if not any(task["id"] in tasks for running in active.values() for task in running):
            return


def _try(what: str, work: Callable[[], Any]) -> None:
    """Cleaning goes on where the broker or the result store is away: both forget by themselves."""
    try:
        work()
    except Exception as error:
        log.warning("could not %s: %s", what, error)
