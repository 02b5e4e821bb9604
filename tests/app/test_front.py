"""What stands between clients and Django: who is slow, or asks for much, takes nothing from the others."""

import io
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from datarun_web import bounds, front
from datarun_web.bounds import Patience, Places
from datarun_web.front import Front
from runapp.base import USER
from tests.e2e.live import until

pytestmark = pytest.mark.embedded

HEAD = ("200 OK", [("Content-Type", "text/plain")])


class Answer:
    """A response as Django's: of pieces, made one at a time."""

    def __init__(self, *pieces: bytes, in_step: bool = False, counts: bool = False) -> None:
        self.in_step, self.counts = in_step, counts
        self.made, self.complete, self.closed = 0, False, threading.Event()
        self._pieces = pieces

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            self.made += 1
            yield piece
        self.complete = True

    def close(self) -> None:
        self.closed.set()


class Server:
    """A Front before an application that gives this answer to each request of this user."""

    def __init__(self, answer: Callable[[], Answer], threads: int = 2) -> None:
        self.answers: list[Answer] = []
        self.bodies: list[bytes] = []
        self.heads: list[Any] = []
        self.user: Any = 1
        self._make = answer
        self.front = Front(self._app, threads)

    def _app(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Answer:
        self.bodies.append(environ["wsgi.input"].read())
        environ[USER] = self.user
        start_response(*HEAD)
        self.answers.append(self._make())
        return self.answers[-1]

    def ask(self, body: bytes = b"", **environ: Any) -> Any:
        request = {
            "REQUEST_METHOD": "POST",
            "PATH_INFO": "/runapp/rawdata/",
            "CONTENT_LENGTH": str(len(body)),
            "wsgi.input": io.BytesIO(body),
            "wsgi.file_wrapper": None,
            "gunicorn.socket": object(),
        }
        return self.front(request | environ, lambda *head: self.heads.append(head))


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front, "WAIT_SECONDS", 0.2)


def test_it_works():
    server = Server(lambda: Answer(b"one", b"two"))
    answer = server.ask(b"body")
    assert b"".join(answer) == b"onetwo"
    assert server.heads == [HEAD]
    assert server.bodies == [b"body"]
    assert server.answers[0].complete
    assert server.answers[0].closed.wait(60)


def test_an_answer_is_made_before_it_is_sent():
    """Whoever takes it slowly holds none of the threads that make answers."""
    server = Server(lambda: Answer(b"x" * front.GATHERED, b"y"), threads=1)
    held = [server.ask() for _ in range(10)]
    assert all(answer.complete for answer in server.answers)
    assert {len(b"".join(answer)) for answer in held} == {front.GATHERED + 1}


def test_a_long_list_is_made_as_it_is_taken():
    server = Server(lambda: Answer(b"x" * front.GATHERED, b"a", b"b", b"c", in_step=True))
    answer = server.ask()
    assert next(answer)[-1:] == b"a"
    [made] = server.answers
    assert (made.made, made.complete) == (2, False)
    assert b"".join(answer) == b"bc"
    assert made.complete


def test_what_counts_is_complete_once_it_was_sent():
    server = Server(lambda: Answer(b"[", b"]", in_step=True, counts=True))
    answer = server.ask()
    assert next(answer) == b"["
    assert next(answer) == b"]"
    [made] = server.answers
    assert not made.complete
    with pytest.raises(StopIteration):
        next(answer)
    assert made.complete


def test_what_was_not_sent_completely_is_not_complete():
    server = Server(lambda: Answer(b"[", b"]", in_step=True, counts=True))
    answer = server.ask()
    next(answer)
    answer.close()  # as gunicorn does whatever happens
    [made] = server.answers
    assert made.closed.wait(60)
    assert not made.complete


def test_an_error_while_it_is_sent_breaks_it_off():
    class Broken(Answer):
        def __iter__(self) -> Iterator[bytes]:
            yield b"x" * (front.GATHERED + 1)
            raise OSError("the disk is away")

    server = Server(lambda: Broken(in_step=True))
    answer = server.ask()
    next(answer)
    with pytest.raises(OSError, match="the disk is away"):
        next(answer)


def test_a_user_has_half_of_the_places_for_long_answers():
    server = Server(lambda: Answer(b"[", b"]", in_step=True, counts=True), threads=4)
    held = [server.ask() for _ in range(2)]
    [content] = server.ask()
    assert b"as many long answers under way" in content
    status, headers = server.heads[-1]
    assert (status, dict(headers)["Retry-After"]) == ("503 Service Unavailable", str(front.RETRY_AFTER))
    assert server.answers[-1].closed.wait(60)
    assert not server.answers[-1].complete

    server.user = 2
    held += [server.ask() for _ in range(2)]
    assert [b"".join(answer) for answer in held] == [b"[]"] * 4
    assert b"".join(server.ask()) == b"[]"


def test_a_request_waits_for_a_place(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(front, "WAIT_SECONDS", 60)
    server = Server(lambda: Answer(b"[", b"]", in_step=True, counts=True), threads=2)
    first, second = server.ask(), []
    thread = threading.Thread(target=lambda: second.append(b"".join(server.ask(b"body"))))
    thread.start()
    until(lambda: len(server.answers) == 2 and server.answers[1].closed.is_set(), 60, "it was asked, and has no place")
    assert b"".join(first) == b"[]"
    thread.join(60)
    assert second == [b"[]"]
    assert server.bodies == [b"", b"body", b"body"]


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front, "sender_of", lambda environ: environ.get("sender"))


def test_a_large_body_of_nobody_is_not_read(known):
    class Unread(io.BytesIO):
        def read(self, *_: Any) -> bytes:
            raise AssertionError("it was read")

    server = Server(lambda: Answer(b"401"))
    length = str(front.SMALL_BODY + 1)
    for environ in ({}, {"PATH_INFO": "/admin/login/", "sender": 1}, {"REQUEST_METHOD": "GET", "sender": 1}):
        assert b"".join(server.ask(CONTENT_LENGTH=length, **{"wsgi.input": Unread()}, **environ)) == b"401"
    assert server.bodies == [b"", b"", b""]


def test_the_large_bodies_in_memory_are_bounded(known, settings):
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 2 * (front.SMALL_BODY + 1)
    body = b"x" * (front.SMALL_BODY + 1)
    go = threading.Event()
    began = threading.Semaphore(0)

    def slow() -> Answer:
        began.release()
        go.wait(60)
        return Answer(b"201")

    server = Server(slow, threads=4)
    done: list[bytes] = []
    threads = [threading.Thread(target=lambda: done.append(b"".join(server.ask(body, sender=1)))) for _ in range(2)]
    for thread in threads:
        thread.start()
        assert began.acquire(timeout=60)
    for sender in (1, 2):
        [content] = server.ask(body, sender=sender)
        assert b"as many large requests under way" in content
    go.set()
    for thread in threads:
        thread.join(60)
    assert done == [b"201", b"201"]
    assert b"".join(server.ask(body, sender=2)) == b"201"


def test_a_client_that_breaks_off_is_no_request():
    server = Server(lambda: Answer(b"400"))
    with pytest.raises(BrokenPipeError):
        server.ask(b"half", CONTENT_LENGTH="8")
    assert server.answers == []


# --- patience


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    server, client = socket.socketpair()
    client.settimeout(60)
    yield server, client
    server.close()
    client.close()


@pytest.fixture
def patience() -> Patience:
    patience = Patience()
    patience.start()
    return patience


def test_a_client_that_stalls_is_cut_off(pair, patience):
    server, client = pair
    patience.expect(server, seconds=0.0)
    assert client.recv(1) == b""
    with pytest.raises(BrokenPipeError):
        server.sendall(b"x")


def test_the_thread_that_waits_for_it_goes_on(pair, patience):
    server, _ = pair
    patience.expect(server, seconds=0.0)
    assert server.recv(1) == b""


def test_a_large_piece_has_more_time(monkeypatch, pair, patience):
    server, client = pair
    now = [0.0]
    monkeypatch.setattr(bounds.time, "monotonic", lambda: now[0])
    patience.expect(server, size=patience.BYTES_PER_SECOND * 100)
    now[0] = patience.STALL_SECONDS + 99
    patience.end_overdue()
    server.sendall(b"x")
    assert client.recv(1) == b"x"
    now[0] += 2
    patience.end_overdue()
    assert client.recv(1) == b""


def test_who_waits_for_the_server_is_not_hurried(pair, patience):
    server, client = pair
    patience.expect(server, seconds=-1.0)
    patience.forget(server)
    patience.end_overdue()
    server.sendall(b"x")
    assert client.recv(1) == b"x"


# --- places


def test_places_are_bounded_in_all_and_a_user():
    places = Places(3, 2)
    assert [places.take(user) for user in "aaabb"] == [True, True, False, True, False]
    places.give("a")
    assert [places.take("b"), places.take("a")] == [True, False]
