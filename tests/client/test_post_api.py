"""The documented client against a real HTTP server that records what arrives."""

import base64
import inspect
import json
import os
import struct
import subprocess
import sys
import threading
import zlib
from array import array
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from test_files import post_api

APP = Path(post_api.__file__).parents[1]

LOGIN = "host_url, username, password"

MANUAL = {
    "custom_post_split": f"({LOGIN}, raw_data_id)",
    "get_prediction_list": f"({LOGIN}, list_submission_fold_id)",
    "get_prediction_new": f"({LOGIN}, raw_data_id)",
    "get_raw_data": f"({LOGIN})",
    "get_submission_fold": f"({LOGIN})",
    "get_submission_fold_detail": f"({LOGIN}, submission_fold_id)",
    "get_submission_fold_light": f"({LOGIN})",
    "post_data": f"({LOGIN}, data_name, target_column, workflow_elements, data_file, extra_files=None)",
    "post_split": f"({LOGIN}, held_out_test, raw_data_id, random_state=42)",
    "post_submission_fold": (
        f"({LOGIN}, sub_id, sub_fold_id, train_is, test_is, priority='L', raw_data_id=None, "
        "list_submission_files=None, force=None)"
    ),
}
"""The signatures of the manual, release 0.4, chapter 3."""


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]
    content: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.content)


@dataclass
class Recorder:
    """url: of the server. requests: what came, in order. status, headers, answer: what it says to each.

    first: what it says to the first requests in place of `answer`.
    """

    url: str
    requests: list[Request] = field(default_factory=list)
    status: int = 200
    answer: bytes = b'{"id": 7}'
    headers: dict[str, str] = field(default_factory=dict)
    first: list[bytes] = field(default_factory=list)

    @property
    def login(self) -> tuple[str, str, str]:
        return self.url, "ada", "p:ss wörd"

    @property
    def only(self) -> Request:
        [request] = self.requests
        return request


@pytest.fixture
def server(monkeypatch):
    for name in ("NO_PROXY", "no_proxy"):  # a proxy of the machine must not come between
        monkeypatch.setenv(name, "127.0.0.1")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            recorder.requests.append(Request(self.command, self.path, dict(self.headers), content))
            self.send_response(recorder.status)
            answer = recorder.first.pop(0) if recorder.first else recorder.answer
            for name, value in (recorder.headers | {"Content-Length": str(len(answer))}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer)

        do_POST = do_GET

        def log_message(self, *args):
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    recorder = Recorder(f"http://127.0.0.1:{httpd.server_port}/")
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield recorder
    httpd.shutdown()
    thread.join()
    httpd.server_close()


@pytest.fixture
def files(tmp_path):
    """A CSV file, a binary one and a Python file; file name -> path."""
    contents = {"wine.csv": "a,é\r\n1,2\n".encode(), "more.csv.gz": bytes(range(256)), "specific.py": b"x = 1\n"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    return {name: tmp_path / name for name in contents}


def unpack(text: str) -> bytes:
    return zlib.decompress(base64.b64decode(text, validate=True))


def int64s(text: str) -> list[int]:
    content = unpack(text)
    return list(struct.unpack(f"<{len(content) // 8}q", content))


@pytest.mark.parametrize("name", MANUAL)
def test_signature_is_the_manuals(name):
    signature = inspect.signature(getattr(post_api, name))
    plain = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in signature.parameters.values()]
    assert str(inspect.Signature(plain)) == MANUAL[name]


@pytest.mark.parametrize(
    ("name", "args", "path"),
    [
        ("get_raw_data", (), "/runapp/rawdata/"),
        ("get_submission_fold", (), "/runapp/submissionfold/"),
        ("get_submission_fold_light", (), "/runapp/submissionfold-light/"),
        ("get_submission_fold_detail", (11,), "/runapp/submissionfold/11/"),
    ],
)
def test_get(server, name, args, path):
    response = getattr(post_api, name)(*server.login, *args)
    assert isinstance(response, requests.Response)
    assert (response.status_code, response.json()) == (200, {"id": 7})
    assert (server.only.method, server.only.path, server.only.content) == ("GET", path, b"")


@pytest.mark.parametrize(
    ("name", "args", "path", "body"),
    [
        (
            "post_split",
            (0.3, 4),
            "/runapp/rawdata/split/",
            {"held_out_test": 0.3, "raw_data_id": 4, "random_state": 42},
        ),
        (
            "post_split",
            (0.3, 4, 5),
            "/runapp/rawdata/split/",
            {"held_out_test": 0.3, "raw_data_id": 4, "random_state": 5},
        ),
        ("custom_post_split", (4,), "/runapp/rawdata/customsplit/", {"raw_data_id": 4}),
        ("get_prediction_list", ([1, 2, 10],), "/runapp/testpredictions/list/", {"list_submission_fold": [1, 2, 10]}),
        ("get_prediction_list", ([],), "/runapp/testpredictions/list/", {"list_submission_fold": []}),
        (
            "get_prediction_list",
            (np.array([1, 2]),),
            "/runapp/testpredictions/list/",
            {"list_submission_fold": [1, 2]},
        ),
        ("get_prediction_new", (4,), "/runapp/testpredictions/new/", {"raw_data_id": 4}),
        ("get_prediction_new", (np.int64(4),), "/runapp/testpredictions/new/", {"raw_data_id": 4}),
        ("get_prediction_new", (None,), "/runapp/testpredictions/new/", {}),
    ],
)
def test_post(server, name, args, path, body):
    response = getattr(post_api, name)(*server.login, *args)
    assert isinstance(response, requests.Response)
    assert (server.only.method, server.only.path, server.only.body) == ("POST", path, body)
    assert server.only.headers["Content-Type"] == "application/json"


def test_post_data(server, files):
    server.status = 201
    response = post_api.post_data(*server.login, "wine", "é", "feature_extractor, classifier", str(files["wine.csv"]))
    assert response.status_code == 201
    assert (server.only.method, server.only.path) == ("POST", "/runapp/rawdata/")
    body = server.only.body
    sent = body.pop("files")
    assert body == {"name": "wine", "target_column": "é", "workflow_elements": "feature_extractor, classifier"}
    assert {name: unpack(text) for name, text in sent.items()} == {"wine.csv": files["wine.csv"].read_bytes()}


def test_post_data_with_extra_files(server, files):
    data_file, *extra_files = map(str, files.values())
    post_api.post_data(*server.login, "wine", "a", "own_word", data_file, extra_files)
    sent = server.only.body["files"]
    assert {name: unpack(text) for name, text in sent.items()} == {
        name: path.read_bytes() for name, path in files.items()
    }


def test_post_submission_fold_of_a_new_submission(server, files):
    post_api.post_submission_fold(
        *server.login,
        sub_id=24,
        sub_fold_id=10,
        train_is=np.array([3, 0, 2**40]),
        test_is=[1, 2],
        priority="H",
        raw_data_id=8,
        list_submission_files=[str(files["specific.py"])],
        force="submission,submission_fold",
    )
    assert (server.only.method, server.only.path) == ("POST", "/runapp/submissionfold/")
    body = server.only.body
    assert int64s(body.pop("train_is")) == [3, 0, 2**40]
    assert int64s(body.pop("test_is")) == [1, 2]
    assert {name: unpack(text) for name, text in body.pop("files").items()} == {"specific.py": b"x = 1\n"}
    assert body == {
        "databoard_s_id": 24,
        "databoard_sf_id": 10,
        "priority": "H",
        "raw_data": 8,
        "force": "submission,submission_fold",
    }


def test_post_submission_fold_of_a_known_submission_leaves_out_what_is_not_given(server):
    post_api.post_submission_fold(*server.login, 24, 11, [0], [1])
    body = server.only.body
    assert set(body) == {"databoard_s_id", "databoard_sf_id", "priority", "train_is", "test_is"}
    assert (body["databoard_s_id"], body["databoard_sf_id"], body["priority"]) == (24, 11, "L")


def test_credentials_are_sent_with_each_request(server):
    post_api.get_raw_data(*server.login)
    post_api.custom_post_split(*server.login, 1)
    expected = "Basic " + base64.b64encode("ada:p:ss wörd".encode()).decode()
    assert [request.headers["Authorization"] for request in server.requests] == [expected] * 2


def test_credentials_beyond_latin_1(server):
    post_api.get_raw_data(server.url, "Łukasz", "пароль")
    assert base64.b64decode(server.only.headers["Authorization"].split()[1]).decode() == "Łukasz:пароль"


@pytest.mark.parametrize("end", ["", "/", "//"])
def test_slashes_after_the_host_do_not_matter(server, end):
    url = server.url.rstrip("/") + end
    post_api.get_raw_data(url, "ada", "x")
    post_api.get_prediction_new(url, "ada", "x", 1)
    assert [request.path for request in server.requests] == ["/runapp/rawdata/", "/runapp/testpredictions/new/"]


@pytest.mark.parametrize("status", [400, 401, 404, 406, 500])
def test_a_refusal_is_returned_not_raised(server, status):
    server.status, server.answer = status, b'{"name": ["RawData with this name already exists."]}'
    response = post_api.custom_post_split(*server.login, 1)
    assert (response.status_code, response.text) == (status, server.answer.decode())


def test_it_rejects_a_missing_file(server, files, tmp_path):
    missing = str(tmp_path / "missing.csv")
    with pytest.raises(FileNotFoundError):
        post_api.post_data(*server.login, "wine", "a", "classifier", missing)
    with pytest.raises(FileNotFoundError):
        post_api.post_data(*server.login, "wine", "a", "classifier", str(files["wine.csv"]), [missing])
    with pytest.raises(FileNotFoundError):
        post_api.post_submission_fold(*server.login, 1, 1, [0], [1], raw_data_id=1, list_submission_files=[missing])
    assert server.requests == []


def test_it_rejects_two_files_of_one_name(server, files, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "wine.csv").write_text("another one")
    with pytest.raises(ValueError, match="same name"):
        post_api.post_data(
            *server.login, "wine", "a", "classifier", str(files["wine.csv"]), [str(tmp_path / "other" / "wine.csv")]
        )


@pytest.mark.parametrize(
    "indices",
    [
        [5, 0, 7],
        (5, 0, 7),
        array("q", [5, 0, 7]),
        array("i", [5, 0, 7]),
        np.array([5, 0, 7]),
        np.array([5, 0, 7], dtype=np.int32),
        np.array([5, 0, 7], dtype=np.uint64),
        np.array([5, 0, 7], dtype=">i8"),
        np.array([5, 1, 0, 1, 7, 1])[::2],
        [np.int64(5), 0, 7],
        (number for number in (5, 0, 7)),
    ],
    ids=lambda indices: f"{type(indices).__name__}-{getattr(indices, 'dtype', '')}",
)
def test_indices_of_any_kind(indices):
    assert int64s(post_api.encode_indices(indices)) == [5, 0, 7]


@pytest.mark.parametrize("indices", [[], range(0), np.array([], dtype=np.int64)])
def test_no_indices(indices):
    assert unpack(post_api.encode_indices(indices)) == b""


@pytest.mark.parametrize(
    "indices", [[1.5], np.array([1.0, 2.0]), np.array([True, False]), np.array([[1, 2], [3, 4]]), ["1"], 3]
)
def test_it_rejects_indices_that_are_not_whole_numbers(indices):
    with pytest.raises(TypeError):
        post_api.encode_indices(indices)


def test_large_arrays_of_indices_take_no_loop():
    indices = np.arange(10**6)
    assert unpack(post_api.encode_indices(indices)) == indices.astype("<i8").tobytes()


@pytest.mark.parametrize("shape", [(4, 3), (4, 1), (1, 2)])
def test_decode_predictions(shape):
    predictions = np.random.default_rng(1).normal(size=shape)
    predictions[0, 0] = np.nan
    text = base64.b64encode(zlib.compress(predictions.astype("<f8").tobytes())).decode()
    decoded = post_api.decode_predictions(text, shape[0])
    assert decoded.dtype == np.float64
    assert decoded.shape == shape
    assert decoded.tobytes() == predictions.tobytes()
    decoded[0, 0] = 0  # it is the caller's own


@pytest.mark.parametrize("shape", [[4], [4, 3], [4, 3, 2], [0, 2]])
def test_decode_predictions_of_a_shape(shape):
    predictions = np.random.default_rng(1).normal(size=shape)
    text = base64.b64encode(zlib.compress(predictions.astype("<f8").tobytes())).decode()
    decoded = post_api.decode_predictions(text, shape)
    assert np.array_equal(decoded, predictions)
    assert decoded.shape == tuple(shape)


def test_it_rejects_predictions_that_do_not_fill_the_rows():
    with pytest.raises(ValueError, match="reshape"):
        post_api.decode_predictions(post_api.encode_bytes(bytes(8 * 7)), 3)


def test_it_needs_requests_only():
    """No Django, no numpy, nothing else of the project: the file works wherever requests is."""
    code = (
        "import sys, test_files.post_api\n"
        "names = {name.split('.')[0] for name in sys.modules}\n"
        "others = {'django', 'numpy', 'pandas', 'sklearn', 'rich', 'celery', 'runapp', 'runner', 'datarun'}\n"
        "print(*sorted(names & others))\n"
        "print(*sorted(name for name in sys.modules if name.startswith('test_files')))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(APP)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines() == ["", "test_files test_files.post_api"]


# --- waiting for a fold

TODO, TESTED = b'{"state": "TODO"}', b'{"state": "TESTED"}'


def waits(server) -> list[int]:
    """The seconds that each request asked the server to wait."""
    paths = [request.path.partition("?wait=") for request in server.requests]
    assert {path for path, _, _ in paths} == {"/runapp/submissionfold/11/"}
    return [int(seconds) for _, _, seconds in paths]


def test_it_asks_until_the_fold_has_ended(server):
    server.first, server.answer = [TODO, b'{"state": "VALIDATED"}'], TESTED
    assert post_api.wait_for_submission_fold(*server.login, 11).json() == {"state": "TESTED"}
    assert waits(server) == [60, 60, 60]


def test_it_returns_a_fold_that_failed(server):
    server.answer = b'{"state": "ERROR"}'
    assert post_api.wait_for_submission_fold(*server.login, 11).json() == {"state": "ERROR"}
    assert len(server.requests) == 1


def test_it_returns_the_fold_as_it_is_when_the_time_is_over(server):
    server.answer = TODO
    assert post_api.wait_for_submission_fold(*server.login, 11, seconds=0.2).json() == {"state": "TODO"}
    assert {*waits(server)} == {1, 0}


def test_it_returns_a_refusal(server):
    server.status, server.answer = 404, b'{"detail": ["There is no fold 11."]}'
    assert post_api.wait_for_submission_fold(*server.login, 11).status_code == 404
    assert len(server.requests) == 1


def test_it_rests_where_the_server_cannot_wait(server, monkeypatch):
    rested = []
    monkeypatch.setattr(post_api.time, "sleep", rested.append)
    server.headers, server.first, server.answer = {"Retry-After": "5"}, [TODO], TESTED
    post_api.wait_for_submission_fold(*server.login, 11)
    assert rested == [5]
