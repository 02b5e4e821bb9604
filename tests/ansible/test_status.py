"""tools/status.py: what it reads, what it prints, and hosts that do not answer."""

import io
import json
import socket
import sys
import threading
import time

import pytest
from rich.console import Console

from tests.ansible.helpers import ansible
from tools import hosts, status
from tools.hosts import Host, InventoryError
from tools.status import State

PRINTED = """
state=active
queues=L,celery
slots=2
soft=300
hard=360
memory=2147483648
version=1.0.0
disk=10485760
error=2026-11-22T00:00:00+00:00 host systemd[1]: a=b [broken]
share=yes
"""

LOCAL = {"ansible_connection": "local"}
INVENTORY = {
    "_meta": {"hostvars": {"m": LOCAL, "r1": {"ansible_host": "10.0.0.2", "ansible_port": 23}}},
    "all": {"children": ["cluster"]},
    "master": {"hosts": ["m"]},
    "runners": {"hosts": ["r1", "r2"]},
}


def read(inventory):
    return hosts.read_inventory(json.dumps(inventory))


def cells(*arguments):
    """Column -> text of a row."""
    return dict(zip(status.COLUMNS, status.row(*arguments), strict=True))


def test_it_reads_what_ansible_inventory_prints():
    master, runners = read(INVENTORY)
    assert master.local
    assert [(host.name, host.address, host.local) for host in runners] == [
        ("r1", "10.0.0.2", False),
        ("r2", "r2", False),
    ]


def test_host_keys_are_where_ssh_is_told_to_look():
    told = "-o UserKnownHostsFile=/rig/known_hosts -o StrictHostKeyChecking=yes"
    assert hosts.known_hosts(Host("r1", {"ansible_ssh_common_args": told})) == "/rig/known_hosts"
    assert hosts.known_hosts(Host("r1", {})) is None


def test_a_host_is_reached_through_another_as_ssh_is_told():
    told = "-o UserKnownHostsFile=/k -o ProxyCommand='ssh -o UserKnownHostsFile=/other -W %h:%p user@master'"
    host = Host("r1", {"ansible_ssh_common_args": told})
    assert hosts.known_hosts(host) == "/k"
    assert hosts.ssh_option(host, "ProxyCommand") == "ssh -o UserKnownHostsFile=/other -W %h:%p user@master"
    assert hosts.ssh_option(Host("r1", {}), "ProxyCommand") is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"_meta": {}}', "runners:"])
def test_it_says_what_an_inventory_is(text):
    with pytest.raises(InventoryError, match="ansible-inventory -i"):
        hosts.read_inventory(text)


@pytest.mark.parametrize("group", ["master", "runners"])
def test_it_rejects_an_inventory_without(group):
    with pytest.raises(InventoryError, match=group):
        read(INVENTORY | {group: {"hosts": []}})


def test_a_runner_that_works():
    state = State(reachable=True, skew=0.04, values=status.parse(PRINTED.replace(" [broken]", "")))
    worker = {"busy": 1, "slots": 2, "done": 7, "queues": ["L", "celery"]}
    assert cells("r1", state, worker) == {
        "runner": "r1",
        "reachable": "yes",
        "version": "1.0.0",
        "queues": "L,celery",
        "concurrency": "2",
        "limits": "300/360 s, 2.0 GiB",
        "busy slots": "1 of 2",
        "folds done": "7",
        "share mounted": "yes",
        "disk": "10.0 GiB free",
        "clock skew": "+0.0 s",
        "last error": "2026-11-22T00:00:00+00:00 host systemd[1]: a=b",
    }


def test_a_runner_that_is_stopped_says_so_before_its_last_error():
    values = status.parse(PRINTED.replace("state=active", "state=inactive"))
    shown = cells("r1", State(reachable=True, values=values), None)
    assert shown["last error"].startswith("datarun-runner is inactive\n2026")
    assert shown["busy slots"] == ""


def test_a_runner_whose_worker_is_deaf():
    values = status.parse(PRINTED) | {"error": ""}
    assert cells("r1", State(reachable=True, values=values), None)["last error"] == "its worker does not answer"


def test_a_share_that_hangs():
    values = status.parse(PRINTED.replace("share=yes\n", ""))
    assert cells("r1", State("no whole answer", reachable=True, values=values), None)["share mounted"] == "hangs"


def test_a_host_that_is_bare():
    """Nothing is installed: the probe prints what there is."""
    values = status.parse("state=inactive\nqueues=\nslots=\nversion=\ndisk=100\nerror=\nshare=no\n")
    shown = cells("r1", State(reachable=True, values=values), None)
    assert (shown["share mounted"], shown["limits"]) == ("no", "")


def test_the_probe_runs_here(monkeypatch):
    monkeypatch.setattr(hosts, "TIMEOUT", 120.0)
    began = time.time()
    state = status.look(Host("here", {"ansible_connection": "local"}))
    assert state.reachable
    assert abs(state.skew) <= (time.time() - began) / 2
    assert state.problem == "" or "sudo" in state.problem
    if not state.problem:
        assert state.values["share"] in ("yes", "no")


def test_an_answer_that_hangs_is_kept_as_far_as_it_came(monkeypatch):
    monkeypatch.setattr(hosts, "TIMEOUT", 5.0)
    monkeypatch.setattr(status, "AS_ROOT", "exec sh -s")
    monkeypatch.setattr(status, "PROBE", "echo state=active; exec sleep 300")
    state = status.look(Host("here", {"ansible_connection": "local"}))
    assert state.values == {"state": "active"}
    assert "no whole answer within 5 s" in state.problem


def test_brackets_are_printed_as_they_are():
    console = Console(file=io.StringIO(), width=180)
    console.print(status.table([status.row("r1", State(values=status.parse(PRINTED)), None)]))
    assert "[broken]" in console.file.getvalue()


@pytest.fixture
def silent():
    """The port of a server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_hosts_that_do_not_answer_are_lines_of_the_table(silent, monkeypatch, capsys):
    pytest.importorskip("paramiko")
    monkeypatch.setattr(hosts, "TIMEOUT", 1.0)
    refused = {"ansible_host": "127.0.0.1", "ansible_port": 9, "ansible_user": "root"}
    inventory = {
        "_meta": {"hostvars": {"m": refused, "r1": refused, "r2": refused | {"ansible_port": silent}}},
        "master": {"hosts": ["m"]},
        "runners": {"hosts": ["r1", "r2"]},
    }
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(inventory)))
    began = time.monotonic()
    assert status.main() == 0
    assert time.monotonic() - began < 20
    printed = capsys.readouterr().out
    for name in ("r1", "r2"):
        [line] = [line for line in printed.splitlines() if line.split()[:1] == [name]]
        assert line.split()[1] == "no"
    assert "Busy slots and folds done are not known: m is not reachable" in printed


def test_the_playbook_goes_through_the_host_that_a_variable_of_another_names(tmp_path):
    """As inventories/openstack has it of runners that only the master reaches."""
    pytest.importorskip("paramiko")
    jump = f"-o ProxyCommand='touch {tmp_path}/{{{{ hostvars[groups.master[0]].gate }}}}-%h-%p'"
    runner = {"ansible_host": "127.0.0.1", "ansible_port": 9, "ansible_ssh_common_args": jump}
    groups = {"master": {"hosts": {"m": LOCAL | {"gate": "through"}}}, "runners": {"hosts": {"r1": runner}}}
    (tmp_path / "hosts.yml").write_text(json.dumps({"cluster": {"children": groups}}))
    done = ansible("playbook", "-i", tmp_path / "hosts.yml", "playbooks/status.yml")
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "through-127.0.0.1-9").exists(), done.stdout


def test_a_real_ssh_session_is_read_to_its_end(tmp_path, monkeypatch):
    """All that the command prints arrives, also what comes with its end."""
    paramiko = pytest.importorskip("paramiko")

    class Server(paramiko.ServerInterface):
        def check_auth_none(self, username):
            return paramiko.AUTH_SUCCESSFUL

        def check_channel_request(self, kind, number):
            return paramiko.OPEN_SUCCEEDED

        def check_channel_exec_request(self, channel, command):
            threading.Thread(target=self.answer, args=(channel,), daemon=True).start()
            return True

        def answer(self, channel):
            stdin = channel.makefile("rb").read()
            channel.sendall(b"x" * 300_000 + stdin)
            channel.sendall_stderr(b"a warning")
            channel.send_exit_status(0)
            channel.close()

    ours, theirs = socket.socketpair()
    server = paramiko.Transport(theirs)
    server.banner_timeout = server.handshake_timeout = 60
    server.add_server_key(paramiko.RSAKey.generate(2048))
    server.start_server(server=Server(), event=threading.Event())
    client = paramiko.Transport(ours)
    client.banner_timeout = client.handshake_timeout = 60
    client.start_client(timeout=60)
    client.auth_none("datarun")

    class Client:
        def get_transport(self):
            return client

    try:
        out, err = hosts.run_there(Client(), "anything", "from stdin")
    finally:
        client.close()
        server.close()
    assert (len(out), out[-10:], err) == (300_010, "from stdin", "a warning")
