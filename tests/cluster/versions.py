"""Versions of this checkout for tests of upgrades: Git references below refs/datarun-test."""

import os
import re
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.ansible.helpers import ROOT

FILES = ["app", "pyproject.toml", "README.md", "LICENSE", "requirements"]
"""Of which a version is made."""

NUMBER = "1.99.0"
"""What a later release calls itself here."""

MIGRATIONS = "app/runapp/migrations"

Edits = dict[str, Callable[[str], str]]
"""Path of a file -> its new text, of the old one; a new file's was empty."""


def make(name: str, edits: Edits) -> str:
    """A reference to the checkout as it lies there, edited."""
    with tempfile.TemporaryDirectory() as folder:
        index = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
        _git("read-tree", "HEAD", **index)
        _git("add", "--all", "--", *FILES, **index)
        for path, edit in edits.items():
            old = (ROOT / path).read_text() if (ROOT / path).exists() else ""
            blob = _git("hash-object", "-w", "--stdin", stdin=edit(old))
            _git("update-index", "--add", "--cacheinfo", f"100644,{blob},{path}", **index)
        tree = _git("write-tree", **index)
    who = ["-c", "user.name=tests", "-c", "user.email=tests@example.org"]
    commit = _git(*who, "commit-tree", "-m", f"{name}, for a test", tree)
    reference = f"refs/datarun-test/{name}"
    _git("update-ref", reference, commit)
    return reference


def remove(*references: str) -> None:
    for reference in references:
        _git("update-ref", "-d", reference)


def later() -> Edits:
    """A release with one more migration, and with one more field in messages both ways."""
    more = '"of_a_later_release": 1,\n'
    return {
        "pyproject.toml": lambda text: _replaced(r'^version = ".*"$', f'version = "{NUMBER}"', text),
        "app/runapp/models.py": lambda text: _replaced(
            r"^    returns = .*$", r"\g<0>\n    of_a_later_release = models.IntegerField(null=True)", text
        ),
        _next(1): lambda _: _migration(
            _numbers()[-1],
            'migrations.AddField("submissionfold", "of_a_later_release", models.IntegerField(null=True))',
        ),
        "app/runner/tasks.py": lambda text: _replaced(
            r'^( +)"started_at": self\._started,\n', rf"\g<0>\g<1>{more}", text
        ),
        "app/runapp/services/queueing.py": lambda text: _replaced(
            r'^( +)"attempt": fold\.attempts,\n', rf"\g<0>\g<1>{more}", text
        ),
    }


def with_a_migration_that_fails() -> Edits:
    """Its first migration is done before the second one fails."""
    return later() | {
        _next(2): lambda _: _migration(Path(_next(1)).stem, 'migrations.RunSQL("SELECT 1/0", "SELECT 1")')
    }


def with_a_runner_that_does_not_start() -> Edits:
    return later() | {"app/runner/sandbox/start.py": lambda text: "import of_a_later_release  # noqa\n" + text}


def with_other_predictions() -> Edits:
    """Its master's acceptance holds no runner's predictions for right."""
    return later() | {"app/runapp/acceptance.py": lambda text: _replaced(r"@ weights / 8\)", "@ weights / 4)", text)}


def _next(number: int) -> str:
    """The file of a migration so many after the last."""
    return f"{MIGRATIONS}/{int(_numbers()[-1].split('_')[0]) + number:04}_of_a_later_release.py"


def _numbers() -> list[str]:
    return sorted(path.stem for path in (ROOT / MIGRATIONS).glob("[0-9]*.py"))


def _migration(after: str, operation: str) -> str:
    return (
        "from django.db import migrations, models\n\n\n"
        "class Migration(migrations.Migration):\n"
        f'    dependencies = [("runapp", "{after}")]\n'
        f"    operations = [{operation}]\n"
    )


def _replaced(pattern: str, by: str, text: str) -> str:
    edited, count = re.subn(pattern, by, text, flags=re.M)
    assert count == 1, f"{pattern} is there {count} times"
    return edited


def _git(*arguments: str, stdin: str = "", **environment: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=ROOT, env=os.environ | environment, input=stdin, text=True, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
