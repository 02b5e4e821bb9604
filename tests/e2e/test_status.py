"""What is said of runners, folds and the server itself while they work, stop and die."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.e2e.live import APP, LOGIN, PASSWORD, Live, Organiser, until
from tests.e2e.submissions import HONEST, SLOW

pytestmark = pytest.mark.embedded

PATIENT = """
from celery.__main__ import main
from runner import heartbeat

heartbeat.LAST_WORD = 60  # its last report is to be seen, be the machine ever so slow
main()
"""


LOOKS_FOR = """
import importlib.util
import sklearn.dummy

missing = [name for name in {modules} if importlib.util.find_spec(name) is None]
assert not missing, missing


class Classifier(sklearn.dummy.DummyClassifier):
    pass
"""


def ask(live: Live, path: str) -> Any:
    answer = requests.get(f"{live.url}{path}", auth=(LOGIN, PASSWORD), timeout=60)
    assert answer.ok, answer.text
    return answer.json()


def runner(live: Live, name: str) -> dict[str, Any]:
    """What is said of the runner whose name begins so; nothing before its first report."""
    found = [one for one in ask(live, "/runapp/runners/") if one["name"].startswith(f"{name}@")]
    return found[0] if found else {"state": "", "busy": []}


def becomes(live: Live, name: str, state: str, seconds: float = 300) -> dict[str, Any]:
    until(lambda: runner(live, name)["state"] == state, seconds, lambda: f"{state}: {runner(live, name)}")
    return runner(live, name)


@pytest.fixture
def join(live: Live) -> Iterator[Callable[[str], "subprocess.Popen[bytes]"]]:
    """join(name): another runner, for splits alone, so that no fold waits for it; ended with the test."""

    def start(name: str) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-c", PATIENT, "--quiet", "-A", "runner", "worker", "-Q", "celery", "-P", "threads"]
        options = ["-c", "1", "-n", f"{name}@here", "--without-gossip", "--without-mingle", "--loglevel", "WARNING"]
        with live.log.open("ab") as log:
            started.append(
                subprocess.Popen([*command, *options], cwd=APP, env=live.environment, stdout=log, stderr=log)
            )
        return started[-1]

    started: list[subprocess.Popen[bytes]] = []
    yield start
    for process in started:
        process.kill()
        process.wait()


def test_a_runner_is_seen_at_work_stopped_and_silent(
    live: Live, organiser: Organiser, iris: int, write: Any, join: Any
) -> None:
    dies, stops = join("dies"), join("stops")
    for name in ("dies", "stops"):
        seen = becomes(live, name, "up")
        assert (seen["queues"], seen["slots"], seen["soft_time_limit"]) == (["celery"], 1, 240.0)
    dies.kill()
    stops.terminate()
    becomes(live, "stops", "stopped")
    parts = dict.fromkeys(("database", "broker", "cache", "share"), "ok")
    ready = until(lambda: (said := requests.get(f"{live.url}/readyz", timeout=60)).ok and said, 60, live.evidence)
    assert ready.json() == parts

    busy, slow = set[int](), SLOW.format(fit=12, predict=0)

    def seen_busy() -> bool:
        """Reports come every ten seconds, and may be lost."""
        if all(organiser.look(fold_id)["state"] == "TESTED" for fold_id in busy):
            busy.add(organiser.fold(iris, write(slow), range(50)))
        return bool({slot["databoard_sf_id"] for slot in runner(live, "runner")["busy"]} & busy)

    until(seen_busy, 300, lambda: f"a fold is seen: {ask(live, '/runapp/runners/')}")
    becomes(live, "dies", "silent")
    assert becomes(live, "runner", "up")["queues"] == ["celery", "H", "L"]
    organiser.ended(*busy)


def test_a_fold_says_what_it_waits_for(live: Live, organiser: Organiser, iris: int, write: Any, tmp_path: Path) -> None:
    """Two slots, and four folds, sent at once: the first two run for longer than it takes to ask."""
    organiser.tested(organiser.fold(iris, write(HONEST), range(50)))
    becomes(live, "runner", "up")
    long = organiser.submission(tmp_path / "long", {"classifier.py": SLOW.format(fit=12, predict=0)})
    folds = organiser.folds(iris, long, long, write(HONEST), write(HONEST))

    def said(fold_id: int) -> dict[str, Any]:
        answer: dict[str, Any] = ask(live, f"/runapp/submissionfold/{fold_id}/queue/")
        return answer

    until(lambda: said(folds[0])["state"].startswith("runs on runner@"), 120, lambda: str(said(folds[0])))
    last = said(folds[3])
    assert last["state"] == f"waiting: {({1: '1st', 2: '2nd', 3: '3rd'})[last['position']]} in queue L"
    assert last["ahead"] == last["position"] - 1
    assert last["estimate"] is not None
    assert [one["state"] for one in last["runners"] if one["name"].startswith("runner@")] == ["up"]
    scraped = requests.get(f"{live.url}/metrics", auth=(LOGIN, PASSWORD), timeout=60).text
    assert f'datarun_runner_slots{{runner="{last["runners"][-1]["name"]}"}} 2.0' in scraped
    organiser.ended(*folds)
    assert said(folds[3])["state"] == "ended: TESTED"


def test_all_packages_that_the_runners_report_can_be_imported_by_a_fold(
    live: Live, organiser: Organiser, iris: int, write: Any
) -> None:
    def reported() -> list[dict[str, Any]]:
        said: list[dict[str, Any]] = ask(live, f"/runapp/packages/?raw_data={iris}")
        return [package for package in said if any(name.startswith("runner@") for name in package["runners"])]

    packages = until(reported, 300, lambda: str(ask(live, "/runapp/runners/")))
    assert {"numpy", "pandas", "scikit-learn"} <= {package["name"] for package in packages}
    modules = [module for package in packages for module in package["modules"]]
    organiser.tested(organiser.fold(iris, write(LOOKS_FOR.format(modules=modules)), range(50)))
