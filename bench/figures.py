"""The figures: what a client sees of a live server, beside what the work alone takes in the same run."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import requests
from rich.console import Console
from rich.progress import track

from bench import cpu
from test_files import post_api
from test_files.kits import IRIS, Fold
from tests import reference
from tests.e2e.live import LOGIN, PASSWORD, Live, Organiser, until
from tests.services import Services

ROOT = Path(__file__).resolve().parents[1]
POLL = 0.005
"""Seconds between two looks at a fold."""
PATIENCE = 600.0

console = Console(highlight=False) if Console().is_terminal else Console(highlight=False, width=120)


@dataclass
class Figure:
    """A line of the table. kept: whether a promise (target: a mere target) holds; None where there is none."""

    name: str
    measured: str
    bound: str = ""
    ratio: str = ""
    kept: bool | None = None
    target: bool = False


class Client:
    """One connection to a server with an iris data set that is split."""

    def __init__(self, live: Live) -> None:
        self.live = live
        self.organiser = Organiser(live)
        self.session = requests.Session()
        self.session.auth = LOGIN, PASSWORD
        self.data = self.organiser.data(IRIS.data_files[0], target=IRIS.target_column, elements=IRIS.workflow_elements)
        self.organiser.split(self.data, ratio=IRIS.held_out_test, state=IRIS.random_state)
        until(lambda: self.get("rawdata/")[-1]["split_state"] == "DONE", PATIENCE, "the split is done")

    def get(self, path: str) -> Any:
        return self._answer(self.session.get(f"{self.live.url}/runapp/{path}"))

    def post(self, path: str, body: Any) -> Any:
        return self._answer(self.session.post(f"{self.live.url}/runapp/{path}", json=body))

    def new(self, submission: str) -> dict[str, Any]:
        """What a fold says of a new submission of the kit."""
        files = IRIS.submission_files(submission)
        return {
            "databoard_s_id": Organiser.new_id(),
            "raw_data": self.data,
            "files": {path.name: post_api.encode_bytes(path.read_bytes()) for path in files},
        }

    def _answer(self, answer: requests.Response) -> Any:
        assert answer.ok, answer.text[:2000]
        return answer.json()


def body(train_is: np.ndarray, submission: dict[str, Any]) -> dict[str, Any]:
    """A fold to be POSTed."""
    indices = post_api.encode_indices(train_is.astype(np.int64))
    return {"databoard_sf_id": Organiser.new_id(), "train_is": indices, "test_is": indices, **submission}


def inside(live: Live, *command: object) -> Any:
    """The answer of bench.inside in the environment of the server."""
    arguments = [sys.executable, "-m", "bench.inside", *map(str, command)]
    done = subprocess.run(arguments, cwd=ROOT, env=live.environment, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


# --- folds -------------------------------------------------------------------------------------------


def one_at_a_time(client: Client, times: int) -> list[Figure]:
    """From POST to TESTED, and the same fold in this process, in turns."""
    submission = client.new("forest")
    folder = IRIS.submission_folder("forest")
    whole, posts, polls, runs, bounds = [], [], [], [], []
    for fold in track(_folds(times + 1), "one fold at a time", console=console, transient=True):
        order = body(fold.train_is, submission)
        start = time.perf_counter()
        client.post("submissionfold/", order)
        posts.append(time.perf_counter() - start)
        while True:
            time.sleep(POLL)
            asked = time.perf_counter()
            record = client.get(f"submissionfold/{order['databoard_sf_id']}/")
            polls.append(time.perf_counter() - asked)
            if record["state"] in ("TESTED", "ERROR"):
                break
        whole.append(time.perf_counter() - start)
        assert record["state"] == "TESTED", record["log_messages"]
        runs.append(sum(record[name] for name in ("train_time", "validation_time", "test_time")))
        start = time.perf_counter()
        reference.predict(IRIS, folder, fold.train_is)
        bounds.append(time.perf_counter() - start)
    # The first one sends the submission's files and warms everything up.
    took, bound = median(whole[1:]), median(bounds[1:])
    return [
        Figure(
            f"iris fold from POST to TESTED, median of {times}; bound: the same fold in one process",
            _ms(took),
            _ms(bound),
            f"{took / bound:.2f}",
        ),
        Figure("  of it: the POST", _ms(median(posts[1:]))),
        Figure("  of it: train_time + validation_time + test_time", _ms(median(runs[1:]))),
        Figure(f"  a look at its state (one every {POLL * 1e3:.0f} ms, each of this length)", _ms(median(polls))),
    ]


def two_at_a_time(client: Client, number: int) -> list[Figure]:
    """Folds a second from one bulk request on, and the same folds in two warm processes."""
    submission, folds = client.new("logistic"), _folds(number)
    client.organiser.tested(client.post("submissionfold/", body(folds[0].train_is, submission))["databoard_sf_id"])
    orders = [body(fold.train_is, submission) for fold in folds]
    wanted = {order["databoard_sf_id"] for order in orders}

    def states() -> set[str]:
        return {fold["state"] for fold in client.get("submissionfold-light/") if fold["databoard_sf_id"] in wanted}

    with console.status(f"{number} folds, 2 at a time"):
        start = time.perf_counter()
        client.post("submissionfold/bulk/", orders)
        until(lambda: states() <= {"TESTED", "ERROR"}, PATIENCE, "all folds have ended")
        took = time.perf_counter() - start
        assert states() == {"TESTED"}
        with _processes(2, folds[0]) as pool:
            list(pool.map(_predict, folds[:20]))  # both are ready
            start = time.perf_counter()
            list(pool.map(_predict, folds))
            bound = time.perf_counter() - start
    name = f"folds a second, {number} small ones, 2 at a time; bound: in 2 warm processes"
    return [Figure(name, f"{number / took:.1f} /s", f"{number / bound:.1f} /s", f"{bound / took:.2f}")]


def cpu_of_folds(client: Client, services: Services | None, number: int) -> list[Figure]:
    """CPU time of small folds by kind of process: each POSTed on one connection, while those before it run."""
    submission, folds = client.new("logistic"), _folds(number)
    client.organiser.tested(client.post("submissionfold/", body(folds[0].train_is, submission))["databoard_sf_id"])
    known = {"databoard_s_id": submission["databoard_s_id"]}
    orders = [body(fold.train_is, known) for fold in folds]
    start, before = time.perf_counter(), cpu.used(client.live, services)
    for order in track(orders, "POSTs while folds run", console=console, transient=True):
        client.post("submissionfold/", order)
    posted = time.perf_counter() - start
    ended = f"submissionfold-light/?databoard_s={submission['databoard_s_id']}"
    while (states := {fold["state"] for fold in client.get(ended)}) != {"TESTED"}:
        assert "ERROR" not in states
        time.sleep(0.5)  # looks are a part of the web server's time
    took, after = time.perf_counter() - start, cpu.used(client.live, services)
    with _processes(1, folds[0]) as pool:
        list(pool.map(_predict, folds[:20]))
        bound = sum(pool.map(_predict, folds)) / number
    each = {kind: (after[kind] - before[kind]) / number for kind in after}
    total = sum(each.values())
    name = f"CPU of a small fold, {number} POSTed one by one; bound: the same fold in one process"
    return [
        Figure(name, _ms(total), _ms(bound), f"{total / bound:.2f}"),
        *(Figure(f"  of it: {kind}", _ms(seconds)) for kind, seconds in each.items()),
        Figure("  folds a second", f"{number / took:.1f} /s"),
        Figure("  POSTs a second while they run", f"{number / posted:.1f} /s"),
    ]


def _processes(number: int, first: Fold) -> ProcessPoolExecutor:
    """Where bounds are measured: as a runner has it, without a second thread for numpy."""
    return ProcessPoolExecutor(number, multiprocessing.get_context("spawn"), initializer=_predict, initargs=(first,))


def _predict(fold: Fold) -> float:
    """CPU seconds that it took."""
    start = time.process_time()
    reference.predict(IRIS, IRIS.submission_folder("logistic"), fold.train_is)
    return time.process_time() - start


def _folds(number: int) -> list[Fold]:
    return IRIS.folds(IRIS.truth()[0], number)


# --- requests ----------------------------------------------------------------------------------------


def posts(client: Client, singles: int, bulk: int) -> list[Figure]:
    """POSTs a second of folds that are queued and, with the runner paused, not worked at; beside it plain inserts."""
    live = client.live
    random = np.random.default_rng(1)

    def order(submission: dict[str, Any]) -> dict[str, Any]:
        return body(random.integers(0, 120, 200), submission)

    new = client.new("logistic")
    client.organiser.tested(client.post("submissionfold/", order(new))["databoard_sf_id"])
    known = {"databoard_s_id": new["databoard_s_id"]}
    runner = live.process_of("runner")
    os.kill(runner, signal.SIGSTOP)
    try:
        orders = [order(known) for _ in range(singles)]
        start = time.perf_counter()
        for each in track(orders, "POSTs on one connection", console=console, transient=True):
            client.post("submissionfold/", each)
        one_connection = time.perf_counter() - start

        start = time.perf_counter()
        for _ in track(range(singles), "POSTs of the client", console=console, transient=True):
            client.organiser.fold(None, None, random.integers(0, 120, 200), submission_id=known["databoard_s_id"])
        documented = time.perf_counter() - start

        orders = [order(known) for _ in range(bulk)]
        start = time.perf_counter()
        client.post("submissionfold/bulk/", orders)
        at_once = time.perf_counter() - start
        bound = inside(live, "inserts", singles, bulk)
    finally:
        os.kill(runner, signal.SIGCONT)

    def figure(name: str, number: int, took: float, least: float) -> Figure:
        return Figure(name, f"{number / took:.0f} /s", f"{number / least:.0f} /s", f"{least / took:.2f}")

    return [
        figure("POSTs of folds a second, one connection; bound: inserts", singles, one_connection, bound["singles"]),
        figure("  with the documented client, a connection each", singles, documented, bound["singles"]),
        figure(f"folds a second, {bulk} in one bulk POST; bound: one bulk_create", bulk, at_once, bound["bulk"]),
    ]


# --- lists -------------------------------------------------------------------------------------------

LISTS = (("get", "submissionfold-light/"), ("get", "submissionfold/"), ("post", "testpredictions/new/"))


@dataclass
class Download:
    """seconds, of which first_byte until the answer began; peak: of the server process, in bytes."""

    seconds: float
    first_byte: float
    size: int
    peak: int
    queries: int


def lists(live: Live, queries: Path, number: int) -> list[Figure]:
    """The three lists with `number` folds stored. queries: the file of bench.counting."""
    few = 1000
    inside(live, "fill", few)
    worker = _gunicorn_worker(live)
    session = requests.Session()
    session.auth = LOGIN, PASSWORD
    session.get(f"{live.url}/runapp/rawdata/").raise_for_status()  # the password is known from here on
    before = [_download(session, live, worker, queries, *each) for each in LISTS]
    with console.status(f"storing {number} folds"):
        filled = inside(live, "fill", number)
    with console.status("fetching them"):
        bounds = inside(live, "selects")
        idle = _memory(worker, "VmRSS")
        downloads = [_download(session, live, worker, queries, *each) for each in LISTS]
    figures = [Figure(f"storing {number} folds of 1,000 predictions", f"{filled:.1f} s")]
    for (_, name), had, got in zip(LISTS, before, downloads, strict=True):
        bound = bounds[name]["seconds"]
        assert bounds[name]["rows"] == number
        light = name == "submissionfold-light/"
        figures += [
            Figure(
                f"{name}, {number} folds, {got.size / 1e6:.1f} MB; bound: its SELECT",
                f"{got.seconds:.2f} s",
                f"{bound:.2f} s",
                f"{got.seconds / bound:.2f}",
                got.seconds < 2 if light else None,
            ),
            Figure("  of it: until the first byte", f"{got.first_byte:.2f} s"),
            Figure("  peak memory of the server; bound: before", f"{got.peak / 1e6:.0f} MB", f"{idle / 1e6:.0f} MB"),
            Figure(
                f"  SQL queries; bound: with {few} folds",
                str(got.queries),
                str(had.queries),
                kept=got.queries == had.queries,
            ),
        ]
    return figures


def _download(session: requests.Session, live: Live, worker: int, queries: Path, method: str, path: str) -> Download:
    Path(f"/proc/{worker}/clear_refs").write_text("5")  # VmHWM starts anew
    asked = queries.stat().st_size
    start = time.perf_counter()
    with session.request(
        method, f"{live.url}/runapp/{path}", json={} if method == "post" else None, stream=True
    ) as answer:
        answer.raise_for_status()
        first_byte, size = 0.0, 0
        for piece in answer.iter_content(1 << 20):
            first_byte = first_byte or time.perf_counter() - start
            size += len(piece)
    seconds = time.perf_counter() - start
    return Download(seconds, first_byte, size, _memory(worker, "VmHWM"), queries.stat().st_size - asked)


def _gunicorn_worker(live: Live) -> int:
    arbiter = live.process_of("web")
    [worker] = [pid for pid in live.children() if _status(pid, "PPid") == arbiter]
    return worker


def _memory(pid: int, key: str) -> int:
    return _status(pid, key) * 1024


def _status(pid: int, key: str) -> int:
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(lines[key].split()[0])


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms"
