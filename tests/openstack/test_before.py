"""What is looked up before anything is made."""

from tests.openstack.conftest import Cluster


def test_check_mode_says_what_it_would_make_and_makes_nothing(tmp_path, project):
    cluster = Cluster(tmp_path, project, "dry")
    assert cluster.create("--check").changed >= 2
    assert project.all() == set()


def test_it_names_all_that_is_missing_and_makes_nothing(tmp_path, project, admin):
    cluster = Cluster(tmp_path, project, "poor", ["one", "two"])
    cluster.hosts["children"]["master"]["hosts"][cluster.master] = {"openstack_instance_flavor": "m9.tiny"}
    cluster.runners["poor-one"] = {"openstack_instance_image": "windows"}
    cluster.runners["poor-two"] = {"openstack_instance_network": "nowhere", "openstack_instance_volume_size": 5000}
    cluster.variables["openstack_instance_external_network"] = "outer"
    cluster.save()
    admin.set_compute_quotas(project.conn.current_project_id, instances=2, server_group_members=1)
    admin.set_network_quotas(project.conn.current_project_id, floatingip=0)
    said = cluster.create(code=2).text
    for missing in (
        "m9.tiny",
        "windows",
        "nowhere",
        "outer",
        "quota of instances",
        "quota of gigabytes",
        "server_group_members",
        "floating_ips",
    ):
        assert missing in said
    assert project.all() == set()


def test_it_rejects_names_that_are_somebody_elses(tmp_path, project):
    network = project.conn.network.find_network("private").id
    image, flavor = project.conn.image.find_image("debian-12").id, project.conn.compute.find_flavor("m1.small").id
    project.conn.network.create_port(network_id=network, name="taken-one")
    group = project.conn.compute.create_server_group(name="datarun-taken", policies=["soft-anti-affinity"])
    server = project.conn.compute.create_server(
        name="taken-master", image_id=image, flavor_id=flavor, networks=[{"uuid": network}],
        scheduler_hints={"group": group.id},
    )  # fmt: skip
    project.conn.compute.wait_for_server(server)
    before = project.all()
    cluster = Cluster(tmp_path, project, "taken")
    said = cluster.create(code=2).text
    assert "taken-master: an instance of this name" in said
    assert "taken-one: a port of this name" in said
    assert "a server group datarun-taken is there" in said
    assert cluster.destroy().changed == 0
    assert project.all() == before
