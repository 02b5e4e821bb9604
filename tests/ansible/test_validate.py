"""Each check of validate.yml refuses its wrong inventory, by the names of the variable and of the file to edit."""

import copy
import json

import pytest
import yaml

from tests.ansible.helpers import ansible

LOCAL = {"ansible_connection": "local", "ansible_python_interpreter": "/usr/bin/python3"}

# A cluster whose hosts are all this machine: nothing is touched, and -e says what does not fit this machine's tests.
VARIABLES = {
    "sciencefs_type": "sshfs",
    "sciencefs_host": "sciencefs.example.org",
    "sciencefs_host_key": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIE",
    "sciencefs_login": "datarun",
    "master_admin_login": "datarun",
    "master_admin_email": "datarun@example.org",
    "vault_postgresql_password": "p1",
    "vault_rabbitmq_password": "p2",
    "vault_redis_password": "p3",
    "vault_master_admin_password": "p4",
    "vault_master_secret_key": "p5",
    "vault_master_flower_password": "p8",
    "vault_runner_secret": "p6",
    "vault_backup_password": "p7",
    "vault_sciencefs_private_key": "-----BEGIN OPENSSH PRIVATE KEY-----\nx\n-----END OPENSSH PRIVATE KEY-----\n",
}
RUNNERS = {
    "r1": {
        "runner_concurrency": 2,
        "runner_queues": ["L", "celery"],
        "runner_hard_time_limit": 360,
        "runner_soft_time_limit": 300,
        "runner_memory_limit": "1M",
    },
    "r2": {
        "runner_concurrency": 3,
        "runner_queues": ["H"],
        "runner_hard_time_limit": 240,
        "runner_soft_time_limit": 200,
    },
}


class Cluster:
    def __init__(self, folder):
        self.hosts_file = folder / "hosts.yml"
        self.main = folder / "group_vars" / "cluster" / "main.yml"
        self.vault = self.main.with_name("vault.yml")
        self.variables = dict(VARIABLES)
        self.masters = {"boss": dict(LOCAL)}
        self.runners = {name: LOCAL | values for name, values in copy.deepcopy(RUNNERS).items()}

    def validate(self, *arguments, **constants):
        self.main.parent.mkdir(parents=True)
        self.main.write_text(yaml.safe_dump(self.variables))
        children = {"master": {"hosts": self.masters}, "runners": {"hosts": self.runners}}
        self.hosts_file.write_text(yaml.safe_dump({"cluster": {"children": children}}))
        # the machine that tests may be any
        constants = {"validate_free_gib": 0, "validate_python": "3.0"} | constants
        return ansible(
            "playbook",
            "-i",
            self.hosts_file.parent,
            "playbooks/validate.yml",
            "-e",
            json.dumps(constants),
            *arguments,
        )

    def rejected(self, *arguments, **constants):
        """What it printed, on one line, after it failed."""
        done = self.validate(*arguments, **constants)
        assert done.returncode != 0, done.stdout
        return " ".join(done.stdout.split())


@pytest.fixture
def cluster(tmp_path):
    return Cluster(tmp_path)


def here():
    lines = open("/etc/os-release").read().splitlines()
    values = dict(line.replace('"', "").split("=", 1) for line in lines if "=" in line)
    return [f"{values['ID']}-{values['VERSION_ID']}"]


@pytest.mark.parametrize(
    ("arguments", "repository"),
    [
        ([], "/srv/backup"),
        (["--check"], "sftp:backup@192.0.2.9:/srv"),
        (["--tags", "runners"], "s3:https://s3.example.org/b"),
        (["--limit", "r2"], None),
    ],
    ids=str,
)
def test_it_works_with_backups_anywhere(arguments, repository, cluster):
    if repository:
        cluster.variables["backup_repository"] = repository
    done = cluster.validate(*arguments, validate_distributions=here())
    assert done.returncode == 0, done.stdout
    assert "changed=0" in done.stdout
    assert "Check distribution" in done.stdout


def test_no_role_runs_and_no_secret_is_printed(cluster):
    done = cluster.validate("-vv", validate_distributions=here())
    assert "/roles/" not in done.stdout.replace("roles_path", "")
    for name, value in VARIABLES.items():
        assert not name.startswith("vault_") or f"'{value}'" not in done.stdout


@pytest.mark.parametrize("masters", [{}, {"boss": LOCAL, "boss2": LOCAL}], ids=len)
def test_there_is_one_master(masters, cluster):
    cluster.masters = masters
    found = cluster.rejected()
    assert f"group master has {len(masters)} hosts" in found
    assert str(cluster.hosts_file.parent) in found


def test_there_is_a_runner(cluster):
    cluster.runners = {}
    assert "group runners has no host" in cluster.rejected()


def test_an_address_has_one_runner(cluster):
    cluster.runners["r1"]["ansible_host"] = cluster.runners["r2"]["ansible_host"] = "192.0.2.1"
    found = cluster.rejected()
    assert "same address (ansible_host)" in found
    assert "'r1': '192.0.2.1'" in found or "r1: 192.0.2.1" in found


def test_all_missing_variables_of_env_sh_are_asked_for_by_name(cluster):
    for name in VARIABLES:
        if name not in ("sciencefs_type", "sciencefs_login"):
            del cluster.variables[name]
    cluster.variables |= {"sciencefs_login": "", "sciencefs_directory": "", "rabbitmq_vhost": ""}
    found = cluster.rejected()
    for name in (
        "sciencefs_login (was SCIENCEFS_LOGIN)",
        "sciencefs_directory (was SCIENCEFS_DATARUN)",
        "rabbitmq_vhost (was RMQ_VHOST)",
        "sciencefs_host",
        "sciencefs_host_key",
    ):
        assert f"{name} is missing: set it in {cluster.main}" in found
    for name in ("vault_runner_secret", "vault_sciencefs_private_key (was the file of the private key)"):
        assert f"{name} is missing: set it in {cluster.vault}" in found


def test_all_missing_variables_of_the_master_are_asked_for_by_name(cluster):
    for name in VARIABLES:
        if name.startswith(("master_", "vault_master", "vault_post", "vault_rab", "vault_redis")):
            del cluster.variables[name]
    cluster.variables |= {"postgresql_database": "", "postgresql_user": "", "master_scheduler_period": ""}
    found = cluster.rejected()
    for name in (
        "master_admin_login (was USER_LOGIN)",
        "master_admin_email (was DR_EMAIL)",
        "postgresql_database (was DR_DATABASE_NAME)",
        "postgresql_user (was DR_DATABASE_USER)",
        "master_scheduler_period (was CELERY_SCHEDULER_PERIOD)",
    ):
        assert f"{name} is missing: set it in {cluster.main}" in found
    for name in (
        "vault_master_admin_password (was USER_PSWD)",
        "vault_postgresql_password (was DR_DATABASE_PASSWORD)",
        "vault_master_secret_key",
        "vault_master_flower_password",
        "vault_rabbitmq_password",
        "vault_redis_password",
    ):
        assert f"{name} is missing: set it in {cluster.vault}" in found


@pytest.mark.parametrize(
    ("variables", "problems"),
    [
        ({"sciencefs_type": "ftp"}, ["sciencefs_type is 'ftp': it must be sshfs, nfs or local"]),
        ({"sciencefs_type": "nfs", "sciencefs_host": ""}, ["sciencefs_host is missing"]),
        (
            {"sciencefs_type": "local", "cluster_data_dir": "/mnt/datarun/submission/"},
            ["sciencefs_type is 'local', which is for one machine, but runners", "must be two folders"],
        ),
        (
            {
                "sciencefs_host_key": "SHA256:abc",
                "cluster_data_dir": "/srv/data",
                "cluster_submission_dir": "/mnt/datarun/../x",
                "master_server_names": "a.example",
                "firewall_ssh_networks": "10.0.0.0/8",
            },
            [
                "sciencefs_host_key is 'SHA256:abc'",
                "cluster_data_dir is '/srv/data': it must be below sciencefs_mount_point, /mnt/datarun/",
                "cluster_submission_dir is '/mnt/x': it must be below sciencefs_mount_point",
                "master_server_names is 'a.example': it must be a list",
                "firewall_ssh_networks is '10.0.0.0/8': it must be a list",
            ],
        ),
    ],
    ids=["type", "nfs", "local", "forms"],
)
def test_it_rejects_of_the_cluster(variables, problems, cluster):
    cluster.variables |= variables
    found = cluster.rejected()
    for problem in problems:
        assert problem in found
    assert str(cluster.main) in found


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("vault_sciencefs_private_key", "/root/key", "is no private key"),
        ("vault_runner_secret", "change me", "is still the example's 'change me'"),
        ("vault_redis_password", "Change me!", "is still the example's 'change me'"),
    ],
)
def test_it_rejects_a_secret(name, value, problem, cluster):
    cluster.variables[name] = value
    found = cluster.rejected()
    assert f"{name} {problem}" in found
    assert str(cluster.vault) in found


def test_it_rejects_all_that_is_wrong_with_runners_at_once(cluster):
    wrong = [
        ({"runner_concurrency": 0}, "runner_concurrency is '0': it must be a whole number above 0"),
        ({"runner_concurrency": "2"}, "runner_concurrency is '2': it must be a whole number above 0, without quotes"),
        ({"runner_hard_time_limit": "long"}, "runner_hard_time_limit is 'long'"),
        ({"runner_soft_time_limit": 360}, "runner_soft_time_limit 360 must be below runner_hard_time_limit 360"),
        ({"runner_hard_time_limit": 86401}, "runner_hard_time_limit is 86401: it must be 86400"),
        ({"runner_queues": "L,celery"}, "runner_queues is 'L,celery': it must be a list of some of L, H, celery"),
        ({"runner_queues": ["L", "low"]}, "runner_queues is '['L', 'low']': it must be a list of some of"),
        ({"runner_queues": ["L", "L"]}, "runner_queues is '['L', 'L']': it must be a list of some of"),
        ({"runner_queues": []}, "runner_queues is '[]'"),
        ({"runner_memory_limit": "2 gigs"}, "runner_memory_limit is '2 gigs'"),
        ({"runner_fold_environment": "A=1"}, "runner_fold_environment is 'A=1': it must be names with values"),
        ({"runner_fold_environment": {"A B": 1}}, "runner_fold_environment has 'A B': it must be the name of"),
        ({"runner_fold_environment": {"OMP_NUM_THREADS": 4}}, "runner_fold_environment has 'OMP_NUM_THREADS', which"),
        ({"runner_fold_environment": {"DR_X": 1}}, "runner_fold_environment has 'DR_X': submissions must not see"),
        ({"runner_packages": "xgboost"}, "runner_packages is 'xgboost': it must be a list of pip requirements"),
    ]
    cluster.runners = {f"r{number}": LOCAL | RUNNERS["r1"] | values for number, (values, _) in enumerate(wrong)}
    found = cluster.rejected()
    for number, (_, problem) in enumerate(wrong):
        assert f"r{number}: {problem}" in found.replace("''", "'")
    assert f"edit {cluster.hosts_file}" in found


def test_each_queue_has_a_runner(cluster):
    cluster.runners["r1"]["runner_queues"] = ["H"]
    found = cluster.rejected()
    assert "No runner serves L and celery" in found
    assert "runner_queues" in found


def test_each_host_that_is_not_reached_is_named(cluster):
    for name, port in (("r1", 1), ("r2", 2)):
        cluster.runners[name] |= {"ansible_connection": "ssh", "ansible_host": f"127.0.0.{port}", "ansible_port": 1}
    found = cluster.rejected()
    assert "r1 (ansible_host 127.0.0.1) can't be reached" in found
    assert "r2 (ansible_host 127.0.0.2) can't be reached" in found
    assert f"edit {cluster.hosts_file}, or leave the host out with --limit" in found


def test_hosts_that_are_not_made_yet_are_not_asked(cluster):
    """As site.yml checks an inventory before it makes its instances."""
    for runner in cluster.runners.values():
        runner |= {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1}
    cluster.runners["r2"]["ansible_host"] = "127.0.0.2"
    cluster.runners["r1"]["runner_concurrency"] = 0
    found = cluster.rejected(validate_reach=False)
    assert "runner_concurrency" in found
    assert "reached" not in found


@pytest.mark.parametrize("metadata", [{"datarun_cluster": "another"}, {}], ids=str)
def test_it_rejects_an_instance_of_somebody_elses(metadata, cluster):
    """As the inventory plugin openstack.cloud.openstack tells of one that has the name of a host."""
    cluster.runners["r1"]["openstack"] = {"metadata": metadata}
    found = cluster.rejected()
    assert "r1: the addresses are those of instances of OpenStack that say they are of another cluster" in found


def test_it_takes_an_instance_of_the_clusters_own(cluster):
    cluster.runners["r1"]["openstack"] = {"metadata": {"datarun_cluster": cluster.hosts_file.parent.name}}
    done = cluster.validate(validate_distributions=here())
    assert done.returncode == 0, done.stdout


def test_it_rejects_all_that_is_wrong_with_a_host_at_once(cluster):
    wrong = {
        "validate_distributions": (["debian-1"], "and must be one of debian-1: replace the host in"),
        "validate_python": ("4.0", "and must be 4.0 or later"),
        "validate_free_gib": (10**9, "GiB free on /, and needs 1000000000 GiB"),
        "validate_clock_seconds": (-1, "s off from this machine's"),
        "validate_spare_mib": (10**9, "runner_concurrency 2 times runner_memory_limit 1M is 2 MiB"),
    }
    found = cluster.rejected(**{name: value for name, (value, _) in wrong.items()})
    assert "r1: its distribution is" in found
    for _, problem in wrong.values():
        assert problem in found


@pytest.mark.parametrize(
    "wrong",
    [
        [
            ({"backup_repository": "backups"}, "backup_repository is 'backups': it must be a whole path"),
            ({"backup_keep_daily": "7"}, "backup_keep_daily is '7': it must be a whole number"),
            ({"backup_environment": {"AWS KEY": "x"}}, "backup_environment must be names of environment variables"),
        ],
        [
            ({"backup_repository": "/mnt/datarun/data/backup"}, "is within cluster_data_dir, which is backed up there"),
            (dict.fromkeys(("backup_keep_daily", "backup_keep_weekly", "backup_keep_monthly"), 0), "are all 0"),
        ],
        # asked of a host, after what is wrong by itself
        [({"backup_schedule": "at night"}, "backup_schedule is 'at night': it must be an OnCalendar")],
    ],
    ids=["forms", "values", "schedule"],
)
def test_backups_are_as_they_can_be(wrong, cluster):
    for variables, _ in wrong:
        cluster.variables |= variables
    found = cluster.rejected(validate_distributions=here())
    for _, told in wrong:
        assert told in found
        assert f"edit {cluster.main if 'environment' not in told else cluster.vault}" in found


def test_a_host_that_is_no_image_is_told_what_it_lacks(cluster):
    """This machine: nothing of datarun is in the folders that are asked for."""
    cluster.variables |= {
        "common_packages": ["no-such-package=1.0"],
        "master_venv": "/nowhere/m",
        "runner_venv": "/nowhere",
    }
    cluster.runners["r2"]["from_image"] = True
    found = cluster.rejected(validate_distributions=here())
    assert "r2 was made from no image (it has no /etc/datarun/image.json): it lacks Debian packages: " in found
    assert "no-such-package" in found and "no-such-package=" not in found
    assert "and datarun as it is in this checkout, in /nowhere. site.yml without from_image, with --limit r2," in found
    assert "r1 was made from" not in found
    assert "boss was made from" not in found


def test_it_rejects_a_from_image_that_is_no_boolean(cluster):
    cluster.runners["r2"]["from_image"] = "perhaps"
    assert "from_image is 'perhaps': it must be true or false" in cluster.rejected()
