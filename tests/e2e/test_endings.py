"""How folds end that go wrong, and what is seen while they run."""

from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import split_iris
from tests.e2e.live import Live, Organiser
from tests.e2e.submissions import DEAF, HONEST, RAISES, SLOW

pytestmark = pytest.mark.embedded


def test_the_state_advances_while_a_fold_runs(organiser: Organiser, iris: int, write) -> None:
    # Each stage is longer than the test, or the master, may pause.
    fold_id = organiser.fold(iris, write(SLOW.format(fit=8, predict=7)), range(50), priority="H")
    seen = []
    while (record := organiser.look(fold_id))["state"] not in ("TESTED", "ERROR"):
        moment = record["state"], bool(record["started_at"])
        seen += [moment] if moment not in seen else []
    assert [moment for moment in seen if moment[1]] == [("TODO", True), ("TRAINED", True), ("VALIDATED", True)]
    assert record["runner"].startswith("runner@")
    assert record["queued_at"] <= record["started_at"] < record["finished_at"]
    assert record["train_time"] >= 8 > record["train_cpu_time"]


def test_a_submission_s_mistake_is_shown_with_its_own_frames(organiser: Organiser, iris: int, write) -> None:
    [record] = organiser.ended(organiser.fold(iris, write(RAISES), range(50)))
    assert (record["state"], record["error_reason"]) == ("ERROR", "user_code")
    log = record["log_messages"]
    assert log.startswith("ERROR(train)")
    assert "ValueError: my own mistake" in log
    assert [line for line in log.splitlines() if "File" in line] == [
        '  File "classifier.py", line 6, in fit',
        '  File "classifier.py", line 12, in helper',
    ]


@pytest.fixture(scope="module")
def past_limits(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Two folds that know no end, the second deaf to the soft limit, on a server whose limits are short.

    On services tests/cluster/test_workflow.py shows them.
    """
    folder = tmp_path_factory.mktemp("limits")
    server = Live(folder / "home", DR_SOFT_TIME_LIMIT="10", DR_HARD_TIME_LIMIT="25", DATARUN_SLOTS="2")
    try:
        organiser = Organiser(server.start())
        files = [
            organiser.submission(folder / str(number), {"classifier.py": text})
            for number, text in enumerate((SLOW.format(fit=600, predict=0), DEAF))
        ]
        return organiser.ended(*organiser.folds(split_iris(organiser), *files))
    finally:
        server.stop()


@pytest.mark.embedded_only
def test_a_fold_past_the_soft_limit_ends_with_its_name(past_limits: list[dict[str, Any]]) -> None:
    record, _ = past_limits
    assert (record["state"], record["error_reason"]) == ("ERROR", "time_limit")
    assert "Soft Time Limit Exceeded" in record["log_messages"]


@pytest.mark.embedded_only
def test_a_fold_that_is_deaf_to_the_soft_limit_is_killed_at_the_hard_one(past_limits: list[dict[str, Any]]) -> None:
    _, record = past_limits
    assert (record["state"], record["error_reason"]) == ("ERROR", "time_limit")
    assert record["log_messages"].startswith("ERROR(train): ")
    assert "Hard Time Limit Exceeded" in record["log_messages"]


def test_a_custom_split_that_fails_ends_the_folds_that_wait_for_it(organiser: Organiser, tmp_path: Path, write) -> None:
    (tmp_path / "specific.py").write_text("def prepare_data(path):\n    raise RuntimeError('no such column')\n")
    (tmp_path / "data.bin").write_bytes(bytes(range(256)))
    number = organiser.data(tmp_path / "data.bin", [tmp_path / "specific.py"])
    organiser.split(number, custom=True)
    try:
        fold_id = organiser.fold(number, write(HONEST), range(5))
    except AssertionError as refused:  # the split was quicker than the fold: then the fold is refused
        assert "no such column" in str(refused)
        return
    [record] = organiser.ended(fold_id)
    assert record["error_reason"] == "data"
    assert record["log_messages"].startswith("ERROR(split data)")
    assert 'File "specific.py", line 2, in prepare_data' in record["log_messages"]


def test_both_priorities_are_served_while_the_other_waits(organiser: Organiser, iris: int, write) -> None:
    slow = write(SLOW.format(fit=2, predict=0))
    *low, high = organiser.ended(*organiser.folds(iris, *6 * [slow], slow, priorities="LLLLLLH"))
    assert {record["state"] for record in (*low, high)} == {"TESTED"}
    assert high["finished_at"] < max(record["finished_at"] for record in low)
