"""The client of datarun: one function a call of the REST API, each returns the `requests.Response` as it is.

It needs `requests` and nothing else of the project, so that the file may be copied next to other code.
The server's refusals are in the response: see `response.status_code` and `response.text`.

Common parameters: host_url, the address of the master, e.g. http://127.0.0.1:8000/, with or without the last
slash; username and password of a datarun user.
"""

import base64
import json
import math
import sys
import time
import zlib
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests

if TYPE_CHECKING:
    import numpy as np

TIMEOUT = (10.0, 600.0)
"""Seconds to wait for the connection and for the answer: a large data set takes its time, a dead host must not."""

MAX_WAIT = 60
"""Seconds that the server waits at most for the end of a fold, in one request."""


def post_data(
    host_url: str,
    username: str,
    password: str,
    data_name: str,
    target_column: str,
    workflow_elements: str,
    data_file: str | Path,
    extra_files: Sequence[str | Path] | None = None,
) -> requests.Response:
    """Send a data set; 201 with its `id`.

    workflow_elements: comma-separated, e.g. 'feature_extractor,classifier'.
    data_file: path of the data; extra_files: paths of further ones, such as the Python file of a custom data set.
    Raises FileNotFoundError for a path that isn't there.
    """
    body = {
        "name": data_name,
        "target_column": target_column,
        "workflow_elements": workflow_elements,
        "files": _encode_files([data_file, *(extra_files or ())]),
    }
    return _post(host_url, username, password, "rawdata/", body)


def post_split(
    host_url: str,
    username: str,
    password: str,
    held_out_test: float,
    raw_data_id: int,
    random_state: int = 42,
) -> requests.Response:
    """Split a standard data set into train and test set; held_out_test: share of the test set, in (0, 1)."""
    body = {"raw_data_id": raw_data_id, "held_out_test": held_out_test, "random_state": random_state}
    return _post(host_url, username, password, "rawdata/split/", body)


def custom_post_split(host_url: str, username: str, password: str, raw_data_id: int) -> requests.Response:
    """Split a custom data set by its own `prepare_data`."""
    return _post(host_url, username, password, "rawdata/customsplit/", {"raw_data_id": raw_data_id})


def post_submission_fold(
    host_url: str,
    username: str,
    password: str,
    sub_id: int,
    sub_fold_id: int,
    train_is: Iterable[int],
    test_is: Iterable[int],
    priority: str = "L",
    raw_data_id: int | None = None,
    list_submission_files: Sequence[str | Path] | None = None,
    force: str | None = None,
) -> requests.Response:
    """Send a fold to be trained and tested and, where it is new, its submission.

    train_is, test_is: row numbers into the train set, numpy arrays or any other whole numbers.
    priority: 'L' (low) or 'H' (high).
    raw_data_id, list_submission_files: the data set's id and the paths of the files, for a new submission.
    force: 'submission_fold' trains a known fold again, 'submission,submission_fold' replaces the files as well.
    Raises FileNotFoundError for a path that isn't there, TypeError for indices that aren't whole numbers.
    """
    body: dict[str, Any] = {
        "databoard_sf_id": sub_fold_id,
        "databoard_s_id": sub_id,
        "train_is": encode_indices(train_is),
        "test_is": encode_indices(test_is),
        "priority": priority,
    }
    if raw_data_id is not None:
        body["raw_data"] = raw_data_id
    if list_submission_files is not None:
        body["files"] = _encode_files(list_submission_files)
    if force is not None:
        body["force"] = force
    return _post(host_url, username, password, "submissionfold/", body)


def get_raw_data(host_url: str, username: str, password: str) -> requests.Response:
    """List the data sets."""
    return _get(host_url, username, password, "rawdata/")


def get_prediction_list(
    host_url: str, username: str, password: str, list_submission_fold_id: Iterable[int]
) -> requests.Response:
    """The prediction records of the folds with these ids; see `decode_predictions`."""
    body = {"list_submission_fold": list(list_submission_fold_id)}
    return _post(host_url, username, password, "testpredictions/list/", body)


def get_prediction_new(host_url: str, username: str, password: str, raw_data_id: int | None) -> requests.Response:
    """The prediction records of a data set's tested folds that nobody has fetched yet; None: of all data sets."""
    body = {} if raw_data_id is None else {"raw_data_id": raw_data_id}
    return _post(host_url, username, password, "testpredictions/new/", body)


def get_submission_fold(host_url: str, username: str, password: str) -> requests.Response:
    """List the folds with all their fields, predictions included."""
    return _get(host_url, username, password, "submissionfold/")


def get_submission_fold_detail(
    host_url: str, username: str, password: str, submission_fold_id: int
) -> requests.Response:
    """All fields of one fold."""
    return _get(host_url, username, password, f"submissionfold/{submission_fold_id}/")


def wait_for_submission_fold(
    host_url: str, username: str, password: str, submission_fold_id: int, seconds: float = 3600.0
) -> requests.Response:
    """All fields of one fold once it has ended (its `state` is TESTED or ERROR), or after so many seconds."""
    until = time.monotonic() + seconds
    while True:
        left = max(until - time.monotonic(), 0)
        path = f"submissionfold/{submission_fold_id}/?wait={min(math.ceil(left), MAX_WAIT)}"
        answer = _get(host_url, username, password, path)
        if not left or not answer.ok or answer.json()["state"] in ("TESTED", "ERROR"):
            return answer
        time.sleep(min(float(answer.headers.get("Retry-After", 0)), left))  # sent when the server could not wait


def get_submission_fold_light(host_url: str, username: str, password: str) -> requests.Response:
    """List the folds: id, id of the submission, state, and whether the predictions are still to be fetched."""
    return _get(host_url, username, password, "submissionfold-light/")


def encode_bytes(content: bytes) -> str:
    """The bytes of a file as they travel: zlib, then base64 (contract, section 2)."""
    return base64.b64encode(zlib.compress(content)).decode("ascii")


def encode_indices(indices: Iterable[int]) -> str:
    """Row numbers as they travel: int64, little-endian, then as `encode_bytes`.

    indices: shape (n,), a numpy array or any other iterable of whole numbers; anything else is a TypeError.
    """
    numbers = array("q")
    try:
        view = memoryview(indices)  # type: ignore[arg-type]  # tried: most iterables have no buffer
    except TypeError:
        numbers.extend(indices)
    else:
        # A buffer of int64 is copied whole: ten million rows one by one take seconds.
        if view.format in ("q", "l") and view.itemsize == numbers.itemsize and view.ndim == 1:
            numbers.frombytes(view.tobytes())
        else:
            numbers.extend(iter(indices))
    if sys.byteorder == "big":
        numbers.byteswap()
    return encode_bytes(numbers.tobytes())


def decode_predictions(text: str, shape: int | Sequence[int]) -> "np.ndarray":
    """A record's `full_train_predictions` or `test_predictions` as float64, in its shape.

    shape: the record's `full_train_predictions_shape` or `test_predictions_shape`. A number of rows gives an array of
    shape (rows, outputs). Raises ValueError if the numbers do not fill the shape.
    """
    import numpy as np  # only here: sending needs no numpy

    shape = tuple(shape) if isinstance(shape, Sequence) else (shape, -1)
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype="<f8").astype(np.float64).reshape(shape)


def _encode_files(paths: Sequence[str | Path]) -> dict[str, str]:
    """File name without its folder -> encoded content."""
    files = {Path(path).name: encode_bytes(Path(path).read_bytes()) for path in paths}
    if len(files) < len(paths):
        raise ValueError(f"two files have the same name: {', '.join(map(str, paths))}")
    return files


def _get(host_url: str, username: str, password: str, path: str) -> requests.Response:
    return requests.get(_url(host_url, path), auth=_auth(username, password), timeout=TIMEOUT)


def _post(host_url: str, username: str, password: str, path: str, body: dict[str, Any]) -> requests.Response:
    return requests.post(
        _url(host_url, path),
        data=json.dumps(body, default=_plain),
        headers={"Content-Type": "application/json"},
        auth=_auth(username, password),
        timeout=TIMEOUT,
    )


def _url(host_url: str, path: str) -> str:
    return f"{host_url.rstrip('/')}/runapp/{path}"


def _auth(username: str, password: str) -> Any:
    # As bytes: requests would encode text as Latin-1, which has no letters for many names.
    return username.encode(), password.encode()


def _plain(value: Any) -> Any:
    """numpy's numbers, such as an id out of an array, as Python's."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{value!r} can't be sent as JSON")
