"""What holds for all roles: their defaults are those of their argument specs; none installs on a host from an image."""

from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from jinja2.nativetypes import NativeEnvironment

from tests.ansible.helpers import ROOT

ROLES = sorted(path.name for path in (ROOT / "roles").iterdir())


def load(role, name):
    path = ROOT / "roles" / role / name
    return yaml.safe_load(path.read_text()) or {} if path.exists() else {}


@pytest.mark.parametrize("role", ROLES)
def test_defaults_are_those_of_the_argument_spec(role):
    options = load(role, "meta/argument_specs.yml")["argument_specs"]["main"].get("options", {})
    assert load(role, "defaults/main.yml") == {
        name: option["default"] for name, option in options.items() if "default" in option
    }
    for name, option in options.items():
        assert name == role or name.startswith(f"{role}_")
        assert option["description"]
        assert not (option.get("required") and "default" in option), name


INSTALLS = {"ansible.builtin.apt", "ansible.builtin.pip"}
INCLUDES = "ansible.builtin.import_tasks", "ansible.builtin.include_tasks"


def tasks(role: str, file: str, conditions: str = "") -> Iterator[tuple[dict[str, Any], str]]:
    """Each task of a file, of its blocks and of the files that it includes, with all conditions above it."""
    yield from inside(role, load(role, f"tasks/{file}"), conditions)


def inside(role: str, block: list[dict[str, Any]], conditions: str) -> Iterator[tuple[dict[str, Any], str]]:
    for task in block:
        under = f"{conditions} and {task.get('when', '')}"
        yield task, under
        yield from inside(role, task.get("block", []), under)
        for include in INCLUDES:
            if include in task:
                yield from tasks(role, task[include], under)


@pytest.mark.parametrize("role", ROLES)
def test_nothing_is_installed_on_a_host_from_an_image(role: str) -> None:
    met = [(task["name"], under) for task, under in tasks(role, "main.yml") if INSTALLS & task.keys()]
    assert [name for name, under in met if "and not from_image | bool" not in f"and {under}"] == []
    # Those that no other role or playbook reaches but by way of main.yml.
    files = [path.name for path in (ROOT / "roles" / role / "tasks").iterdir()]
    every = {
        task["name"]
        for file in files
        if file != "remove.yml"
        for task, _ in tasks(role, file)
        if INSTALLS & task.keys()
    }
    assert every == {name for name, _ in met}


def installed(group: str) -> set[str]:
    """The roles of site.yml's plays for a host of this group that install Debian's packages."""
    found = set()
    for playbook in "hosts_install.yml", "master_install.yml", "runners_install.yml":
        for play in yaml.safe_load((ROOT / "playbooks" / playbook).read_text()):
            if play["hosts"] in ("cluster", group):
                found |= {role["role"] for role in play.get("roles", [])}
    return {role for role in found if any("ansible.builtin.apt" in task for task, _ in tasks(role, "main.yml"))}


@pytest.mark.parametrize("group", ["master", "runners"])
def test_an_image_is_held_against_the_packages_of_all_roles(group: str) -> None:
    checks = yaml.safe_load((ROOT / "playbooks/tasks/validate_image.yml").read_text())
    [listed] = [task["vars"]["__validate_roles"] for task in checks if "__validate_roles" in task.get("vars", {})]
    groups = {"master": ["of master"], "runners": ["of runners"]}
    held = NativeEnvironment().from_string(listed).render(inventory_hostname=f"of {group}", groups=groups)
    # The authority alone needs what makes certificates.
    assert sorted(held) == sorted(installed(group) - ({"pki"} if group == "runners" else set()))
    for role in held:
        assert f"__{role}_packages" in load(role, "vars/main.yml")
