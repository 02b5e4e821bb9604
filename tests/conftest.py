"""Where the tests run: on what the environment names (`python -m tests.services`), else on the embedded default.

Everything the tests write is below one temporary folder.
"""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from xdist.workermanage import NodeManager

HOME = Path(tempfile.mkdtemp(prefix="datarun-tests-"))
NAMED = Path(__file__).parent / "cluster", Path(__file__).parent / "openstack"
"""Part of a run only when named: they need a cluster or OpenStack's APIs, and packages of their own targets."""
BOTH = "tests/app/", "tests/e2e/"
"""Run on the services too."""
LONGEST = tuple(
    f"tests/{name}.py"
    for name in (
        "ansible/test_validate", "e2e/test_acceptance", "broker/test_bad_runner", "broker/test_drain",
        "chaos/test_faults", "e2e/test_status", "e2e/test_survival", "e2e/test_lost", "e2e/test_endings",
        "broker/test_lost", "broker/test_permissions", "ansible/test_pki", "ansible/test_application", "e2e/test_calls",
    )
)  # fmt: skip
"""The files that take longest, these first: begun last, they would keep one process busy alone."""
os.environ["DATARUN_HOME"] = str(HOME)
os.environ["DJANGO_SETTINGS_MODULE"] = "datarun.settings"


def pytest_configure(config: pytest.Config) -> None:
    """xdist kills a process that takes long to end: one with services of its own would leave their files."""
    if any("tests.services" in process for process in config.getoption("tx", None) or []):
        NodeManager.EXIT_TIMEOUT = 120


def pytest_unconfigure() -> None:
    """Also in the process that only hands tests to others."""
    shutil.rmtree(HOME)


def pytest_report_header() -> str:
    return f"datarun: {'PostgreSQL, RabbitMQ and Redis' if on_services() else 'embedded default'}"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out the folders of NAMED that no argument of pytest names."""
    if collection_path not in NAMED:
        return None
    return None if any(collection_path.name in argument for argument in config.args) else True


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--once", action="store_true", help="leave out what a run on the services shows (tests.suite)")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Choose what belongs to this part of the suite, and begin with the files that take longest."""
    left_out = [item for item in items if _is_elsewhere(item, config)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
    rank = {name: number for number, name in enumerate(LONGEST)}
    kept = [item for item in items if item not in set(left_out)]
    if not config.getoption("random_order_enabled", False):
        kept.sort(key=lambda item: rank.get(_name(item), len(rank)))
    items[:] = kept


def _name(item: pytest.Item) -> str:
    return str(item.path.relative_to(item.config.rootpath))


def _is_elsewhere(item: pytest.Item, config: pytest.Config) -> bool:
    if on_services():
        return item.get_closest_marker("embedded_only") is not None
    if not config.getoption("once") or not _name(item).startswith(BOTH):
        return False
    return not any(item.get_closest_marker(name) for name in ("embedded", "embedded_only"))


def on_services() -> bool:
    return bool(os.environ.get("RMQ_VHOST"))
