"""A fold whose runner is killed each time that it begins: it ends, with the evidence, and takes no other with it."""

import json
import os
import signal
from collections.abc import Iterator

import pytest

from tests.conftest import on_services
from tests.e2e.conftest import split_iris
from tests.e2e.live import Live, Organiser, until
from tests.e2e.submissions import SLOW

pytestmark = pytest.mark.embedded

MAX_ATTEMPTS = 3


@pytest.fixture(scope="module")
def own(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A server gives up whose processes end too often: nobody else's runner may be killed within the same minute."""
    shared = request.getfixturevalue("live") if on_services() else None
    if shared:
        shared.stop()  # its runner shares the queues, but not the folders
    server = Live(tmp_path_factory.mktemp("lost") / "home", DATARUN_SLOTS="2")
    try:
        yield server.start()
    finally:
        server.stop()
        if shared:
            shared.start()


def marks(server: Live, fold_id: int) -> set[tuple[str, float]]:
    """The runs of a fold that have begun: (task, when)."""
    found = set()
    for path in (server.home / "spool").glob("*/*.begun"):
        try:
            _, mark = json.loads(path.read_bytes())
        except FileNotFoundError:
            continue
        if mark.get("databoard_sf_id") == fold_id:
            found.add((mark["task_id"], mark["started_at"]))
    return found


def new_mark(server: Live, fold_id: int, seen: set[tuple[str, float]]) -> set[tuple[str, float]]:
    """Wait until the fold has begun again."""
    found: set[tuple[str, float]] = until(lambda: marks(server, fold_id) - seen, 300, server.evidence)
    return found


def kill_runner(server: Live) -> int:
    pid = server.process_of("runner")
    os.kill(pid, signal.SIGKILL)
    until(lambda: pid not in server.children(), 120, "the worker is dead")
    return pid


def test_it_is_given_up_after_max_attempts_and_an_honest_fold_beside_it_is_tested(own: Live, write) -> None:
    organiser = Organiser(own)
    iris = split_iris(organiser)
    organiser.tested(organiser.fold(iris, write(SLOW.format(fit=0, predict=0)), range(50)))
    deadly = organiser.fold(iris, write(SLOW.format(fit=120, predict=0)), range(50))
    honest = organiser.fold(iris, write(SLOW.format(fit=3, predict=0)), range(50))

    seen: set[tuple[str, float]] = set()
    for _ in range(MAX_ATTEMPTS):
        seen |= new_mark(own, deadly, seen)
        kill_runner(own)
    [given_up, tested] = organiser.ended(deadly, honest)

    assert (given_up["state"], given_up["error_reason"]) == ("ERROR", "infrastructure")
    assert given_up["attempts"] == MAX_ATTEMPTS
    assert [(attempt["number"], attempt["outcome"]) for attempt in given_up["history"]] == [
        (number + 1, "lost") for number in range(MAX_ATTEMPTS)
    ]
    assert {attempt["runner"].partition("@")[0] for attempt in given_up["history"]} == {"runner"}
    assert given_up["log_messages"].count("ended with its runner") == MAX_ATTEMPTS
    assert tested["state"] == "TESTED", tested["log_messages"]
    assert tested["history"][-1]["outcome"] == "done"
    assert len(tested["history"]) == tested["attempts"] <= MAX_ATTEMPTS
    assert len(marks(own, deadly) - seen) == 0, "no other runner got it"


def test_a_server_that_is_stopped_costs_a_fold_no_attempt(own: Live, write) -> None:
    organiser = Organiser(own)
    iris = split_iris(organiser)
    fold_id = organiser.fold(iris, write(SLOW.format(fit=8, predict=0)), range(50))
    until(lambda: marks(own, fold_id), 300, own.evidence)
    own.stop()
    own.start()
    record = organiser.tested(fold_id)
    assert (record["attempts"], len(record["history"])) == (1, 1)
