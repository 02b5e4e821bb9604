"""How long a client may stall, and how many of something there may be at once, in all and a user."""

import socket
import threading
import time
from collections import Counter
from collections.abc import Hashable
from contextlib import suppress


class Patience:
    """Ends connections whose client does not send or take what is due in time.

    A timeout of the socket would not do: who sends a byte every few seconds never runs into it.
    """

    STALL_SECONDS = 30.0
    BYTES_PER_SECOND = 32 << 10
    """A client has STALL_SECONDS for what it sends or takes next, and a second more for so many bytes of it."""

    def __init__(self) -> None:
        self._due: dict[socket.socket, float] = {}

    def start(self) -> None:
        threading.Thread(target=self._run, name="patience", daemon=True).start()

    def expect(self, connection: socket.socket, size: int = 0, seconds: float | None = None) -> None:
        """From now on the client is due to send, or take, so many bytes."""
        allowed = self.STALL_SECONDS if seconds is None else seconds
        self._due[connection] = time.monotonic() + allowed + size / self.BYTES_PER_SECOND

    def forget(self, connection: socket.socket) -> None:
        """Nothing is due from the client."""
        self._due.pop(connection, None)

    def _run(self) -> None:
        while True:
            time.sleep(0.5)
            self.end_overdue()

    def end_overdue(self) -> None:
        now = time.monotonic()
        for connection, due in list(self._due.items()):
            if due < now:
                self.forget(connection)
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)  # the thread that waits for it gets an error


patience = Patience()


class Places:
    """At most `total` places that are taken at once, and `each` by one user."""

    def __init__(self, total: int, each: int) -> None:
        self._free, self._each = total, each
        self._taken: Counter[Hashable] = Counter()
        self._changed = threading.Condition()

    def take(self, user: Hashable, count: int = 1, seconds: float = 0.0) -> bool:
        """Take so many, waiting for so long if they are taken; False if there are none."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._are_free(user, count), seconds):
                return False
            self._free -= count
            self._taken[user] += count
            return True

    def give(self, user: Hashable, count: int = 1) -> None:
        with self._changed:
            self._free += count
            self._taken[user] -= count
            if not self._taken[user]:
                del self._taken[user]
            self._changed.notify_all()

    def _are_free(self, user: Hashable, count: int) -> bool:
        return count <= self._free and self._taken[user] + count <= self._each
