"""Images of instances. What image_prepare.yml does before is shown in tests/cluster, on hosts that answer."""

from datetime import UTC, datetime, timedelta

from tests.openstack.conftest import Cluster, until

SNAPSHOT = "playbooks/images_create.yml", "--start-at-task", "Check that a host is named"


def old(project, cluster, name):
    image = project.conn.image.upload_image(
        name=name, data=b"0", disk_format="raw", container_format="bare", datarun_cluster=cluster, datarun_role="runner"
    )  # fmt: skip
    # Glance's times have no fractions: one of the same second would be as old.
    over = datetime.fromisoformat(image.created_at) + timedelta(seconds=1)
    until(lambda: datetime.now(UTC) >= over, "the second is over in which it was made")


def names(project):
    return {name for kind, name, _ in project.all() if kind == "image"}


def test_an_image_is_made_of_an_instance_without_a_volume_and_others_start_from_the_newest(tmp_path, project):
    old(project, "pic", "oldest")
    old(project, "another", "theirs")
    old(project, "pic", "older")
    cluster = Cluster(tmp_path, project, "pic", ["one", "vol"])
    cluster.runners["pic-vol"] = {"openstack_instance_volume_size": 10}
    cluster.variables["openstack_instance_images_kept"] = 2
    cluster.save()
    cluster.create()

    assert "--limit" in cluster.play(*SNAPSHOT, code=2).text
    assert "boots from a volume" in cluster.play(*SNAPSHOT, "--limit", "pic-vol", code=2).text
    assert names(project) == {"oldest", "theirs", "older"}
    cluster.play(*SNAPSHOT, "--limit", "pic-one")
    [new] = names(project) - {"theirs", "older"}
    assert new.startswith("datarun_runner-1.")
    image = project.conn.image.find_image(new)
    assert (image.status, image.visibility) == ("active", "private")
    assert project.servers()["pic-one"].status == "SHUTOFF"

    cluster.runners.pop("pic-one")
    cluster.runners["pic-two"] = {"from_image": True, "openstack_instance_image": ""}
    cluster.save()
    cluster.create()
    servers = project.servers()
    assert set(servers) == {"pic-master", "pic-vol", "pic-two"}
    assert servers["pic-two"].image.id == image.id

    cluster.destroy()
    assert {kind for kind, _, _ in project.all()} == {"image"}
