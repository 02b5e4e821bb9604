"""Clients that are slow, or send a lot, take nothing from the others."""

import base64
import contextlib
import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import requests

from test_files import post_api
from tests.e2e.live import LOGIN, PASSWORD, Live, Organiser, until
from tests.e2e.test_large import MODEL, SPECIFIC

pytestmark = pytest.mark.embedded

COUNT = 40
"""Clients at once: five times as many as the server has threads that answer requests."""

SECONDS = 30
"""How long others may take beside them on a busy machine. Without their own threads it would be minutes, or never."""


@pytest.fixture(scope="module")
def large(live: Live, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, int]:
    """A data set, and a tested fold of it with predictions that no buffer on their way holds."""
    folder = tmp_path_factory.mktemp("slow")
    (folder / "specific.py").write_text(SPECIFIC)
    (folder / "rows.txt").write_text("made by specific.py")
    organiser = Organiser(live)
    number = organiser.data(folder / "rows.txt", [folder / "specific.py"])
    organiser.split(number, custom=True)
    files = organiser.submission(folder / "submission", {"model.py": MODEL})
    fold_id = organiser.fold(number, files, np.arange(10))
    organiser.tested(fold_id)
    return number, fold_id


class Crowd:
    """Connections that are opened and kept."""

    def __init__(self, live: Live) -> None:
        self.live = live
        self.held: list[socket.socket] = []

    def add(self, sent: bytes, count: int = COUNT) -> None:
        for _ in range(count):
            client = socket.socket()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", self.live.port))
            self.held.append(client)
            client.sendall(sent)

    def is_gone(self) -> bool:
        """Whether the server has ended all of them. Reads nothing of what it sent to those that it has not."""
        return all(map(_is_closed, self.held))


def _is_closed(client: socket.socket) -> bool:
    client.setblocking(False)
    try:
        client.send(b"x")
    except BlockingIOError:
        return False
    except OSError:
        return True
    return False


@pytest.fixture
def crowd(live: Live) -> Iterator[Crowd]:
    crowd = Crowd(live)
    yield crowd
    for client in crowd.held:
        client.close()


def request(method: str, path: str, body: bytes = b"", length: int | None = None, login: bool = True) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json"]
    if login:
        lines.append(f"Authorization: Basic {base64.b64encode(f'{LOGIN}:{PASSWORD}'.encode()).decode()}")
    lines.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def read_predictions(large: tuple[int, int]) -> bytes:
    return request("POST", "/runapp/testpredictions/list/", json.dumps({"list_submission_fold": [large[1]]}).encode())


def read_new_predictions(large: tuple[int, int]) -> bytes:
    return request("POST", "/runapp/testpredictions/new/", json.dumps({"raw_data_id": large[0]}).encode())


def read_fold(large: tuple[int, int]) -> bytes:
    return request("GET", f"/runapp/submissionfold/{large[1]}/")


def read_script(_: tuple[int, int]) -> bytes:
    return request("GET", "/static/drf_spectacular_sidecar/swagger-ui-dist/swagger-ui-bundle.js", login=False)


def send_no_head(_: tuple[int, int]) -> bytes:
    return b"GET /healthz HTTP/1.1\r\nHost: 127"


def send_nothing(_: tuple[int, int]) -> bytes:
    return b""


def send_small_body(_: tuple[int, int]) -> bytes:
    return request("POST", "/admin/login/", b"username=", 500_000, login=False)


def send_large_body(_: tuple[int, int]) -> bytes:
    return request("POST", "/runapp/rawdata/", b'{"name": "', 100_000_000)


@pytest.mark.parametrize(
    "attack",
    [
        read_predictions,
        read_new_predictions,
        read_fold,
        read_script,
        send_no_head,
        send_nothing,
        send_small_body,
        send_large_body,
    ],
)
def test_others_are_served_beside(
    attack: Callable[[tuple[int, int]], bytes], large: tuple[int, int], live: Live, crowd: Crowd
) -> None:
    crowd.add(attack(large))
    for path in ("healthz", "readyz", "runapp/runners/", "runapp/submissionfold-light/"):
        answer = requests.get(f"{live.url}/{path}", auth=(LOGIN, PASSWORD), timeout=SECONDS)
        assert answer.status_code == 200
