"""Every default of a role is in its argument spec with the same value; what is required has none."""

import pytest
import yaml

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
