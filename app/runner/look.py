"""A look at what may hang for minutes (a network disk, a broker that was cut off): in a thread, for a bounded time."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")

GRACE = 0.5
"""Seconds more, once a reading: the machine may have stood still, or have had no turn for the thread."""


class Look(Generic[T]):
    """What `read` gives. While it hangs all who ask wait for the same thread, the only one."""

    def __init__(self, read: Callable[[], T]) -> None:
        self._read = read
        self._lock = threading.Lock()
        self._future: Future[T] | None = None
        self._graced: Future[T] | None = None
        self._began = 0.0

    def __call__(self, seconds: float) -> T:
        """Raises what `read` raises, or TimeoutError (an OSError) where it has been at it for so long."""
        return self.begin()(seconds)

    def begin(self) -> Callable[[float], T]:
        """The same in two steps: returns what is to be called for the answer."""
        with self._lock:
            if self._future is None or self._future.done():
                future: Future[T] = Future()
                threading.Thread(target=self._look, args=(future,), daemon=True, name="look").start()
                self._future, self._began = future, time.monotonic()
            future, began = self._future, self._began

        def answer(seconds: float) -> T:
            try:
                return future.result(max(began + seconds - time.monotonic(), 0))
            except TimeoutError:
                with self._lock:
                    known, self._graced = self._graced, future
                return future.result(0 if known is future else GRACE)

        return answer

    def _look(self, future: "Future[T]") -> None:
        try:
            future.set_result(self._read())
        except BaseException as error:  # whatever it is, it is for those who asked
            future.set_exception(error)
