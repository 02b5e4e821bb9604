"""`python manage.py test`: the project's tests are pytest's."""

from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[2] / "tests" / "app"


class PytestRunner:
    """What Django's `test` command calls: runs tests/app, or the paths and names that it is given."""

    def __init__(self, failfast: bool = False, keepdb: bool = False, verbosity: int = 1, **_: Any) -> None:
        self.options = ["--exitfirst"] * failfast + ["--reuse-db"] * keepdb + ["--quiet"] * (verbosity < 2)

    def run_tests(self, labels: list[str]) -> int:
        """The number of failures, as far as Django asks: 0 or not."""
        import pytest

        return int(pytest.main([f"--rootdir={TESTS.parents[1]}", *self.options, *(labels or [str(TESTS)])]))
