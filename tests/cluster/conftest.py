"""An organiser of the cluster, through its public address, with its certificate verified."""

import secrets
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from tests.chaos import table
from tests.chaos.load import Load
from tests.cluster import operations
from tests.cluster.hosts import MASTER, RUNNERS, VARIABLES, run
from tests.cluster.playbooks import Inventory
from tests.e2e import live


class Organiser(live.Organiser):
    """Its ids begin at a random number far above an organiser's own, so that each run has new ones."""

    next_id = secrets.randbelow(1_000_000_000) + 1_000_000_000

    def __init__(self) -> None:
        variables = VARIABLES[MASTER]
        self.who = (url(), variables["master_admin_login"], variables["master_admin_password"])
        self.live = SimpleNamespace(evidence=evidence)  # type: ignore[assignment]  # all that a wait needs of it


def url() -> str:
    return f"https://{VARIABLES[MASTER]['cluster_master_address']}/"


def evidence() -> str:
    """What a failed wait shows of the runners."""
    tail = "journalctl --unit datarun-runner --lines 10 --no-pager --output cat"
    return "\n".join(f"{name}:\n{run(name, tail)}" for name in RUNNERS)


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cluster's own, as an organiser is given it."""
    path = tmp_path_factory.mktemp("authority") / "ca.pem"
    path.write_text(run(MASTER, "cat /etc/datarun/ca.pem"))
    return path


@pytest.fixture(scope="session")
def api(authority: Path) -> Iterator[Organiser]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REQUESTS_CA_BUNDLE", str(authority))
        yield Organiser()


@pytest.fixture(scope="module")
def load(api: Organiser, tmp_path_factory: pytest.TempPathFactory) -> Load:
    """For the operations under load; a module with a load of another kind has its own fixture."""
    return Load(api, tmp_path_factory.mktemp("submissions"), table.SEED)


@pytest.fixture
def inventory(tmp_path: Path) -> Inventory:
    return Inventory(tmp_path / "inventory")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # What waits most comes first, so that the processes end together.
    items.sort(key=lambda item: item.path.name not in ("test_again.py", "test_workflow.py"))


class OneAfterTheOther(LoadScopeScheduling):
    """What changes the cluster is done in one process; the single machine is a host of its own."""

    def _split_scope(self, nodeid: str) -> str:
        return "single" if "test_single" in nodeid else "cluster"


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling | None:
    # xdist_group would say the same, but xdist 3.8 loses its groups with pytest 9.
    return OneAfterTheOther(config, log) if config.getoption("dist") == "loadgroup" else None


def pytest_terminal_summary() -> None:
    table.show("make cluster-chaos")
    operations.show()
