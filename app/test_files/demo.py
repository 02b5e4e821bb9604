"""Three data challenges from the data to the scores, through the documented client alone.

python -m test_files.demo HOST_URL, with the user in USER_LOGIN and USER_PSWD. Exit code 0 when all folds are TESTED.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import requests
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from test_files import post_api
from test_files.kits import KITS, Fold, Kit

WIDTH = 110
"""Columns of the output where no terminal says how many it has."""

POLL_PERIOD = 0.3
"""Seconds between two looks at the states."""

PATIENCE = 420.0
"""Seconds without any change of a state after which the demo gives up: above the default hard limit of a fold."""

Record = dict[str, Any]


class DemoError(Exception):
    """The server refused a call or stopped answering; the message is for a person."""


@dataclass
class Challenge:
    """A kit on the server. folds and records: by fold id."""

    kit: Kit
    y_train: np.ndarray
    y_test: np.ndarray
    raw_data_id: int
    folds: dict[int, Fold] = field(default_factory=dict)
    records: dict[int, Record] = field(default_factory=dict)


class Server:
    """The client's functions with the address and the user filled in; a refused call is a DemoError."""

    def __init__(self, host_url: str, username: str, password: str) -> None:
        self.login = host_url, username, password

    def call(self, function: Callable[..., requests.Response], *args: Any, **kwargs: Any) -> Any:
        """The decoded answer of a function of post_api."""
        try:
            response = function(*self.login, *args, **kwargs)
        except requests.RequestException as error:
            raise DemoError(f"{function.__name__}: {self.login[0]} does not answer: {error}") from None
        said = f"{function.__name__}: the server answers {response.status_code}: {response.text[:2000]}"
        if not response.ok:
            raise DemoError(said)
        try:
            return response.json()
        except requests.JSONDecodeError:
            raise DemoError(f"{said}\nThis is not JSON: is {self.login[0]} a datarun server?") from None


def run(host_url: str, username: str, password: str) -> int:
    """Send the three challenges, wait, fetch and print; 0 when all folds are TESTED, else 1."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDTH)
    try:
        server = Server(host_url, username, password)
        challenges = send(server, console)
        wait(server, challenges, console)
        for challenge in challenges:
            fetch(server, challenge)
    except DemoError as error:
        console.print(Text(str(error), style="red"))
        return 1
    for challenge in challenges:
        console.print(table(challenge))
    return report_failures(challenges, console)


def send(server: Server, console: Console) -> list[Challenge]:
    """Data set, split, submission and folds of each kit; nothing waits for a split, datarun does."""
    names = {row["name"] for row in server.call(post_api.get_raw_data)}
    known = server.call(post_api.get_submission_fold_light)
    # Ids and names that are free, so that the demo also runs where it ran before.
    fold_id = max((row["databoard_sf_id"] for row in known), default=0)
    submission_id = max((row["databoard_s"] or 0 for row in known), default=0)
    challenges = []
    for kit in KITS:
        name = next(name for name in candidates(kit.name) if name not in names)
        data_file, *extra_files = kit.data_files
        data = server.call(
            post_api.post_data, name, kit.target_column, kit.workflow_elements, data_file, extra_files or None
        )
        challenge = Challenge(kit, *kit.truth(), raw_data_id=data["id"])
        challenges.append(challenge)
        if kit.custom:
            server.call(post_api.custom_post_split, data["id"])
        else:
            server.call(post_api.post_split, kit.held_out_test, data["id"], random_state=kit.random_state)
        submission_id += 1
        new_submission = {
            "raw_data_id": data["id"],
            "list_submission_files": kit.submission_files(kit.submissions[0]),
        }
        for fold in kit.folds(challenge.y_train):
            fold_id += 1
            server.call(
                post_api.post_submission_fold,
                submission_id,
                fold_id,
                fold.train_is,
                fold.test_is,
                priority=fold.priority,
                **new_submission,
            )
            challenge.folds[fold_id] = fold
            new_submission = {}  # datarun has the files from here on
        console.print(f"sent {name}: {len(challenge.folds)} folds of the submission '{kit.submissions[0]}'")
    return challenges


def candidates(name: str) -> Iterator[str]:
    """name, name_2, name_3, ..."""
    yield name
    number = 2
    while True:
        yield f"{name}_{number}"
        number += 1


def wait(server: Server, challenges: list[Challenge], console: Console) -> None:
    """Until all folds are TESTED or ERROR; DemoError when no state changes for PATIENCE seconds."""
    ids = {fold_id for challenge in challenges for fold_id in challenge.folds}
    before: dict[int, str] = {}
    changed = time.monotonic()
    with progress(console, len(ids)) as show:
        while True:
            rows = server.call(post_api.get_submission_fold_light)
            states = {row["databoard_sf_id"]: row["state"] for row in rows if row["databoard_sf_id"] in ids}
            done = sum(state in ("TESTED", "ERROR") for state in states.values())
            show(done)
            if done == len(ids):
                return
            if states != before:
                before, changed = states, time.monotonic()
            elif time.monotonic() - changed > PATIENCE:
                raise DemoError(
                    f"{done} of {len(ids)} folds are done and nothing moved for {PATIENCE:g} s: "
                    "is a worker running for the queues celery, L and H?"
                )
            time.sleep(POLL_PERIOD)


@contextmanager
def progress(console: Console, total: int) -> Iterator[Callable[[int], None]]:
    """A function that shows how many folds are done: as a bar, or as lines where nobody watches a terminal."""
    if console.is_terminal:
        columns = TextColumn("training and testing"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        with Progress(*columns, console=console) as bar:
            task = bar.add_task("", total=total)
            yield lambda done: bar.update(task, completed=done)
        return
    shown = -1

    def line(done: int) -> None:
        nonlocal shown
        # A line for each tenth, not for each fold.
        if shown < 0 or done == total or done - shown >= total / 10:
            if done != shown:
                console.print(f"{done} of {total} folds done")
            shown = done

    yield line


def fetch(server: Server, challenge: Challenge) -> None:
    """The records of all folds: those that are new, then by id those in ERROR or fetched by somebody else."""
    records = server.call(post_api.get_prediction_new, challenge.raw_data_id)
    missing = set(challenge.folds) - {record["databoard_sf_id"] for record in records}
    if missing:
        records += server.call(post_api.get_prediction_list, sorted(missing))
    challenge.records = {
        record["databoard_sf_id"]: record for record in records if record["databoard_sf_id"] in challenge.folds
    }


def figures(challenge: Challenge, fold_id: int) -> list[float]:
    """Train, validation, test and CPU time in s, peak memory in MB (1024 kB), scores on validation and test rows."""
    record, fold, kit = challenge.records[fold_id], challenge.folds[fold_id], challenge.kit
    full = post_api.decode_predictions(record["full_train_predictions"], len(challenge.y_train))
    test = post_api.decode_predictions(record["test_predictions"], len(challenge.y_test))
    return [
        record["train_time"],
        record["validation_time"],
        record["test_time"],
        record["train_cpu_time"] + record["test_cpu_time"],
        max(record["train_memory"], record["test_memory"]) / 1024,
        kit.score(challenge.y_train[fold.test_is], full[fold.test_is]),
        kit.score(challenge.y_test, test),
    ]


def table(challenge: Challenge) -> Table:
    """A row a fold, then mean and standard deviation over the tested ones."""
    kit = challenge.kit
    formats = ["{:.3f}"] * 4 + ["{:.1f}"] + ["{:.3f}" if kit.score_name == "accuracy" else "{:.2f}"] * 2
    result = Table(title=f"{kit.name}: {kit.workflow_elements}", title_justify="left", box=box.SIMPLE_HEAD)
    for name in ("fold", "priority", "state"):
        result.add_column(name, no_wrap=True)
    units = ("train\ns", "validation\ns", "test\ns", "CPU\ns", "memory\nMB")
    for name in (*units, f"{kit.score_name}\nvalidation", f"{kit.score_name}\ntest"):
        result.add_column(name, justify="right", no_wrap=True)
    tested = []
    for fold_id, fold in challenge.folds.items():
        state = challenge.records.get(fold_id, {}).get("state", "no record")
        numbers = figures(challenge, fold_id) if state == "TESTED" else []
        if numbers:
            tested.append(numbers)
        result.add_row(str(fold_id), fold.priority, state, *_texts(formats, numbers))
    if tested:
        result.add_section()
        result.add_row("mean", "", "", *_texts(formats, np.mean(tested, axis=0)))
    if len(tested) > 1:
        result.add_row("deviation", "", "", *_texts(formats, np.std(tested, axis=0, ddof=1)))
    return result


def report_failures(challenges: list[Challenge], console: Console) -> int:
    """Print the messages of the folds that aren't TESTED; the exit code."""
    failed = 0
    for challenge in challenges:
        for fold_id in challenge.folds:
            record = challenge.records.get(fold_id, {})
            if record.get("state") != "TESTED":
                failed += 1
                text = record.get("log_messages") or "the server has no record of it"
                # As Text: a traceback is full of brackets, which rich would read as markup.
                console.print(Text(f"{challenge.kit.name}, fold {fold_id}: {text}", style="red"))
    total = sum(len(challenge.folds) for challenge in challenges)
    console.print(f"{total - failed} of {total} folds trained and tested")
    return 1 if failed else 0


def _texts(formats: list[str], numbers: Any) -> list[str]:
    return [text.format(number) for text, number in zip(formats, numbers, strict=False)]


if __name__ == "__main__":
    if len(sys.argv) != 2 or not {"USER_LOGIN", "USER_PSWD"} <= set(os.environ):
        sys.exit("usage: USER_LOGIN=name USER_PSWD=password python -m test_files.demo http://127.0.0.1:8000/")
    sys.exit(run(sys.argv[1], os.environ["USER_LOGIN"], os.environ["USER_PSWD"]))
