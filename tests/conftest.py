"""Where the tests run: on what the environment names (`python -m tests.services`), else on the embedded default.

Everything the tests write is below one temporary folder.
"""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

HOME = Path(tempfile.mkdtemp(prefix="datarun-tests-"))
NAMED = Path(__file__).parent / "cluster", Path(__file__).parent / "openstack"
"""Part of a run only when named: they need a cluster or OpenStack's APIs, and packages of their own targets."""
os.environ["DATARUN_HOME"] = str(HOME)
os.environ["DJANGO_SETTINGS_MODULE"] = "datarun.settings"


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


def on_services() -> bool:
    return bool(os.environ.get("RMQ_VHOST"))
