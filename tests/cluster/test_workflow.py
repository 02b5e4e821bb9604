"""The manual's whole workflow on the cluster, through the documented client, with the certificate verified."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import scipy
import sklearn

from test_files import kits, post_api
from tests import reference
from tests.cluster.conftest import Organiser
from tests.cluster.hosts import MASTER, RUNNERS, VARIABLES, run
from tests.e2e.submissions import DEAF, HONEST, RAISES, SLOW

FOLDS = 6
SECONDS = 300.0
"""For all folds of the three challenges, whatever else the cluster has to do."""

LIMIT = max(VARIABLES[name]["runner_hard_time_limit"] for name in RUNNERS)
VERSIONS = [module.__version__ for module in (np, pandas, scipy, sklearn)]
ASK_VERSIONS = """/opt/datarun/runner/bin/python -c '
import json, numpy, pandas, scipy, sklearn
print(json.dumps([module.__version__ for module in (numpy, pandas, scipy, sklearn)]))'"""


@dataclass
class Challenge:
    """A kit on the cluster. folds, records: by fold id."""

    kit: kits.Kit
    data_id: int
    y_train: np.ndarray
    y_test: np.ndarray
    folds: dict[int, kits.Fold] = field(default_factory=dict)
    records: dict[int, dict[str, Any]] = field(default_factory=dict)


def serving(queue: str) -> set[str]:
    """The workers of a queue."""
    return {f"celery@{name}" for name in RUNNERS if queue in VARIABLES[name]["runner_queues"]}


@pytest.fixture(scope="module")
def challenges(api: Organiser) -> dict[str, Challenge]:
    """All three at once: data, split, submission and folds; then all that the API has of them."""
    sent = {kit.name: send(api, kit) for kit in kits.KITS}
    api.wait(*(fold_id for challenge in sent.values() for fold_id in challenge.folds), seconds=SECONDS)
    for challenge in sent.values():
        records = post_api.get_prediction_new(*api.who, challenge.data_id).json()
        challenge.records = {record["databoard_sf_id"]: record for record in records}
    return sent


def send(api: Organiser, kit: kits.Kit) -> Challenge:
    data_id = api.data(kit.data_files[0], kit.data_files[1:], kit.target_column, kit.workflow_elements)
    api.split(data_id, kit.custom, kit.held_out_test, kit.random_state)
    challenge = Challenge(kit, data_id, *kit.truth())
    submission_id, files = api.new_id(), kit.submission_files(kit.submissions[0])
    for fold in kit.folds(challenge.y_train, FOLDS):
        fold_id = api.fold(data_id, files, fold.train_is, fold.priority, submission_id=submission_id)
        challenge.folds[fold_id] = fold
    return challenge


@pytest.fixture(scope="module")
def versions() -> dict[str, list[str]]:
    """Worker -> versions of its libraries."""
    return {f"celery@{name}": json.loads(run(name, ASK_VERSIONS)) for name in RUNNERS}


@pytest.fixture(scope="module")
def iris(api: Organiser) -> int:
    """The id of the iris data with the workflow `classifier` alone, split."""
    data_id = api.data(kits.IRIS.data_files[0], target="species", elements="classifier")
    api.split(data_id)
    return data_id


@pytest.fixture
def write(tmp_path: Path):
    """write(text): a submission of one classifier.py; returns its list of paths."""

    def write_files(text: str) -> list[Path]:
        (tmp_path / "classifier.py").write_text(text)
        return [tmp_path / "classifier.py"]

    return write_files


@pytest.mark.parametrize("kit", kits.KITS, ids=lambda kit: kit.name)
def test_the_predictions_are_those_of_one_process(
    kit: kits.Kit, challenges: Any, versions: Any, api: Organiser
) -> None:
    """Bit for bit where a runner has the libraries of this machine; by score where its Python has none of the same."""
    challenge = challenges[kit.name]
    assert set(challenge.records) == set(challenge.folds), [api.look(fold_id) for fold_id in challenge.folds]
    for fold_id, fold in challenge.folds.items():
        record = challenge.records[fold_id]
        assert record["state"] == "TESTED", record["log_messages"]
        got = (
            post_api.decode_predictions(record["full_train_predictions"], len(challenge.y_train)),
            post_api.decode_predictions(record["test_predictions"], len(challenge.y_test)),
        )
        expected = reference.predict(kit, kit.submission_folder(kit.submissions[0]), fold.train_is)
        if versions[api.look(fold_id)["runner"]] == VERSIONS:
            assert [np.array_equal(*pair) for pair in zip(got, expected, strict=True)] == [True, True]
        else:
            scores = [kit.score(challenge.y_test, test) for _, test in (got, expected)]
            assert scores[0] == pytest.approx(scores[1], rel=0.1)


@pytest.mark.parametrize("kit", kits.KITS, ids=lambda kit: kit.name)
def test_times_and_memory_are_measured(kit: kits.Kit, challenges: Any) -> None:
    for record in challenges[kit.name].records.values():
        assert min(record["train_time"], record["train_cpu_time"], record["train_memory"], record["test_memory"]) > 0


def test_each_fold_was_done_by_a_runner_of_its_queue_and_all_runners_worked(challenges: Any, api: Organiser) -> None:
    workers = set()
    for challenge in challenges.values():
        for fold_id, fold in challenge.folds.items():
            worker = api.look(fold_id)["runner"]
            assert worker in serving(fold.priority), f"{worker} did a fold of priority {fold.priority}"
            workers.add(worker)
    assert workers == serving("L") | serving("H")


def test_predictions_are_new_once(challenges: Any, api: Organiser) -> None:
    for challenge in challenges.values():
        assert post_api.get_prediction_new(*api.who, challenge.data_id).json() == []
        listed = post_api.get_prediction_list(*api.who, challenge.folds).json()
        assert {record["databoard_sf_id"] for record in listed} == set(challenge.folds)


def test_a_submission_that_raises_gives_its_traceback_and_is_trained_again_when_forced(
    iris: int, write: Any, api: Organiser
) -> None:
    submission_id = api.new_id()
    fold_id = api.fold(iris, write(RAISES), range(50), submission_id=submission_id)
    [failed] = api.ended(fold_id)
    assert failed["state"] == "ERROR"
    assert 'raise ValueError("my own mistake")' in failed["log_messages"]
    assert "ValueError: my own mistake" in failed["log_messages"]
    assert "classifier.py" in failed["log_messages"]
    assert "/opt/" not in failed["log_messages"] and "/mnt/" not in failed["log_messages"]
    force = "submission, submission_fold"
    api.fold(iris, write(HONEST), range(50), "H", submission_id=submission_id, fold_id=fold_id, force=force)
    assert "ValueError" not in api.tested(fold_id)["log_messages"]


def test_a_submission_that_takes_too_long_is_told_so(iris: int, write: Any, api: Organiser) -> None:
    soft = api.fold(iris, write(SLOW.format(fit=10 * LIMIT, predict=0)), range(50))
    hard = api.fold(iris, write(DEAF), range(50), "H")
    interrupted, killed = api.ended(soft, hard, seconds=2 * LIMIT + 60)
    assert (interrupted["state"], killed["state"]) == ("ERROR", "ERROR")
    assert "Soft Time Limit Exceeded" in interrupted["log_messages"]
    assert "Hard Time Limit Exceeded" in killed["log_messages"]
    after = api.fold(iris, write(HONEST), range(50), "H")
    assert api.tested(after)["state"] == "TESTED"


def test_a_bad_fold_is_refused_and_told_why(iris: int, write: Any, api: Organiser) -> None:
    answer = post_api.post_submission_fold(*api.who, api.new_id(), api.new_id(), [0], [1], "X", iris, write(HONEST))
    assert answer.status_code == 400
    assert "priority" in answer.text


def test_celery_status_names_all_runners() -> None:
    workers = ",".join(f"celery@{name}" for name in RUNNERS)
    printed = run(
        MASTER,
        "set -a; . /etc/datarun/master.env; set +a; cd /var/lib/datarun\n"
        "setpriv --reuid datarun --regid datarun --init-groups"
        # Until all of them have answered.
        f" /opt/datarun/master/bin/celery -A datarun status --timeout 60 --destination {workers}",
    )
    for name in RUNNERS:
        assert f"celery@{name}: OK" in printed
