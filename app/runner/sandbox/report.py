"""What a fold says of itself, as far as it can be true. Supervisor: trusted, outside; what it is given may lie."""

import contextlib
import json
import math
import mmap
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from runner.jobs import (
    HARD_LIMIT_TEXT,
    SOFT_LIMIT_TEXT,
    STATES,
    Failure,
    Limits,
    Outcome,
    Reason,
    too_many_predictions,
)
from runner.labels import Classes

OnStage = Callable[[str, dict[str, float]], None]

STAGES = ("train", "validation", "test")
_DONE = ("TODO", *STATES.values())


_ROUNDING = 1e-6
_VALUES = 1 << 20
"""How many predictions are looked at in one go: each needs some bytes of this process meanwhile."""
_KILLED = ("", "done", "talk", "output", "memory", "hard")


class ForkError(Exception):
    """A fork did not get as far as foreign code: the runner's fault."""


def stage_after(state: str) -> str:
    """The stage that a fold of this state is in; the last one if it is done."""
    return STAGES[min(_DONE.index(state), 2)]


class Measures:
    """What a zygote has measured in one run, as far as it can be true: an organiser's code may have taken its place."""

    def __init__(self) -> None:
        self._began = self._wall = time.monotonic()
        self._first: float | None = None
        self._cpu = 0.0

    def checked(self, said: Any) -> dict[str, float]:
        """wall, cpu, memory: times within those that went by here, memory within the machine's. Raises ValueError."""
        wall, cpu, memory = (_number(said, name) for name in ("wall", "cpu", "memory"))
        now = time.monotonic()
        if self._first is None:  # it counts from anywhere
            self._first = self._cpu = cpu
        self._wall = min(max(self._wall, wall), now)
        self._cpu = min(max(self._cpu, cpu), self._first + (now - self._began) * (os.cpu_count() or 1))
        return {"wall": self._wall, "cpu": self._cpu, "memory": min(memory, _MACHINE)}


_MACHINE = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
_MOST = 1 << 62


def _number(said: Any, name: str) -> float:
    value = said.get(name) if isinstance(said, dict) else None
    if isinstance(value, int | float) and 0 <= value < _MOST:  # NaN is not
        return float(value)
    raise ValueError(f"the zygote measured no {name}")


def check_ended(ended: Any, measures: Measures) -> dict[str, Any]:
    """How a fork ended, as watch says it. Raises ValueError for anything else."""
    measured = measures.checked(ended)
    status, killed, printed = (ended.get(name) for name in ("status", "killed", "printed"))
    flags = {name: ended.get(name) for name in ("soft", "oom")}
    if not (
        type(status) is int
        and abs(status) < 256
        and killed in _KILLED
        and type(printed) is int
        and 0 <= printed < _MOST
        and all(type(flag) is bool for flag in flags.values())
    ):
        raise ValueError("the zygote did not say how a fork ended")
    return {"status": status, "killed": killed, "printed": printed} | flags | measured


class Hearing:
    """What a fold has said, as far as it can be true."""

    def __init__(
        self,
        outcome: Outcome,
        rows: tuple[int, int],
        capacity: int,
        on_stage: OnStage,
        classes: Classes | None = None,
    ) -> None:
        """capacity: bytes of the predictions. classes: where the predictions are their probabilities."""
        self._outcome = outcome
        self._classes = classes
        self._rows = {"validation": rows[0], "test": rows[1]}
        self._capacity = capacity
        self._on_stage = on_stage
        self._before: dict[str, float] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._memory = 0.0
        self._last: list[Any] = []
        self._lie = ""

    def heard(self, text: bytes, measured: dict[str, float]) -> None:
        word = parse(text)
        if not self._before:
            check_ready(word)
            self._before = measured
            return
        self._last = word
        stage, before = self.stage, dict(self._outcome.measures)
        self._measure(stage, measured)
        if self._lie or word[:1] == ["failed"]:
            return
        if self._outcome.state == STATES["test"] or word[:1] != [stage] or len(word) != (1 if stage == "train" else 2):
            self._lie = "it reported its stages out of order"
        elif stage == "train" or self._fits(stage, word[1]):
            self._outcome.state = STATES[stage]
            self._on_stage(stage, {name: value for name, value in self._outcome.measures.items() if name not in before})

    @property
    def ready(self) -> bool:
        """Whether foreign code may have run."""
        return bool(self._before)

    @property
    def stage(self) -> str:
        """The one that it is in."""
        return stage_after(self._outcome.state)

    def _fits(self, stage: str, shape: Any) -> bool:
        rows = self._rows[stage]
        if not (isinstance(shape, list) and 1 <= len(shape) <= 8 and whole_numbers(shape, len(shape))):
            self._lie = "it reported a prediction of no shape"
        elif shape[0] != rows:
            self._lie = f"{rows} rows were to be predicted, but the prediction has {shape[0]} rows"
        elif 0 in shape[1:]:
            self._lie = f"the predictions have 0 columns: their shape is {tuple(shape)}"
        elif 8 * (math.prod(shape) + sum(map(math.prod, self._shapes.values()))) > self._capacity:
            values = math.prod(shape) + sum(map(math.prod, self._shapes.values()))
            self._lie = too_many_predictions(values, self._capacity)
        else:
            self._shapes[stage] = tuple(shape)
        return not self._lie

    def _measure(self, stage: str, measured: dict[str, float]) -> None:
        """Add what went by since the last word. The peak of the test is that from the end of training on."""
        measures, before = self._outcome.measures, self._before

        def add(name: str, value: float) -> None:
            measures[name] = measures.get(name, 0.0) + max(0.0, value)

        add(f"{stage}_time", measured["wall"] - before["wall"])
        if stage != "validation":
            add(f"{stage}_cpu_time", measured["cpu"] - before["cpu"])
        if stage != "train":
            self._memory = max(self._memory, measured["memory"])
        if stage != "validation":
            measures[f"{stage}_memory"] = (measured["memory"] if stage == "train" else self._memory) // 1024
        self._before = measured

    def finish(self, ended: dict[str, Any], limits: Limits) -> None:
        outcome, stage = self._outcome, self.stage
        if not self._before:
            raise ForkError("a fold ended before it was confined")
        if self._lie and ended.get("killed") in ("", "done", "talk") and not ended.get("soft"):
            outcome.failure = Failure(Reason.USER_CODE, stage, self._lie)
        elif (found := why(ended, self._last, limits)) is not None:
            outcome.failure = Failure(found[0], stage, found[1])
        elif outcome.state != STATES["test"]:
            outcome.failure = Failure(
                Reason.KILLED_ITSELF, stage, "the submission's process ended before its work was done"
            )
        if ended.get("killed") != "done":
            self._measure(stage, ended)

    def take(self, predictions: int) -> None:
        """Arrays over the memory where the fold left them; every process that could write it is dead."""
        place = mmap.mmap(predictions, 0, prot=mmap.PROT_READ)
        offset, arrays = 0, {}
        for stage, shape in self._shapes.items():
            array: np.ndarray = np.ndarray(shape, np.float64, place, offset)
            offset += array.nbytes
            arrays[stage] = array
            self._outcome.notes += [f"{stage}: {note}" for note in _odd(array, self._classes)]
        self._outcome.full_train_predictions = arrays.get("validation")
        self._outcome.test_predictions = arrays.get("test")


def _odd(predictions: np.ndarray, classes: Classes | None) -> Iterator[str]:
    """What a person should know of these predictions, although it is no error."""
    if not predictions.size:
        return
    rows = predictions.reshape(len(predictions), -1)
    odd: list[tuple[str, Callable[[np.ndarray], np.ndarray]]]
    odd = [("are not a number", np.isnan), ("are infinite", np.isinf)]
    if classes is not None:
        odd.append(("are outside [0, 1], which no probability is", _outside))
    for what, test in odd:
        blocks = np.array_split(rows, max(1, rows.size // _VALUES))
        if number := sum(int(test(block).any(axis=1).sum()) for block in blocks):
            yield f"{number} of {len(rows)} predictions {what}"
    if classes is not None and (text := classes.remark(rows.shape[1])):
        yield text


def _outside(rows: np.ndarray) -> np.ndarray:
    """Not by a rounding error; infinite values have a note of their own."""
    return np.isfinite(rows) & ((rows < -_ROUNDING) | (rows > 1 + _ROUNDING))


_CLAIMS = {Reason.USER_CODE, Reason.MEMORY_LIMIT, Reason.SCRATCH_SPACE}
"""What a fork may say of itself; a lie harms its author alone."""


def why(ended: dict[str, Any], last: list[Any], limits: Limits) -> tuple[Reason, str] | None:
    """The reason why a fork failed, and a message; None if it did not."""
    killed, status = ended.get("killed"), ended.get("status")
    text = last[3] if len(last) == 4 and last[0] == "failed" and isinstance(last[3], str) else ""
    if killed == "hard":
        return Reason.TIME_LIMIT, f"{HARD_LIMIT_TEXT} ({limits.hard_time:g} s)"
    if ended.get("soft"):
        heading = f"{SOFT_LIMIT_TEXT} ({limits.soft_time:g} s)"
        return Reason.TIME_LIMIT, f"{heading}\n{text}" if text else heading
    if killed == "output":
        return Reason.OUTPUT, "the submission printed more than is let through"
    if killed == "memory" or (ended.get("oom") and (killed != "done" or text)):
        return Reason.MEMORY_LIMIT, f"more than the {limits.memory >> 20} MiB of memory that a fold may use" + (
            f"\n{text}" if text else ""
        )
    if killed == "talk":
        return Reason.USER_CODE, "the submission wrote into the runner's own channel"
    if last[:1] == ["failed"]:
        claim = (
            next((reason for reason in _CLAIMS if reason == last[2]), Reason.USER_CODE) if text else Reason.USER_CODE
        )
        return claim, text or "an error without a text"
    if killed == "done":
        return None
    if isinstance(status, int) and status < 0:
        with contextlib.suppress(ValueError):
            return Reason.KILLED_ITSELF, f"the process ended by signal {signal.Signals(-status).name}"
    return Reason.KILLED_ITSELF, f"the process ended itself with exit code {status}"


def check_ready(word: list[Any]) -> None:
    """The first word: said before any foreign code ran."""
    if word != ["ready"]:
        raise ForkError(f"a fold could not be confined: {word[1] if len(word) == 2 else word}")


def parse(text: bytes) -> list[Any]:
    try:
        word = json.loads(text)
    except (ValueError, RecursionError):
        return []
    return word if isinstance(word, list) else []


def whole_numbers(value: Any, count: int) -> bool:
    return isinstance(value, list) and len(value) == count and all(type(n) is int and 0 <= n < 1 << 40 for n in value)
