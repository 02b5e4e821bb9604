"""What a server keeps is for its user alone."""

import stat

import pytest

from tests.e2e.live import Live, Organiser
from tests.e2e.submissions import HONEST

pytestmark = pytest.mark.embedded


def test_other_users_of_the_machine_read_nothing_of_it(live: Live, organiser: Organiser, iris: int, write) -> None:
    """Nor where DIR_DATA is outside of the home: the files themselves are closed."""
    organiser.tested(organiser.fold(iris, write(HONEST), range(50)))
    roots = [live.home / "submission", *live.home.glob("data/*/raw")]
    stored = [path for root in roots for path in (root, *root.rglob("*"))]
    assert {path.suffix for path in stored} >= {".csv", ".py"}
    for path in (live.home, *live.home.glob("datarun.sqlite3*"), *stored):
        assert not stat.S_IMODE(path.stat().st_mode) & (stat.S_IRWXG | stat.S_IRWXO), path
