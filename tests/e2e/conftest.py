"""One server for the tests that share it, on what the environment names."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from test_files import kits
from tests.e2e.live import Live, Organiser


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    server = Live(
        tmp_path_factory.mktemp("live"), DR_SOFT_TIME_LIMIT="240", DR_HARD_TIME_LIMIT="300", DATARUN_SLOTS="2",
        DATARUN_WEBHOOK_ALLOW="127.0.0.0/8",
    )  # fmt: skip
    server.start()
    yield server
    server.stop()


@pytest.fixture
def organiser(live: Live) -> Organiser:
    return Organiser(live)


@pytest.fixture(scope="session")
def iris(live: Live) -> int:
    """The id of the iris data with the workflow `classifier` alone, split."""
    return split_iris(Organiser(live))


def split_iris(organiser: Organiser) -> int:
    number = organiser.data(kits.IRIS.data_files[0], target="species", elements="classifier")
    organiser.split(number)
    return number


@pytest.fixture
def write(tmp_path: Path):
    """write(text): a submission of one classifier.py; returns its list of paths."""

    def write_files(text: str) -> list[str]:
        (tmp_path / "classifier.py").write_text(text)
        return [str(tmp_path / "classifier.py")]

    return write_files
