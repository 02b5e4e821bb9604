"""An image of an OpenStack instance: openstack.cloud makes images of files and volumes alone."""

from ansible_collections.openstack.cloud.plugins.module_utils.openstack import OpenStackModule

DOCUMENTATION = """
module: openstack_snapshot
short_description: Make an image of an instance
description:
  - An image of that name which is there already is waited for, and left as it is.
options:
  server:
    description: Id of the instance.
    type: str
    required: true
  name:
    description: The image's.
    type: str
    required: true
  properties:
    description: Properties of the image.
    type: dict
    default: {}
extends_documentation_fragment: [openstack.cloud.openstack]
"""

RETURN = """
image:
  description: As openstack.cloud.image_info tells it.
  type: dict
"""


class Snapshot(OpenStackModule):
    argument_spec = {
        "server": {"required": True},
        "name": {"required": True},
        "properties": {"type": "dict", "default": {}},
    }
    module_kwargs = {"supports_check_mode": True}

    def run(self):
        name, images = self.params["name"], self.conn.image
        found = images.find_image(name)
        if self.check_mode:
            self.exit_json(changed=not found, image={"name": name})
        made = found or self.conn.compute.create_server_image(
            self.params["server"], name, metadata=self.params["properties"]
        )
        image = self.sdk.resource.wait_for_status(
            images, images.get_image(made.id), "active", failures=["killed", "deleted"], interval=2,
            wait=self.params["timeout"],
        )  # fmt: skip
        self.exit_json(changed=not found, image=image.to_dict(computed=False))


if __name__ == "__main__":
    Snapshot()()
