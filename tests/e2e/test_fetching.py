"""New predictions whose answer does not arrive: a web worker that is killed, a client that breaks off."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from test_files import post_api
from tests.e2e.live import LOGIN, PASSWORD, Live, Organiser, until
from tests.e2e.test_large import MODEL, SPECIFIC

pytestmark = pytest.mark.embedded


@pytest.fixture(scope="module")
def data(live: Live, tmp_path_factory: pytest.TempPathFactory) -> int:
    """A data set, and one tested fold of it with predictions that no buffer on their way holds."""
    folder = tmp_path_factory.mktemp("fetching")
    (folder / "specific.py").write_text(SPECIFIC)
    (folder / "rows.txt").write_text("made by specific.py")
    organiser = Organiser(live)
    number = organiser.data(folder / "rows.txt", [folder / "specific.py"])
    organiser.split(number, custom=True)
    files = organiser.submission(folder / "submission", {"model.py": MODEL})
    organiser.tested(organiser.fold(number, files, np.arange(10)))
    return number


def ask(live: Live, data: int, **how: Any) -> requests.Response:
    address = f"{live.url}/runapp/testpredictions/new/"
    answer = requests.post(address, json={"raw_data_id": data}, auth=(LOGIN, PASSWORD), timeout=120, **how)
    assert answer.status_code == 200, answer.text
    return answer


def kill_web(live: Live, answer: requests.Response) -> None:
    for pid in live.family_of("web"):
        os.kill(pid, signal.SIGKILL)


def break_off(live: Live, answer: requests.Response) -> None:
    answer.close()


@pytest.mark.parametrize("end", [break_off, kill_web])
def test_the_folds_are_new_again(end: Callable[[Live, requests.Response], None], live: Live, data: int) -> None:
    """And nobody else gets them while the first answer is on its way."""
    answer = ask(live, data, stream=True)
    assert answer.raw.read(1)
    assert ask(live, data).json() == []

    end(live, answer)

    live.wait_for_answer()
    [record] = until(lambda: ask(live, data).json(), 120, lambda: f"the fold is new again: {live.evidence()}")
    assert record["state"] == "TESTED"
    predictions = post_api.decode_predictions(record["full_train_predictions"], record["full_train_predictions_shape"])
    assert predictions.shape == (1_000_000, 10)
    assert ask(live, data).json() == []
    # Again for the next test.
    again = {"submission_id": record["databoard_s"], "fold_id": record["databoard_sf_id"], "force": "submission_fold"}
    organiser = Organiser(live)
    organiser.tested(organiser.fold(None, None, np.arange(10), **again))


def test_no_file_of_a_claim_is_left(live: Live, data: int) -> None:
    assert ask(live, data).json()
    folder: Path = live.home / "fetches"
    assert not folder.exists() or [*folder.iterdir()] == []
