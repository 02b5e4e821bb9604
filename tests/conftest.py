"""Where the tests run: on what the environment names (`python -m tests.services`), else on the embedded default.

Everything the tests write is below one temporary folder.
"""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

HOME = Path(tempfile.mkdtemp(prefix="datarun-tests-"))
CLUSTER = Path(__file__).parent / "cluster"
os.environ["DATARUN_HOME"] = str(HOME)
os.environ["DJANGO_SETTINGS_MODULE"] = "datarun.settings"


def pytest_unconfigure() -> None:
    """Also in the process that only hands tests to others."""
    shutil.rmtree(HOME)


def pytest_report_header() -> str:
    return f"datarun: {'PostgreSQL, RabbitMQ and Redis' if on_services() else 'embedded default'}"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """tests/cluster needs a cluster that runs: it is part of a run only when it is named."""
    named = any("cluster" in argument for argument in config.args)
    return True if collection_path == CLUSTER and not named else None


def on_services() -> bool:
    return bool(os.environ.get("RMQ_VHOST"))
