"""What the tests of the API share: packed contents, request bodies, and a runner's messages."""

import base64
import json
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import kombu.pools
import numpy as np
from celery import current_app
from django.db import connection, connections
from django.test import TestCase
from django.utils import timezone
from rest_framework.test import APIClient

from runapp import services
from runapp.models import RawData, Runner, SubmissionFold
from runner.jobs import version_name

USER, PASSWORD = "ada", "correct horse: battery"

IRIS = b"petal,sepal,species\n" + b"".join(b"%d.5,%d.25,%d\n" % (row, 3 * row, row % 3) for row in range(12))
CLASSIFIER = b"class Classifier:\n    pass\n"
OTHER_CLASSIFIER = b"class Classifier:\n    better = True\n"
SPECIFIC = b"def prepare_data(raw_data_path):\n    pass\n"

STARTED_AT = time.time() - 2
"""When the runs began whose messages are made here."""

_handlers: dict[bool, Any] = {}


def pack(content: bytes) -> str:
    """A file's content as it travels."""
    return base64.b64encode(zlib.compress(content)).decode()


def unpack(text: str) -> bytes:
    return zlib.decompress(base64.b64decode(text, validate=True))


def indices(numbers: Iterable[int]) -> str:
    return pack(np.array(list(numbers), "<i8").tobytes())


def predictions(rows: int, columns: int = 3) -> str:
    return pack(np.arange(rows * columns, dtype="<f8").tobytes())


@dataclass
class Answer:
    """What came back, whole: content as it was, and body, the same read as JSON."""

    status: int
    headers: Any
    content: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.content)

    @property
    def ids(self) -> list[int]:
        return [record["databoard_sf_id"] for record in self.body]


class Api:
    """The API as a client sees it, with Basic credentials unless it is told otherwise.

    In a test that is one transaction, what a request leaves to do after its commit is done at its end.
    """

    def __init__(self, login: tuple[str, str] | None = (USER, PASSWORD), **client: Any) -> None:
        self.client = APIClient(**client)
        # Loading the middleware takes longer than a request: once is enough.
        strict = bool(client.get("enforce_csrf_checks"))
        handler = _handlers.setdefault(strict, self.client.handler)
        handler._force_user = handler._force_token = None
        self.client.handler = handler
        if login:
            self.client.credentials(HTTP_AUTHORIZATION=basic(*login))

    def get(self, path: str, **query: Any) -> Answer:
        return self.answer(lambda: self.client.get(address(path), query))

    def post(self, path: str, body: Any = None, **headers: Any) -> Answer:
        # Escaped as JSON can: a client may send what UTF-8 can't, such as half of a surrogate pair.
        return self.post_bytes(path, json.dumps(body).encode(), **headers)

    def post_bytes(self, path: str, body: bytes, content_type: str = "application/json", **headers: Any) -> Answer:
        return self.answer(lambda: self.client.post(address(path), body, content_type=content_type, **headers))

    def new_fold(self, raw_data: RawData, /, key: int = 1, **more: Any) -> Answer:
        return self.post("submissionfold/", new_fold(raw_data, key, **more))

    def answer(self, send: Callable[[], Any]) -> Answer:
        with committed():
            response = send()
            content = response.getvalue() if response.streaming else response.content
        return Answer(response.status_code, response.headers, content)


def committed() -> AbstractContextManager[Any]:
    """What the block leaves to do after its commit is done at its end, in a test that never commits."""
    return TestCase.captureOnCommitCallbacks(execute=True) if connection.in_atomic_block else nullcontext()


def address(path: str) -> str:
    # With the host: else the client would take `//runapp/` for one.
    return "http://testserver" + (path if path.startswith("/") else f"/runapp/{path}")


def basic(name: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


# --- what clients send


def data_set(name: str = "iris", **more: Any) -> dict[str, Any]:
    """The request that stores a standard data set."""
    body = {"name": name, "target_column": "species", "workflow_elements": "classifier"}
    return body | {"files": {"anything.csv": pack(IRIS)}} | more


def custom_data_set(name: str = "digits", **more: Any) -> dict[str, Any]:
    body = {"name": name, "target_column": "", "workflow_elements": "whatever, we like"}
    return body | {"files": {"ours.py": pack(SPECIFIC), "digits.csv.gz": pack(bytes(range(256)))}} | more


def fold(key: int = 1, submission: int = 1, **more: Any) -> dict[str, Any]:
    """The request that sends a fold of a submission that is there."""
    body = {"databoard_sf_id": key, "databoard_s_id": submission}
    return body | {"train_is": indices([0, 1, 2, 3, 4, 5]), "test_is": indices([6, 7, 8])} | more


def new_fold(raw_data: RawData, /, key: int = 1, submission: int = 1, **more: Any) -> dict[str, Any]:
    """The request that sends a fold with its submission."""
    return fold(key, submission, raw_data=raw_data.pk, files={"classifier.py": pack(CLASSIFIER)}) | more


# --- what runners send


def split_result(raw_data: RawData, rows: tuple[int, int] | None = (9, 3), **more: Any) -> dict[str, Any]:
    """The message at the end of the split that was asked for last; rows None: it failed."""
    task_id = RawData.objects.get(pk=raw_data.pk).split_task_id
    message = {"raw_data_id": raw_data.pk, "task_id": task_id, "rows": rows and [*rows], "reason": None, "log": ""}
    message["runner"] = "runner@here"
    if not rows:
        message |= {"reason": "user_code", "log": "ERROR(split data): no such column"}
    return message | more


def finish_split(raw_data: RawData, rows: tuple[int, int] | None = (9, 3), **more: Any) -> bool:
    """End a data set's split as a runner does: the new version stands on the disk before the message is sent."""
    message = split_result(raw_data, rows, **more)
    if rows:
        version = raw_data.root / version_name(message["task_id"])
        version.mkdir(exist_ok=True)
        (version / "train.csv").write_bytes(IRIS)
        version.with_name(f"{version.name}.sha256").touch()
    with committed():
        return services.finish_split(message)


def result(key: int = 1, state: str = "TESTED", **more: Any) -> dict[str, Any]:
    """The message at the end of a fold, of the task that it waits for unless another is given."""
    message = {
        "databoard_sf_id": key,
        "task_id": more.get("task_id") or SubmissionFold.objects.get(pk=key).task_id,
        "runner": "runner@here",
        "started_at": STARTED_AT,
        "finished_at": time.time(),
        "state": state,
        "error_reason": "",
        "log_messages": "",
    }
    if state == "TESTED":
        message |= {
            "train_time": 1.5,
            "validation_time": 0.25,
            "test_time": 0.125,
            "train_cpu_time": 1.25,
            "test_cpu_time": 0.0625,
            "train_memory": 2048.0,
            "test_memory": 1024.0,
            "full_train_predictions": predictions(9),
            "test_predictions": predictions(3),
            "full_train_predictions_shape": [9, 3],
            "test_predictions_shape": [3, 3],
        }
    return message | more


def failure(key: int = 1, reason: str = "infrastructure", **more: Any) -> dict[str, Any]:
    return result(key, "ERROR", error_reason=reason, log_messages="ERROR(train): the disk is away", **more)


def progress(key: int = 1, state: str = "TRAINED", **more: Any) -> dict[str, Any]:
    message = {
        "databoard_sf_id": key,
        "task_id": SubmissionFold.objects.get(pk=key).task_id,
        "runner": "runner@here",
        "started_at": STARTED_AT,
        "state": state,
        "hard_time_limit": 360.0,
    }
    return message | more


def report(name: str = "runner@here", number: int = 1, **more: Any) -> dict[str, Any]:
    """The message with which a runner says what it does."""
    message = {
        "name": name,
        "state": "up",
        "started_at": time.time() - 60,
        "number": number,
        "queues": ["H", "L"],
        "configured": ["H", "L"],
        "slots": 2,
        "busy": [],
        "soft_time_limit": 300.0,
        "hard_time_limit": 360.0,
        "version": "1.0.0",
        "share": True,
        "packages": [{"name": "numpy", "version": "2.4.6", "modules": ["numpy"]}],
    }
    return message | more


def heard(*, steadily: bool = True, **more: Any) -> None:
    """A runner is up, and has been for long unless it has just come back."""
    services.save_runner(report(**more))
    if steadily:
        Runner.objects.update(heard_since=timezone.now() - timedelta(hours=1))


def busy(key: int | None, raw_data: int | None = None) -> dict[str, Any]:
    """What a slot of a runner runs, in its report."""
    return {"databoard_sf_id": key, "raw_data_id": raw_data, "since": time.time() - 5}


def finish(message: dict[str, Any]) -> bool:
    with committed():
        return services.finish(message)


# --- what is where


@dataclass
class Message:
    """A task in a queue: its name, its id, and the only argument."""

    name: str
    task_id: str
    content: Any


class Queues:
    """The queues of the real broker that the environment names."""

    def __init__(self) -> None:
        self.connection: Any = current_app.connection_for_write()
        self._known: set[str] = set()

    def take(self, name: str) -> list[Message]:
        """The waiting messages of a queue, oldest first; they are gone from it."""
        messages = []
        with self.connection.channel() as channel:
            queue = current_app.amqp.queues[name].bind(channel)
            while (message := queue.get(no_ack=True)) is not None:
                [content], _, _ = message.payload
                messages.append(Message(message.headers["task"].rpartition(".")[2], message.headers["id"], content))
        return messages

    def folds(self, name: str = "L") -> list[int]:
        """The ids of the folds that wait in a queue, which it takes."""
        return [message.content["databoard_sf_id"] for message in self.take(name)]

    def purge(self) -> None:
        with self.connection.channel() as channel:
            for queue in current_app.amqp.queues.values():
                bound = queue.bind(channel)
                if queue.name not in self._known:
                    bound.declare()
                    self._known.add(queue.name)
                # Without a look, which finds no message in a queue whose leader is slow to say how many it has.
                bound.purge()

    def remove(self, *names: str) -> None:
        """Take the queues away, as a broker does that comes back without its disk."""
        with self.connection.channel() as channel:
            for name in names:
                channel.queue_delete(name)
                self._known.discard(name)
        app: Any = current_app
        kombu.pools.reset()
        app._after_fork()  # which forgets its connections


class Valve:
    """A way to a server that passes on what comes, both ways, while it is open; shut, it is as a frozen server."""

    def __init__(self, server: tuple[str, int]) -> None:
        self._server, self._open = server, threading.Event()
        self._open.set()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._sockets = [self._socket]
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def shut(self, at_most: float = 20) -> None:
        """Opens by itself in time: who waits for ever should fail, not hang."""
        self._open.clear()
        timer = threading.Timer(at_most, self._open.set)
        timer.daemon = True
        timer.start()

    @property
    def is_shut(self) -> bool:
        return not self._open.is_set()

    def open(self) -> None:
        self._open.set()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client = self._socket.accept()[0]
                server = socket.create_connection(self._server)
                self._sockets += [client, server]
                for pair in ((client, server), (server, client)):
                    threading.Thread(target=self._pass_on, args=pair, daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while content := source.recv(1 << 16):
                self._open.wait()
                target.sendall(content)
            target.shutdown(socket.SHUT_WR)

    def __enter__(self) -> "Valve":
        return self

    def __exit__(self, *_: Any) -> None:
        self._open.set()
        for one in self._sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)  # closed alone, it would not wake the thread that reads
            one.close()


def files_below(folder: Path) -> dict[str, bytes]:
    """Path below folder -> content, of all files."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def in_thread(work: Callable[[], Any]) -> Callable[[], Any]:
    """The work, leaving no connection to the database behind in its thread."""

    def run() -> Any:
        try:
            return work()
        finally:
            connections.close_all()

    return run


def stored() -> SubmissionFold:
    """The only fold, as it is now."""
    return SubmissionFold.objects.get()
