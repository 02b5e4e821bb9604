"""runners_import.yml: the runners of a hosts.yml become those of a list, and nothing else is lost."""

import yaml

from tests.ansible.helpers import ROOT, ansible

EXAMPLE = (ROOT / "inventories" / "example" / "hosts.yml").read_text()


def imported(folder, text, hosts=EXAMPLE):
    path = folder / "hosts.yml"
    if hosts:
        path.write_text(hosts)
    (folder / "list_runners.txt").write_text(text)
    arguments = ["-e", f"list_runners={folder / 'list_runners.txt'}", "-e", f"hosts_file={path}"]
    return ansible("playbook", "-i", "localhost,", "playbooks/runners_import.yml", *arguments), path


def words(concurrency, queues, hard, soft):
    return {
        "runner_concurrency": concurrency,
        "runner_queues": queues,
        "runner_hard_time_limit": hard,
        "runner_soft_time_limit": soft,
    }


def test_it_makes_a_hosts_file(tmp_path):
    done, path = imported(tmp_path, "134.158.75.112 2 L,celery 360 300", hosts=None)
    assert done.returncode == 0, done.stdout
    children = yaml.safe_load(path.read_text())["cluster"]["children"]
    assert children["runners"]["hosts"] == {"134.158.75.112": words(2, ["L", "celery"], 360, 300)}


def test_it_keeps_the_master_names_and_other_variables(tmp_path):
    done, path = imported(tmp_path, "192.0.2.14 5 H,L 99 98\n10.0.0.9 1 celery 2 1\n")
    assert done.returncode == 0, done.stdout
    old, new = (yaml.safe_load(text)["cluster"]["children"] for text in (EXAMPLE, path.read_text()))
    assert new["master"] == old["master"]
    assert new["runners"]["hosts"] == {
        "runner3": old["runners"]["hosts"]["runner3"] | words(5, ["H", "L"], 99, 98),
        "10.0.0.9": words(1, ["celery"], 2, 1),
    }
    assert [copy.read_text() for copy in tmp_path.glob("hosts.yml.*~")] == [EXAMPLE]


def test_it_refuses_to_lose_variables(tmp_path):
    done, path = imported(tmp_path, "192.0.2.12 5 H,L,celery 99 98\n")
    assert done.returncode != 0
    assert "runner3: not in" in " ".join(done.stdout.split())
    assert path.read_text() == EXAMPLE


def test_it_refuses_a_bad_list(tmp_path):
    done, path = imported(tmp_path, "192.0.2.12 0 H,L,celery 99 98\n")
    assert done.returncode != 0
    assert "line 1: concurrency is '0'" in " ".join(done.stdout.split()).replace("''", "'")
    assert path.read_text() == EXAMPLE
