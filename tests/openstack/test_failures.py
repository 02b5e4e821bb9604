"""APIs that fail, and instances."""

from tests.openstack.conftest import GONE, Cluster, finish, until


def test_a_run_that_an_api_ended_in_the_middle_is_finished_by_the_next(tmp_path, project, proxy):
    project.through(proxy, "network")
    cluster = Cluster(tmp_path, project, "half", ["one", "two"])
    cluster.variables["openstack_instance_volume_size"] = 10
    cluster.variables |= {"openstack_instance_retries": 1, "openstack_instance_delay": 1}
    cluster.save()
    process = cluster.start("playbooks/instances_create.yml")
    try:
        until(lambda: any(kind == "port" for kind, _, _ in project.all()), "the first port")
        proxy.fault = lambda method, path: GONE
        finish(process, code=None)
    finally:
        process.kill()
    assert proxy.calls
    proxy.fault = lambda method, path: None
    halves = project.all()
    cluster.create("-e", "openstack_instance_replace_errors=true")
    assert {server.status for server in project.servers().values()} == {"ACTIVE"}
    assert len(project.servers()) == 3
    kinds = [kind for kind, _, _ in project.all()]
    assert (kinds.count("port"), kinds.count("volume"), kinds.count("floating IP")) == (3, 3, 1), halves
    cluster.destroy()
    assert project.all() == set()


def test_it_gives_up_after_a_bound_and_names_the_answer(tmp_path, project, proxy):
    proxy.fault = lambda method, path: 500 if method == "POST" and path.endswith("/servers") else None
    project.through(proxy, "compute")
    cluster = Cluster(tmp_path, project, "denied")
    cluster.variables |= {"openstack_instance_retries": 2, "openstack_instance_delay": 1}
    cluster.save()
    said = cluster.create(code=2).text
    assert "500" in said
    assert 2 <= len(proxy.calls) <= 2 * (1 + 2) * 4
    cluster.destroy()
    assert project.all() == set()


def test_it_does_not_call_again_what_is_forbidden(tmp_path, project, proxy):
    proxy.fault = lambda method, path: 403 if method == "POST" and path.endswith("/os-keypairs") else None
    project.through(proxy, "compute")
    said = Cluster(tmp_path, project, "forbidden").create(code=2).text
    assert "403" in said
    assert len(proxy.calls) == 1


def test_it_calls_again_when_that_can_help_and_tells_an_instance_in_error_with_novas_words(tmp_path, project, proxy):
    """In one run; the instance stays until it is asked for."""
    statuses = [409, 429, 503]

    def fault(method, path):
        return statuses.pop() if statuses and method == "POST" and path.endswith(("/ports", "/floatingips")) else None

    proxy.fault = fault
    project.through(proxy, "network")
    cluster = Cluster(tmp_path, project, "ill")
    cluster.variables["openstack_instance_delay"] = 1
    cluster.runners["ill-one"] = {"openstack_instance_flavor": "m1.huge"}
    cluster.save()
    assert "No valid host was found" in cluster.create(code=2).text
    assert {answer for _, _, answer in proxy.calls} == {409, 429, 503}
    assert project.servers()["ill-master"].status == "ACTIVE"
    ill = project.servers()["ill-one"]
    assert ill.status == "ERROR"

    assert "No valid host was found" in cluster.create(code=2).text
    assert project.servers()["ill-one"].id == ill.id

    cluster.runners["ill-one"] = {}
    cluster.save()
    cluster.create("-e", "openstack_instance_replace_errors=true")
    assert {server.status for server in project.servers().values()} == {"ACTIVE"}
    cluster.destroy()
    assert project.all() == set()
