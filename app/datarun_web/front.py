"""The WSGI application before Django's: it keeps slow clients away from the threads that answer requests.

A connection has a cheap thread of its own, which reads the request and sends the answer. Django runs in a pool of
threads that keep their connections to the database. A request gets there once it is read, and leaves it once its
answer is made. An answer that is long, or whose end has a meaning (the folds in it count as fetched), is made while it
is sent. It takes a place, of which a user has half at most.
"""

import errno
import io
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from django.conf import settings
from django.http import JsonResponse

from datarun_web.bounds import Places, patience
from runapp.authentication import sender_of
from runapp.base import USER
from runapp.middleware import SMALL_BODY, most_bytes

WAIT_SECONDS = 20.0
"""Seconds that a request waits for a place before it is refused."""

RETRY_AFTER = 10

GATHERED = 1 << 20
"""Bytes of an answer that are made before it takes a place."""

_PIECE = 1 << 20

Environ = dict[str, Any]


class Front:
    """Called in a connection's thread.

    threads: requests that Django answers at once, beside as many long answers.
    """

    def __init__(self, app: Callable[..., Any], threads: int) -> None:
        self._app = app
        self._pool = ThreadPoolExecutor(2 * threads, "request")
        self._long = Places(threads, max(threads // 2, 1))
        # Bytes, of which a request takes three times as many while it is read as JSON: one of the largest, and beside
        # it a quarter for the others.
        largest = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
        self._large = Places(largest + largest // 4, largest)

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Any:
        connection = environ["gunicorn.socket"]
        patience.forget(connection)
        if environ["PATH_INFO"] == "/healthz":
            # It touches nothing, and says that the server is alive, however busy it is.
            patience.expect(connection)
            return self._app(environ, start_response)
        length = int(environ.get("CONTENT_LENGTH") or 0)
        sender = None
        if length > SMALL_BODY:
            sender = self._pool.submit(_sender_of_large, environ, length).result()
            if sender is not None and not self._large.take(sender, length, WAIT_SECONDS):
                return _busy(start_response, "large requests")
        try:
            if length > SMALL_BODY and sender is None:
                return self._answer(environ, b"", start_response)
            # The body goes as an argument alone: nothing here holds it while Django reads it.
            return self._answer(environ, _read(environ["wsgi.input"], length, connection), start_response)
        finally:
            if sender is not None:
                self._large.give(sender, length)

    def _answer(self, environ: Environ, body: bytes, start_response: Callable[..., Any]) -> Any:
        again = body if len(body) <= SMALL_BODY else None
        work = self._submit(environ, body)
        del body
        first = work.pieces.get()
        if isinstance(first, _NoPlaceError) and again is not None and self._long.take(first.user, 1, WAIT_SECONDS):
            # The first time has changed nothing: what such a request changes it does when its answer was sent.
            work = self._submit(environ, again, (first.user,))
            first = work.pieces.get()
        if isinstance(first, _NoPlaceError):
            return _busy(start_response, "long answers")
        if isinstance(first, BaseException):
            raise first
        try:
            start_response(*work.head)
        except BaseException:
            work.pieces.leave()
            raise
        return _Sending(work.pieces, first, environ["gunicorn.socket"])

    def _submit(self, environ: Environ, body: bytes, place: tuple[Any, ...] = ()) -> "_Work":
        own = environ | {"wsgi.input": _Once(body)}
        del own["wsgi.file_wrapper"]  # Django's threads send no files: those of its pages are small
        work = _Work(self._app, own, self._long, place)
        self._pool.submit(work.run)
        return work


class _NoPlaceError(Exception):
    def __init__(self, user: Any) -> None:
        super().__init__("the user has no place for another long answer")
        self.user = user


class _Once(io.BytesIO):
    """A body that is forgotten once it was read to its end."""

    def __init__(self, body: bytes) -> None:
        super().__init__(body)
        self._size = len(body)

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        if data and self.tell() == self._size:
            self.seek(0)
            self.truncate()
        return data


class _Pieces:
    """An answer on its way from the thread that makes it to the one that sends it: bytes, then None, or what failed."""

    def __init__(self) -> None:
        self._waiting: deque[bytes | BaseException | None] = deque()
        self._changed = threading.Condition()
        self._unsent = 0
        self._gone = False

    def put(self, piece: bytes | BaseException | None) -> None:
        with self._changed:
            self._waiting.append(piece)
            self._unsent += 1
            self._changed.notify_all()

    def wait_sent(self) -> bool:
        """Wait until all is sent; False if the client is gone."""
        with self._changed:
            self._changed.wait_for(lambda: self._gone or not self._unsent)
            return not self._gone

    def get(self) -> bytes | BaseException | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting)
            return self._waiting.popleft()

    def sent(self) -> None:
        with self._changed:
            self._unsent -= 1
            self._changed.notify_all()

    def leave(self) -> None:
        with self._changed:
            self._gone = True
            self._changed.notify_all()


class _Work:
    """A request that Django answers in a thread of the pool."""

    head: tuple[Any, ...]

    def __init__(self, app: Callable[..., Any], environ: Environ, places: Places, place: tuple[Any, ...]) -> None:
        self.pieces = _Pieces()
        self._app, self._environ, self._places = app, environ, places
        self._place = place  # of this user, if it has one

    def run(self) -> None:
        end: BaseException | None = None
        try:
            response = self._app(self._environ, self._start)
            try:
                self._send(response, self._environ.get(USER))
            finally:
                response.close()
        except BaseException as error:
            end = error
        finally:
            if self._place:
                self._places.give(*self._place)
        self.pieces.put(end)

    def _start(self, *head: Any) -> None:
        self.head = head

    def _send(self, response: Any, user: Any) -> None:
        waiting: list[bytes] = []
        in_step = getattr(response, "in_step", False)
        left = GATHERED if in_step and not response.counts else 0 if in_step else float("inf")
        for piece in response:
            left -= len(piece)
            waiting.append(piece)
            if left >= 0:
                continue
            if not self._place:
                if not self._places.take(user):
                    raise _NoPlaceError(user)
                self._place = (user,)
            self.pieces.put(b"".join(waiting))
            waiting.clear()
            # Its end, which may count, comes when the client has taken all.
            if not self.pieces.wait_sent():
                return
        if any(waiting):
            self.pieces.put(b"".join(waiting))


class _Sending(Iterator[bytes]):
    """What gunicorn sends: it asks for a piece when it has sent the one before, and closes at the end in any case."""

    def __init__(self, pieces: _Pieces, first: bytes | BaseException | None, connection: Any) -> None:
        self._pieces, self._next, self._connection = pieces, first, connection
        self._is_first = True

    def __next__(self) -> bytes:
        patience.forget(self._connection)
        if not self._is_first:
            self._pieces.sent()
            self._next = self._pieces.get()
        self._is_first = False
        if isinstance(self._next, BaseException):
            raise self._next
        piece = self._next or b""
        patience.expect(self._connection, len(piece))
        if self._next is None:
            raise StopIteration
        return piece

    def close(self) -> None:
        self._pieces.leave()


def _sender_of_large(environ: Environ, length: int) -> Any:
    """Who may send so many bytes: the user's id; None if nobody may, and Django refuses it unread."""
    return sender_of(environ) if length <= most_bytes(environ["REQUEST_METHOD"], environ["PATH_INFO"]) else None


def _read(stream: Any, length: int, connection: Any) -> bytes:
    """The body of a request. BrokenPipeError if the client breaks off."""
    body = io.BytesIO()
    while (left := length - body.tell()) > 0:
        patience.expect(connection, min(left, _PIECE))
        piece = stream.read(min(left, _PIECE))
        if not piece:
            raise BrokenPipeError(errno.EPIPE, "the client broke off")
        body.write(piece)
    patience.forget(connection)
    return body.getvalue()


def _busy(start_response: Callable[..., Any], what: str) -> list[bytes]:
    text = f"The server has as many {what} under way as it can hold. Send this one again later."
    response = JsonResponse({"detail": [text]}, status=503, headers={"Retry-After": str(RETRY_AFTER)})
    start_response("503 Service Unavailable", [*response.headers.items()])
    return [response.content]
