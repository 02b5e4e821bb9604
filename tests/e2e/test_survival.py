"""A server that is stopped or killed in the middle of a fold: nothing sent is lost, nothing is left behind."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.live import APP, Live, Organiser, until
from tests.e2e.submissions import HONEST, SLOW

pytestmark = pytest.mark.embedded


def _kill_server(server: Live) -> None:
    server.stop(signal.SIGKILL)
    server.start()


def _stop_server(server: Live) -> None:
    server.stop(signal.SIGTERM)
    server.start()


def _interrupt_server(server: Live) -> None:
    server.stop(signal.SIGINT)
    server.start()


def _kill_one(name: str) -> Callable[[Live], None]:
    def kill(server: Live) -> None:
        os.kill(server.process_of(name), signal.SIGKILL)

    return kill


@pytest.mark.parametrize(
    "fault",
    [_kill_server, _stop_server, _interrupt_server, _kill_one("runner"), _kill_one("master")],
    ids=["server killed", "server terminated", "server interrupted", "runner killed", "master's worker killed"],
)
def test_a_fold_in_the_middle_is_finished_afterwards(
    live: Live, organiser: Organiser, iris: int, write, fault: Callable[[Live], None]
) -> None:
    organiser.tested(organiser.fold(iris, write(HONEST), range(50)))  # the runner is up
    slow, honest = SLOW.format(fit=1.5, predict=0), HONEST
    running = [organiser.fold(iris, write(slow), range(50)) for _ in range(2)]  # one a slot
    waiting = [organiser.fold(iris, write(honest), range(50)) for _ in range(3)]
    until(
        lambda: all(organiser.look(fold)["started_at"] for fold in running),
        300,
        lambda: f"the folds have started: {live.evidence()}",
    )
    fault(live)
    for record in organiser.ended(*running, *waiting):
        assert record["state"] == "TESTED", record["log_messages"]
    assert live.process is not None
    assert _open_files(live.process.pid) == {str(live.home / "lock")}, "its forks share connections"


def test_a_server_that_was_killed_starts_again_before_its_runner_has_ended(live: Live) -> None:
    """The runner finishes its folds first."""
    assert live.process is not None
    web, runner = live.process_of("web"), live.process_of("runner")
    os.kill(runner, signal.SIGSTOP)
    try:
        live.process.kill()
        live.process.wait()
        until(lambda: web not in live.children(), 120, lambda: f"the port is free: {live.evidence()}")
        live.start()
    finally:
        os.kill(runner, signal.SIGCONT)


def _open_files(pid: int) -> set[str]:
    """Without the standard streams."""
    return {os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir() if int(path.name) > 2}


@pytest.mark.embedded_only
def test_a_second_server_on_the_same_home_is_refused(live: Live) -> None:
    second = Live(live.home)
    with pytest.raises(AssertionError, match="another server uses"):
        second.start()


@pytest.mark.embedded_only
def test_the_user_is_made_and_its_password_shown_once(tmp_path: Path) -> None:
    server = Live(tmp_path / "home", USER_LOGIN=f"fresh{os.getpid()}", USER_PSWD="")
    server.environment.pop("USER_PSWD")
    for starts in (1, 2):
        server._answers = lambda n=starts: server.log.read_text().count("Ctrl-C stops it") == n  # type: ignore[method-assign,misc]
        server.start()
        server.stop()
    assert server.log.read_text().count("made now, shown only this once") == 1


def test_a_server_whose_runner_can_not_run_here_ends_and_says_so(tmp_path: Path) -> None:
    server = Live(tmp_path / "home", DATARUN_SANDBOX="maybe")
    command = [sys.executable, "manage.py", "serve"]
    ended = subprocess.run(command, cwd=APP, env=server.environment, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 1
    assert ended.stderr.count("DATARUN_SANDBOX is 'maybe': use on or off") == 1
    assert "the runner can't run here; its message is above" in ended.stderr
