"""Role application: a version is complete before it is used, and the one before it can be gone back to."""

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.ansible.helpers import ROOT, ansible

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="what the role installs belongs to root")

PLAY = """
- hosts: localhost
  connection: local
  gather_facts: false
  tasks:
    - ansible.builtin.include_role: {name: application}
    - ansible.builtin.include_role: {name: application, tasks_from: switch}
      when: application_from != application_folder
"""

OLD = "probe-000000000000"
METADATA = "Metadata-Version: 2.1\nName: {0}\nVersion: {1}\n"
WHEEL = "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


class Host:
    """An environment below `folder`, with wheels of a package that prints its version."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.venv = folder, folder / "opt" / "probe"
        self.venv.parent.mkdir()
        self.pins = folder / "pins" / "runner.txt"
        self.pins.parent.mkdir()
        self.pins.write_text("")
        (folder / "play.yml").write_text(PLAY)

    def wheel(self, version: str, name: str = "probe") -> Path:
        path = self.folder / f"{name}-{version}-py3-none-any.whl"
        info = f"{name}-{version}.dist-info"
        files = {
            f"{name}.py": f"def main():\n    print({version!r})\n",
            f"{info}/METADATA": METADATA.format(name, version),
            f"{info}/WHEEL": WHEEL,
            f"{info}/entry_points.txt": "[console_scripts]\nprobe = probe:main\n",
        }
        record = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in (files | {f"{info}/RECORD": record}).items():
                archive.writestr(zipfile.ZipInfo(name), content)  # the same bytes each time
        return path

    def install(self, source: Path | str, *arguments: str, code: int = 0) -> str:
        variables = {
            "application_source": str(source),
            "application_part": "runner",
            "application_requirements": str(self.pins.parent),
            "application_venv": str(self.venv),
            "from_image": False,
        }
        done = ansible(
            "playbook", "-i", "localhost,", self.folder / "play.yml", "-e", json.dumps(variables), *arguments,
            XDG_CACHE_HOME=str(self.folder / "cache"), ANSIBLE_ROLES_PATH=str(ROOT / "roles"),
        )  # fmt: skip
        assert done.returncode == code, done.stdout
        return done.stdout

    def install_as_before(self, version: str) -> None:
        """As a release did that knew of no links."""
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", self.venv], check=True)
        program = self.venv / "bin" / "probe"
        program.write_text(f"#!{self.venv}/bin/python\nprint({version!r})\n")
        program.chmod(0o755)

    def lead_to(self, version: str) -> None:
        self.venv.unlink()
        self.venv.symlink_to(version)

    def says(self) -> str:
        return subprocess.run(
            [self.venv / "bin" / "probe"], stdout=subprocess.PIPE, text=True, check=True
        ).stdout.strip()

    def versions(self) -> set[str]:
        return {path.name for path in self.venv.parent.iterdir() if not path.is_symlink()}


@dataclass
class Story:
    """What became of a host on which one version after the other was installed: a step, and what there was after it."""

    host: Host
    printed: dict[str, str] = field(default_factory=dict)
    says: dict[str, str] = field(default_factory=dict)
    versions: dict[str, set[str]] = field(default_factory=dict)

    def note(self, step: str, printed: str = "") -> None:
        self.printed[step], self.says[step], self.versions[step] = printed, self.host.says(), self.host.versions()


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    host = Host(tmp_path_factory.mktemp("host"))
    story = Story(host)
    host.install_as_before("0")
    story.note("folder")
    story.note("first", host.install(host.wheel("1")))
    new = os.readlink(host.venv)
    host.lead_to(OLD)
    story.note("back")
    host.lead_to(new)
    story.note("again", host.install(host.wheel("1")))
    story.note("check", host.install(host.wheel("2"), "--check"))
    altered = hashlib.sha256(b"another").hexdigest()
    for step, pins in {
        "contradicted": f"probe==1 --hash=sha256:{altered}",
        "altered": f"{host.wheel('3', 'other')} --hash=sha256:{altered}",
        "without hash": f"{host.wheel('3', 'other')}",
    }.items():
        host.pins.write_text(f"{pins}\n")
        story.note(step, host.install(host.wheel("2"), code=2))
    host.pins.write_text("")
    story.note("second", host.install(host.wheel("2")))
    return story


def test_a_link_leads_to_the_version(story: Story) -> None:
    assert (story.says["first"], story.says["second"]) == ("1", "2")
    assert story.host.venv.is_symlink()


def test_the_version_before_stays_and_older_ones_go(story: Story) -> None:
    [new] = story.versions["second"] - story.versions["first"]
    assert story.versions["second"] == story.versions["first"] - {OLD} | {new}


def test_the_folder_of_an_earlier_release_becomes_a_version_to_go_back_to(story: Story) -> None:
    assert OLD in story.versions["first"]
    assert story.says["back"] == "0"


def test_a_second_run_changes_nothing(story: Story) -> None:
    assert "changed=0" in story.printed["again"]


def test_check_mode_tells_and_changes_nothing(story: Story) -> None:
    assert "changed=0" not in story.printed["check"]
    assert (story.says["check"], story.versions["check"]) == ("1", story.versions["again"])


def test_a_version_that_can_not_be_installed_leaves_the_one_in_use(story: Story) -> None:
    assert story.says["contradicted"] == "1"


def test_it_rejects_a_package_that_is_not_the_one_whose_hash_is_known(story: Story) -> None:
    assert "DO NOT MATCH THE HASHES" in story.printed["altered"]
    assert "Hashes are required" in story.printed["without hash"]
    assert (story.says["altered"], story.says["without hash"]) == ("1", "1")
