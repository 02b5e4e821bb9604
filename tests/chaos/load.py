"""A steady load of folds, and what became of each that was accepted."""

import contextlib
import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import requests

from test_files import kits, post_api
from tests import reference
from tests.e2e.live import Organiser, until
from tests.e2e.submissions import HONEST, RAISES, SLOW

ROWS = np.arange(50)
ENDED = ("TESTED", "ERROR")

AGAIN = 5.0
"""Seconds after which a verdict is looked at again: a second one would have come."""


@dataclass(frozen=True)
class Kind:
    """A submission to the iris data, and the end that is its own fault or merit."""

    code: str
    state: str = "TESTED"
    error_reason: str = ""


KINDS = {
    "short": Kind(HONEST),
    "long": Kind(SLOW.format(fit=3, predict=0)),
    "failing": Kind(RAISES, "ERROR", "user_code"),
}


@dataclass
class Verdict:
    """folds: accepted. The others count folds; seconds: from the end of the fault to the last verdict."""

    folds: int = 0
    lost: list[int] = field(default_factory=list)
    changed: list[int] = field(default_factory=list)
    blamed: list[str] = field(default_factory=list)
    wrong: list[int] = field(default_factory=list)
    uncounted: list[int] = field(default_factory=list)
    attempts: Counter[int] = field(default_factory=Counter)
    seconds: float = 0.0

    def broken(self) -> list[str]:
        """The promises that were broken, in words."""
        said: dict[str, list[Any]] = {
            "lost": self.lost,
            "with two verdicts": self.changed,
            "blamed": self.blamed,
            "wrong": self.wrong,
            "whose attempts are not those of its history": self.uncounted,
        }
        return [f"{len(folds)} {what}: {folds[:10]}" for what, folds in said.items() if folds]


class Load:
    """Sends folds of all kinds in a mix that `seed` decides; `most_attempts`: the bound that is promised."""

    def __init__(self, organiser: Organiser, folder: Path, seed: int, most_attempts: int = 3) -> None:
        self.organiser, self.random, self.most_attempts = organiser, random.Random(seed), most_attempts
        self.moments: list[float] = []  # when a fold was accepted, from the begin of the last load to its end
        self.files = {}
        for name, kind in KINDS.items():
            self.files[name] = folder / name / "classifier.py"
            self.files[name].parent.mkdir(parents=True)
            self.files[name].write_text(kind.code)
        kit = kits.IRIS
        self.data_id = organiser.data(kit.data_files[0], target="species", elements="classifier")
        organiser.split(self.data_id, ratio=kit.held_out_test, state=kit.random_state)
        by_hand = reference.predict(_alone(kit), self.files["short"].parent, ROWS)
        self.expected = tuple(array.tobytes() for array in by_hand)
        first = organiser.fold(self.data_id, [self.files["short"]], ROWS)
        organiser.tested(first)
        assert self._predictions(organiser.look(first)) == self.expected, "wrong before any fault"

    @contextlib.contextmanager
    def steady(self, pause: float = 0.3) -> Iterator[dict[int, str]]:
        """Meanwhile a fold is sent every `pause` seconds. Yields what was accepted so far: id -> kind.

        A request without an answer may have been accepted or not: its fold is not counted.
        """
        accepted: dict[int, str] = {}
        self.moments = [time.monotonic()]
        stop = threading.Event()

        def send() -> None:
            while not stop.wait(pause):
                name = self.random.choice([*KINDS])
                with contextlib.suppress(requests.RequestException):
                    fold = self.organiser.new_id()
                    answer = post_api.post_submission_fold(
                        *self.organiser.who, self.organiser.new_id(), fold, ROWS, np.array([0]),
                        self.random.choice("LH"), self.data_id, [str(self.files[name])],
                    )  # fmt: skip
                    if answer.status_code == 201:
                        accepted[fold] = name
                        self.moments.append(time.monotonic())
                    else:
                        assert answer.status_code >= 500, answer.text

        with ThreadPoolExecutor(1) as pool:
            work = pool.submit(send)
            try:
                yield accepted
            finally:
                stop.set()
            work.result()
        self.moments.append(time.monotonic())

    def longest_pause(self) -> float:
        """Seconds in which nothing was accepted, at most, under the last steady load."""
        return max(later - earlier for earlier, later in itertools.pairwise(self.moments))

    def judge(self, accepted: dict[int, str], bound: float) -> Verdict:
        """Wait until all have ended, `bound` seconds at most, then hold each against what it had to be."""
        began = time.monotonic()
        verdict = Verdict(folds=len(accepted))
        first: dict[int, dict[str, Any]] = {}

        def all_ended() -> bool:
            with contextlib.suppress(requests.RequestException, ValueError, KeyError):
                light = post_api.get_submission_fold_light(*self.organiser.who).json()
                for fold in light:
                    number = fold["databoard_sf_id"]
                    if number in accepted and number not in first and fold["state"] in ENDED:
                        first[number] = self.organiser.look(number)
            return first.keys() == accepted.keys()

        with contextlib.suppress(AssertionError):
            until(all_ended, bound, "all have ended")
        verdict.seconds = time.monotonic() - began
        verdict.lost = sorted(accepted.keys() - first.keys())
        time.sleep(AGAIN)
        for number, record in first.items():
            kind = KINDS[accepted[number]]
            now = self.organiser.look(number)
            if [now[name] for name in SAME] != [record[name] for name in SAME]:
                verdict.changed.append(number)
            if len(now["history"]) != now["attempts"]:
                verdict.uncounted.append(number)
            if (record["state"], record["error_reason"]) != (kind.state, kind.error_reason):
                verdict.blamed.append(f"{number} ({accepted[number]}): {record['log_messages']}")
            elif kind.state == "TESTED" and self._predictions(record) != self.expected:
                verdict.wrong.append(number)
            verdict.attempts[now["attempts"]] += 1
        return verdict

    def _predictions(self, record: dict[str, Any]) -> tuple[bytes, ...]:
        names = ("full_train_predictions", "test_predictions")
        return tuple(post_api.decode_predictions(record[name], 1).tobytes() for name in names)


SAME = ("state", "error_reason", "finished_at", "task_id", "test_predictions")
"""What of a fold with a verdict never changes."""


def _alone(kit: kits.Kit) -> kits.Kit:
    """The iris kit with a classifier and nothing else."""
    return replace(kit, workflow_elements="classifier")
