"""Data sets as the supervisor holds them: labels to be handed out, features never looked at. Trusted, outside."""

import os
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np

_HELD = 64
"""Data sets that are held: each takes a descriptor, of which a process has few."""


@dataclass
class Held:
    """features: a sealed memfd that the supervisor passes on unread. labels: of the train set, shape (n_train,);

    None for a custom data set, whose interface wants them in the fold, so that they are among the features. classes:
    the different labels of the train and the test set, sorted; None for a custom data set, too.
    """

    features: int
    labels: np.ndarray | None
    rows: tuple[int, int]
    size: int
    classes: np.ndarray | None = None

    def __del__(self) -> None:
        os.close(self.features)


class DataSets:
    """The data sets in use, read once a worker; the least recently used goes when they exceed `most` bytes, or _HELD.

    A version's folder never changes, so its path is the key and nothing is ever stale.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: OrderedDict[Path, Held] = OrderedDict()
        self._reading: dict[Path, Lock] = {}
        self._lock = Lock()

    def folders(self) -> set[Path]:
        with self._lock:
            return set(self._held)

    def get(self, folder: Path, read: Callable[[], Held]) -> Held:
        """read is called by one thread at a time for each folder; what it raises passes through."""
        with self._lock:
            reading = self._reading.setdefault(folder, Lock())
        with reading:
            with self._lock:
                held = self._held.get(folder)
                if held is not None:
                    self._held.move_to_end(folder)
                    return held
            held = read()
            with self._lock:
                self._held[folder] = held
                while len(self._held) > 1 and (
                    len(self._held) > _HELD or sum(other.size for other in self._held.values()) > self._most
                ):
                    dropped, _ = self._held.popitem(last=False)
                    self._reading.pop(dropped, None)
            return held
