"""What a new user does first: README's session as it stands there, a lost password, tasks by hand.

The make targets of README are not run here, and neither is its section on clusters.
"""

import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.e2e.conftest import split_iris
from tests.e2e.live import APP, Live, Organiser, until

ROOT = APP.parent
IN_APP = "`cd app && ../.venv/bin/python`"
"""How the documents say where Python is started, and which. The tests start their own Python there."""

UNSTABLE = {
    r"\.\.\.": r".*",
    r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}": r"[0-9a-f-]{36}",
    r"\d+\.\d{6,}": r"\d+\.\d+",  # a time
    r"\d{4,}\.0": r"\d+\.0",  # memory
}
"""What differs from run to run, as documents show it, and as it is."""


class Fresh(Live):
    """A server that makes its user itself, as `make serve` does."""

    password = ""

    def __init__(self, home: Path) -> None:
        super().__init__(home, USER_LOGIN="", USER_PSWD="")

    def login(self) -> tuple[str, str]:
        if not self.password and (made := re.search(r"password (\S+) \(made now", self.log.read_text())):
            self.password = made[1]
        return "datarun", self.password

    def said(self) -> str:
        """What it said at its last start."""
        return "datarun serves" + self.log.read_text().rpartition("datarun serves")[2]


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Fresh]:
    server = Fresh(tmp_path / "home")
    server.start()
    yield server
    server.stop()


def blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / document).read_text(), re.MULTILINE | re.DOTALL)


def in_python(block: str, environment: dict[str, str]) -> list[str]:
    """What Python answers when the block is pasted, line by line."""
    run = subprocess.run(
        [sys.executable, "-i", "-q"], input=block, cwd=APP, env=environment, capture_output=True, text=True
    )
    assert "Error" not in run.stderr, run.stderr
    return run.stdout.splitlines()


def in_shell(block: str) -> list[str]:
    run = subprocess.run(["bash"], input=block, cwd=ROOT, env=os.environ, capture_output=True, text=True)
    assert not run.stderr, run.stderr
    return run.stdout.splitlines()


def check(answers: list[str], block: str) -> None:
    """The answers are those of the block's comments, apart from what differs from run to run."""
    expected = [line.removeprefix("# ") for line in block.splitlines() if line.startswith("# ")]
    assert len(answers) == len(expected), answers
    for answer, line in zip(answers, expected, strict=True):
        pattern = "".join(
            next((like for shown, like in UNSTABLE.items() if re.fullmatch(shown, part)), re.escape(part))
            for part in re.split(f"({'|'.join(re.sub(r'[(]-', '(?:-', shown) for shown in UNSTABLE)})", line)
        )
        assert re.fullmatch(pattern, answer), (answer, line)


@pytest.mark.embedded_only
def test_the_readme_s_session_runs_as_it_is_pasted(fresh: Fresh) -> None:
    [start] = blocks("README.md", "console")
    [shown] = re.findall(r"password (\S+) \(made now", start)

    def here(block: str) -> str:
        """With the password that was shown, and this server's port."""
        return block.replace(shown, fresh.password).replace("127.0.0.1:8000", f"127.0.0.1:{fresh.port}")

    assert here(start).partition("\n")[2] in fresh.said()
    assert IN_APP in (ROOT / "README.md").read_text()
    [python] = blocks("README.md", "python")
    check(in_python(here(python), fresh.environment), python)

    [shell] = blocks("README.md", "sh")
    answers = in_shell(here(shell))
    functions, last = shell.partition("\n\n")[0], shell.splitlines()[-2]
    assert "?wait=30" in last
    while re.search(r'"state":"(TODO|TRAINED|VALIDATED)"', answers[-1]):  # the machine is slow, and says so
        answers[-1:] = in_shell(here(f"{functions}\n{last}\n"))
    check(answers, shell)


@pytest.mark.embedded_only
def test_a_lost_password_is_replaced_as_the_server_says(fresh: Fresh) -> None:
    lost = fresh.password
    fresh.stop()
    fresh.start()
    assert lost not in fresh.said()
    assert "start it as before with a new one: USER_PSWD=NEW make serve" in fresh.said()
    fresh.stop()

    fresh.environment["USER_PSWD"] = fresh.password = "NEW"
    fresh.start()
    assert "with the password in USER_PSWD" in fresh.said()
    fresh.stop()
    del fresh.environment["USER_PSWD"]
    fresh.start()  # and waits until it answers to the new one
    assert requests.get(f"{fresh.url}/runapp/rawdata/", auth=("datarun", lost), timeout=60).status_code == 401


@pytest.mark.embedded
def test_a_task_is_looked_at_in_plain_python_as_the_documents_say(live: Live, organiser: Organiser) -> None:
    task_id = organiser.split(split_iris(organiser))
    document = (ROOT / "docs" / "api.md").read_text()
    assert IN_APP in document
    [indented] = [text for text in re.findall(r"(?:^    .*\n)+", document, re.MULTILINE) if "AsyncResult" in text]
    block = textwrap.dedent(indented)
    pasted = re.sub(r'"[0-9a-f-]{36}"', f'"{task_id}"', block)
    assert task_id in pasted
    check(in_python(pasted, live.environment), block)


@pytest.mark.embedded
def test_celery_lists_the_workers(live: Live) -> None:
    def listed() -> bool:
        """A worker that is busy may answer too late."""
        command = [sys.executable, "-m", "celery", "-A", "datarun", "status", "--timeout", "10"]
        run = subprocess.run(command, cwd=APP, env=live.environment, capture_output=True, text=True)
        return all(f"{name}@" in run.stdout for name in ("runner", "master"))

    until(listed, 120, live.evidence)
