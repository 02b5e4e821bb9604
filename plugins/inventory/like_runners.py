"""Runners that are like each other, by their number: as many instances of OpenStack, or hosts that the DNS knows."""

from ansible.errors import AnsibleParserError
from ansible.plugins.inventory import BaseInventoryPlugin
from ansible.utils.vars import load_extra_vars

DOCUMENTATION = """
name: like_runners
short_description: As many like runners as are wanted
description:
  - Adds the hosts C(GROUP-1) to C(GROUP-COUNT) to a group, whose variables are those of all of them.
  - A C(_) of the group is a C(-) in their names, as names of hosts have none.
options:
  plugin:
    description: The name of this plugin.
    type: str
    required: true
    choices: [like_runners]
  group:
    description: The group, which becomes a child of C(runners).
    type: str
    required: true
  count:
    description: How many; C(-e runners_count=5) is another number for one run.
    type: int
    required: true
"""

EXAMPLES = """
plugin: like_runners
group: small
count: 3
"""


class InventoryModule(BaseInventoryPlugin):
    NAME = "like_runners"

    def verify_file(self, path):
        return super().verify_file(path) and path.endswith((".yml", ".yaml"))

    def parse(self, inventory, loader, path, cache=True):
        super().parse(inventory, loader, path, cache)
        self._read_config_data(path)
        group = self.get_option("group")
        count = load_extra_vars(loader).get("runners_count", self.get_option("count"))
        if not str(count).isdecimal():
            raise AnsibleParserError(f"{path}: runners_count is {count!r}: it must be a number of runners")
        for name in "cluster", "runners", group:
            inventory.add_group(name)
        inventory.add_child("cluster", "runners")
        inventory.add_child("runners", group)
        for number in range(1, int(count) + 1):
            inventory.add_host(f"{group.replace('_', '-')}-{number}", group=group)
