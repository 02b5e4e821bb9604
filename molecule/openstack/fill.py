"""What a cloud has before its users come: fill.py catalog URL PASSWORD SERVICE=TYPE=URL..., or `fill.py cloud`."""

import sys

import openstack


def catalog(url, password, *services):
    """The services' addresses, their own user, and the user `demo` of the project `demo`."""
    user = {"username": "admin", "password": password, "project_name": "admin"}
    domain = {"user_domain_id": "default", "project_domain_id": "default"}
    identity = openstack.connect(auth={"auth_url": url} | user | domain, region_name="RegionOne").identity
    for service in services:
        name, kind, address = service.split("=")
        made = identity.create_service(name=name, type=kind)
        for interface in "public", "internal", "admin":
            identity.create_endpoint(service_id=made.id, interface=interface, url=address, region_id="RegionOne")
    roles = {role.name: role for role in identity.roles()}
    for name, granted in ("service", ("admin", "service")), ("demo", ("member",)):
        project = identity.create_project(name=name, domain_id="default")
        made = identity.create_user(name=name, password=password, domain_id="default", default_project_id=project.id)
        for role in granted:
            identity.assign_project_role_to_user(project, made, roles[role])


def cloud():
    """Flavors, an image, the network to the outside; and a network of demo's behind a router."""
    admin, demo = openstack.connect(cloud="admin"), openstack.connect(cloud="real")
    admin.compute.create_flavor(name="m1.small", ram=512, vcpus=1, disk=10)
    admin.compute.create_flavor(name="m1.large", ram=1024, vcpus=2, disk=20)
    # No hypervisor has room for it.
    admin.compute.create_flavor(name="m1.huge", ram=1048576, vcpus=1, disk=10)
    image = {"disk_format": "raw", "container_format": "bare", "visibility": "public", "min_disk": 2}
    admin.create_image("debian-12", data=bytes(1 << 20), wait=True, **image)
    provider = {"provider_network_type": "flat", "provider_physical_network": "public"}
    outside = admin.network.create_network(name="public", is_router_external=True, **provider)
    admin.network.create_subnet(
        network_id=outside.id, name="public", ip_version=4, cidr="203.0.113.0/24", enable_dhcp=False
    )
    network = demo.network.create_network(name="private")
    subnet = demo.network.create_subnet(network_id=network.id, name="private", ip_version=4, cidr="10.20.0.0/24")
    router = demo.network.create_router(name="private", external_gateway_info={"network_id": outside.id})
    demo.network.add_interface_to_router(router, subnet_id=subnet.id)


{"catalog": catalog, "cloud": cloud}[sys.argv[1]](*sys.argv[2:])
