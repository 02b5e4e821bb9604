"""What is said to be installed is what a fold can import."""

import importlib
import json
import subprocess
import sys

import pytest

from runner import packages


@pytest.fixture
def by_name():
    return {package["name"]: package for package in packages.installed()}


def test_it_works(by_name):
    for name, module in (("numpy", "numpy"), ("scikit-learn", "sklearn"), ("pandas", "pandas")):
        assert by_name[name]["version"] == importlib.import_module(module).__version__
        assert module in by_name[name]["modules"]


def test_it_is_sorted_and_names_each_package_once():
    names = [package["name"] for package in packages.installed()]
    assert names == sorted({*names})


def test_a_package_has_one_spelling(by_name):
    assert "pyyaml" in by_name
    assert not [name for name in by_name if name != name.lower() or "_" in name or "." in name]


def test_datarun_is_not_among_them(monkeypatch):
    """On a cluster it is installed beside the others, but a fold does not see its settings."""
    monkeypatch.setattr(packages.PathFinder, "find_spec", lambda *_: True)
    names = {package["name"] for package in packages.installed.__wrapped__()}
    assert "numpy" in names
    assert "datarun" not in names


def test_all_its_modules_are_found_by_an_interpreter_without_our_path():
    """As in the sandbox: no PYTHONPATH, no folder of the user, no current folder."""
    look = """
import importlib.util, json, sys
print(json.dumps([module for module in sys.argv[1:] if not importlib.util.find_spec(module)]))
"""
    found = subprocess.run(
        [sys.executable, "-I", "-c", look, *packages.installed_modules()], check=True, capture_output=True, text=True
    )
    assert json.loads(found.stdout) == []


def test_a_package_that_the_interpreter_alone_would_not_find_is_left_out(tmp_path):
    """PYTHONPATH leads to it here, but not in the sandbox."""
    (tmp_path / "elsewhere.py").touch()
    metadata = tmp_path / "elsewhere-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: elsewhere\nVersion: 1.0\n")
    (metadata / "top_level.txt").write_text("elsewhere\n")
    look = """
from importlib.metadata import version
from runner import packages
print(version("elsewhere"), *packages.installed_modules())
"""
    environment = {"PYTHONPATH": f"{tmp_path}:{next(path for path in sys.path if path.endswith('/app'))}"}
    said = subprocess.run([sys.executable, "-c", look], check=True, capture_output=True, text=True, env=environment)
    version, *modules = said.stdout.split()
    assert version == "1.0"
    assert "numpy" in modules
    assert "elsewhere" not in modules


def test_a_report_stays_small():
    """It is sent every ten seconds."""
    assert len(json.dumps(packages.installed())) / len(packages.installed()) < 150
