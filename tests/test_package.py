"""The package as a host gets it: all files that are needed at run time, and for a runner no Django."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

IMPORT_RUNNER = """
import pkgutil, sys

OTHERS = {"django", "rest_framework", "drf_spectacular", "gunicorn", "whitenoise", "psycopg2", "requests", "rich",
          "flower", "datarun", "runapp", "test_files"}

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in OTHERS:
            raise ModuleNotFoundError(f"a runner has no {name}")

sys.meta_path.insert(0, Refuse())
import runner
for module in pkgutil.walk_packages(runner.__path__, "runner."):
    __import__(module.name)
import redis
from runner.celery import app
app.loader.import_default_modules()
assert "runapp.tasks.prepare_data" in app.tasks
app.backend.client
"""


def test_a_runner_imports_nothing_of_the_master_s():
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("DJANGO_", "DR_"))}
    environment |= {"DATARUN_BROKER_URL": "amqp://localhost//", "DATARUN_RESULT_URL": "redis://localhost"}
    subprocess.run([sys.executable, "-c", IMPORT_RUNNER], cwd=ROOT / "app", env=environment, check=True)


@pytest.mark.parametrize("part", ["master", "runner"])
def test_what_a_host_installs_is_pinned_as_everywhere_and_has_hashes(part):
    pins = (ROOT / "requirements.txt").read_text().splitlines()
    packages = (ROOT / "requirements" / f"{part}.txt").read_text().replace("\\\n", "").splitlines()
    assert len(packages) > 20
    for package in packages:
        version, *hashes = package.split("    --hash=sha256:")
        assert version.strip() in pins
        assert hashes and all(re.fullmatch("[0-9a-f]{64} ?", digest) for digest in hashes)


def test_the_wheel_holds_all_that_is_in_the_sources(tmp_path):
    left_out = shutil.ignore_patterns("__pycache__", "*.egg-info", ".datarun")
    for name in ("pyproject.toml", "LICENSE"):
        (tmp_path / "source").mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / "source")
    shutil.copytree(ROOT / "app", tmp_path / "source" / "app", ignore=left_out)
    app = tmp_path / "source" / "app"
    sources = {str(path.relative_to(app)) for path in app.rglob("*") if path.is_file()} - {"manage.py"}
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path)]
    subprocess.run([*command, str(tmp_path / "source")], check=True)
    [wheel] = tmp_path.glob("datarun-*.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert packed == sources
