"""Neutron without agents: ports and floating IPs are what its database says, and at once ACTIVE."""

from neutron.services.l3_router import l3_router_plugin
from neutron_lib import constants
from neutron_lib.api.definitions import portbindings
from neutron_lib.plugins.ml2 import api


class MechanismDriver(api.MechanismDriver):
    connectivity = portbindings.CONNECTIVITY_L2

    def initialize(self):
        pass

    def bind_port(self, context):
        segment = context.segments_to_bind[0]
        details = {portbindings.CAP_PORT_FILTER: True}
        context.set_binding(segment[api.ID], portbindings.VIF_TYPE_OVS, details, status=constants.PORT_STATUS_ACTIVE)

    def filter_hosts_with_segment_access(self, context, segments, candidate_hosts, agent_getter):
        return candidate_hosts


class L3Plugin(l3_router_plugin.L3RouterPlugin):
    """Sets the status that an agent would report."""

    def create_floatingip(self, context, floatingip):
        return self._report(context, super().create_floatingip(context, floatingip))

    def update_floatingip(self, context, id, floatingip):
        return self._report(context, super().update_floatingip(context, id, floatingip))

    def _report(self, context, ip):
        status = constants.FLOATINGIP_STATUS_ACTIVE if ip.get("port_id") else constants.FLOATINGIP_STATUS_DOWN
        self.update_floatingip_status(context.elevated(), ip["id"], status)
        return ip | {"status": status}
