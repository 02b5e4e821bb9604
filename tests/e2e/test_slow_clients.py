"""Clients that are slow, or send a lot, take nothing from the others."""

import base64
import json
import socket
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import requests

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
        self.port = live.port
        self.held: list[socket.socket] = []

    def add(self, sent: bytes, count: int = COUNT) -> None:
        for _ in range(count):
            client = socket.socket()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", self.port))
            self.held.append(client)
            client.sendall(sent)


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


def test_what_was_not_taken_is_new_and_others_get_it(large: tuple[int, int], live: Live, crowd: Crowd) -> None:
    """A reader that stalls has claimed the fold. The fold is free again when the reader is gone."""

    def new() -> list[int]:
        address = f"{live.url}/runapp/testpredictions/new/"
        answer = requests.post(address, json={"raw_data_id": large[0]}, auth=(LOGIN, PASSWORD), timeout=60)
        return [record["databoard_sf_id"] for record in answer.json()]

    organiser = Organiser(live)
    again = {"submission_id": organiser.look(large[1])["databoard_s"], "fold_id": large[1], "force": "submission_fold"}
    organiser.tested(organiser.fold(None, None, np.arange(10), **again))
    crowd.add(read_new_predictions(large), 1)
    assert crowd.held[0].recv(1)
    assert new() == []
    crowd.held[0].close()
    assert until(new, 60, "the fold is new again") == [large[1]]


def test_a_form_without_credentials_is_refused_unread(live: Live) -> None:
    with socket.create_connection(("127.0.0.1", live.port), timeout=60) as client:
        client.sendall(request("POST", "/admin/login/", b"username=", 30 << 20, login=False))
        assert client.recv(100).startswith(b"HTTP/1.1 413 ")
