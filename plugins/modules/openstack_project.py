"""The project of an OpenStack cloud that the credentials are for: what nothing in openstack.cloud tells."""

from ansible_collections.openstack.cloud.plugins.module_utils.openstack import OpenStackModule

DOCUMENTATION = """
module: openstack_project
short_description: The project of the credentials, and what its quotas leave
description:
  - Tells the id of the project, as an administrator is shown the networks' objects of all projects.
  - Tells how much more of each thing may be made in it. Without a block storage its quotas are not told.
extends_documentation_fragment: [openstack.cloud.openstack]
"""

RETURN = """
project_id:
  type: str
block_storage:
  description: Whether the cloud has volumes.
  type: bool
free:
  description: Numbers by the names of OpenStack's quotas, C(ram) in MiB, C(gigabytes) in GiB; none without a limit.
  type: dict
  sample: {instances: 8, cores: 14, ram: 49152, ports: 97, floating_ips: 49, volumes: 10, gigabytes: 1000}
"""


class Project(OpenStackModule):
    module_kwargs = {"supports_check_mode": True}

    def run(self):
        project = self.conn.current_project_id
        free = {name: limit - used for name, (limit, used) in self.quotas(project).items() if limit >= 0}
        block_storage = self.conn.has_service("block-storage")
        self.exit_json(changed=False, project_id=project, free=free, block_storage=block_storage)

    def quotas(self, project):
        """Each quota's name -> its limit, -1 for none, and how much of it is used."""
        compute = self.conn.compute.get_limits().absolute
        quotas = {
            "instances": (compute.instances, compute.instances_used),
            "cores": (compute.total_cores, compute.total_cores_used),
            "ram": (compute.total_ram, compute.total_ram_used),
            "server_group_members": (compute.server_group_members, 0),  # of each group
        }
        network = self.conn.network.get_quota(project, details=True)
        for name in "ports", "security_groups", "floating_ips":
            quotas[name] = network[name]["limit"], network[name]["used"] + network[name]["reserved"]
        if self.conn.has_service("block-storage"):
            volumes = self.conn.block_storage.get_limits().absolute
            quotas["volumes"] = volumes.max_total_volumes, volumes.total_volumes_used
            quotas["gigabytes"] = volumes.max_total_volume_gigabytes, volumes.total_gigabytes_used
        return quotas


if __name__ == "__main__":
    Project()()
