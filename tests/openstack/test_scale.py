"""Six runners at once, fewer, none; and what belongs to others stays."""

import subprocess

from tests.openstack.conftest import STATE, Cluster

LIKE = "plugin: like_runners\ngroup: like\ncount: 1\n"


def belongings(project, name, cluster):
    """What of this name a cluster may have, with its marks."""
    conn, mark = project.conn, f"datarun_cluster={cluster}"
    network = conn.network.find_network("private").id
    flavor, image = conn.compute.find_flavor("m1.small").id, conn.image.find_image("debian-12").id
    server = conn.compute.create_server(
        name=name, flavor_id=flavor, image_id=image, networks=[{"uuid": network}],
        metadata={"datarun_cluster": cluster, "datarun_role": "runner"},
    )  # fmt: skip
    conn.compute.wait_for_server(server)
    conn.compute.create_keypair(name=f"datarun-{cluster}")
    conn.compute.create_server_group(name=f"datarun-{cluster}", policies=["soft-anti-affinity"])
    conn.network.create_port(network_id=network, name=name, description=mark)
    conn.network.create_security_group(name=f"datarun-{cluster}-runner", description=mark)
    conn.network.create_ip(floating_network_id=conn.network.find_network("public").id, description=mark)
    conn.block_storage.create_volume(name=name, size=1, metadata={"datarun_cluster": cluster})
    conn.image.upload_image(name=name, data=b"0", disk_format="raw", container_format="bare", datarun_cluster=cluster)
    return project.all()


def lose_in_build(server):
    """As Nova has it when the message to its hypervisor was lost: in BUILD, for ever."""
    change = f"update instances set vm_state='building', task_state='spawning' where uuid='{server.id}'"
    subprocess.run(["mariadb", "--no-defaults", "-S", STATE / "db/socket", "nova", "-e", change], check=True)


def test_a_cluster_grows_shrinks_and_goes_and_others_stay(tmp_path, new_project, admin):
    project, foreign = new_project(), new_project()
    others = belongings(project, "elsewhere", "another")
    # The very same names and marks, but in another project.
    theirs = belongings(foreign, "big-one", "big")

    cluster = Cluster(tmp_path, project, "big")
    (cluster.folder / "like.yml").write_text(LIKE)
    runners = {f"like-{number}" for number in range(1, 6)}
    known = cluster.folder / ".known_hosts"
    known.write_text("".join(f"10.30.0.{number} ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA\n" for number in range(256)))

    cluster.create("-e", "runners_count=5")
    servers = project.servers()
    assert set(servers) == {"elsewhere", "big-master", "big-one", *runners}
    assert {server.status for server in servers.values()} == {"ACTIVE"}

    of_old = {line.split()[0] for line in known.read_text().splitlines()}
    taken = {server.addresses["private"][0]["addr"] for server in servers.values()}
    assert len(of_old) == 256 - 7
    assert of_old & taken == {servers["elsewhere"].addresses["private"][0]["addr"]}

    # What a run that was broken off may leave of a runner.
    network = project.conn.network.find_network("private").id
    project.conn.network.create_port(network_id=network, name="like-9", description="datarun_cluster=big")
    project.conn.block_storage.create_volume(name="like-8", size=1, metadata={"datarun_cluster": "big"})

    # One that was switched off has no folds: those of the fake hypervisor that run answer nobody who would drain them.
    for name in "like-4", "like-5":
        project.conn.compute.stop_server(servers[name])
    for name in "like-4", "like-5":
        project.conn.compute.wait_for_server(servers[name], status="SHUTOFF")
    said = cluster.create("-e", "runners_count=2").text
    assert set(project.servers()) == {"elsewhere", "big-master", "big-one", "like-1", "like-2", "like-3"}
    assert not {"like-8", "like-9"} & {name for _, name, _ in project.all()}
    assert "like-3" in said  # it runs, and nobody has drained it

    again = cluster.create("-e", "runners_count=3")
    assert again.changed == 0

    assert "is not the name" in cluster.destroy(name="bigger", code=2).text
    assert len(project.servers()) == 6
    lose_in_build(servers["like-1"])
    cluster.destroy()
    assert project.all() == others
    assert cluster.destroy().changed == 0
    assert foreign.all() == theirs
