"""A list_runners.txt is an inventory as it is, and a bad line of it stops everything."""

import json
import re
import runpy

import pytest

from tests.ansible.helpers import ROOT, ansible

PLUGIN = ROOT / "plugins" / "inventory" / "list_runners.py"

MANUAL = "134.158.75.112 2 L,celery 360 300\n134.158.75.113 3 H 240 200\n"

FIRST = {
    "runner_concurrency": 2,
    "runner_queues": ["L", "celery"],
    "runner_hard_time_limit": 360,
    "runner_soft_time_limit": 300,
}
SECOND = {
    "runner_concurrency": 3,
    "runner_queues": ["H"],
    "runner_hard_time_limit": 240,
    "runner_soft_time_limit": 200,
}


@pytest.fixture(scope="module")
def parse():
    return runpy.run_path(str(PLUGIN))["parse_list"]


def inventory(path, *arguments):
    """The parsed list; each queue comes as {"__ansible_unsafe": text} in this form, which is unwrapped."""
    done = ansible("inventory", "-i", path, *arguments, "--list")
    assert done.returncode == 0, done.stdout
    found = json.loads(done.stdout, object_hook=lambda found: found.get("__ansible_unsafe", found))
    # without what group_vars/ adds to each host
    words = {*FIRST, "runner_memory_limit"}
    found["hosts"] = {
        host: {name: value for name, value in variables.items() if name in words}
        for host, variables in found["_meta"]["hostvars"].items()
    }
    return found


@pytest.mark.parametrize(
    "text",
    [
        MANUAL,
        MANUAL.rstrip("\n"),
        MANUAL.replace("\n", "\r\n"),
        MANUAL.replace(" ", "\t  "),
        f"# the runners\n\n  \n{MANUAL}\n   # no more\n",
        MANUAL.replace("\n", "  # rented\n"),
    ],
    ids=["the manual's", "no newline at the end", "CRLF", "tabs", "blank lines and comments", "comments behind"],
)
def test_it_reads(text, parse):
    assert parse(text) == ({"134.158.75.112": FIRST, "134.158.75.113": SECOND}, [])


def test_a_list_is_taken_with_minus_i_as_it_is(tmp_path):
    path = tmp_path / "list_runners.txt"
    path.write_bytes(b"\xef\xbb\xbf" + MANUAL.rstrip("\n").replace("\n", "\r\n").encode())
    found = inventory(path)
    assert found["hosts"] == {"134.158.75.112": FIRST, "134.158.75.113": SECOND}
    assert found["runners"]["hosts"] == ["134.158.75.112", "134.158.75.113"]
    assert found["cluster"]["children"] == ["runners"]


def test_a_list_adds_to_an_inventory_and_its_values_win(tmp_path):
    hosts = tmp_path / "hosts.yml"
    hosts.write_text(
        "cluster: {children: {master: {hosts: {boss: {}}}, runners: {hosts: {134.158.75.113:"
        " {runner_concurrency: 1, runner_memory_limit: 2G}}}}}\n"
    )
    path = tmp_path / "list_runners.txt"
    path.write_text(MANUAL)
    found = inventory(hosts, "-i", path)
    assert found["hosts"]["134.158.75.113"] == SECOND | {"runner_memory_limit": "2G"}
    assert sorted(found["cluster"]["children"]) == ["master", "runners"]
    assert set(found["runners"]["hosts"]) == {"134.158.75.112", "134.158.75.113"}


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("10.0.0.1", "1 word instead of the 5 of 'address concurrency queues hard_time_limit soft_time_limit'"),
        ("10.0.0.1 2 L 360", "4 words instead of the 5"),
        ("10.0.0.1 2 L, celery 360 300", "6 words instead of the 5 .*queues are separated by commas without blanks"),
        ("10.0.0.1 0 L 360 300", "concurrency is '0': it must be a whole number above 0"),
        ("10.0.0.1 -1 L 360 300", "concurrency is '-1'"),
        ("10.0.0.1 2.0 L 360 300", "concurrency is '2.0'"),
        ("10.0.0.1 ٣ L 360 300", "concurrency is '٣'"),
        ("10.0.0.1 2 L 6min 300", "hard_time_limit is '6min'"),
        ("10.0.0.1 2 L 360 0", "soft_time_limit is '0'"),
        ("10.0.0.1 2 L 300 360", "soft_time_limit 360 must be below hard_time_limit 300"),
        ("10.0.0.1 2 L 300 300", "soft_time_limit 300 must be below hard_time_limit 300"),
        ("10.0.0.1 2 low 360 300", "queue 'low' is unknown: use L, H, celery"),
        ("10.0.0.1 2 l 360 300", "queue 'l' is unknown"),
        ("10.0.0.1 2 L, 360 300", "queue '' is unknown"),
        ("10.0.0.1 2 L,H,L 360 300", "queue L is named twice"),
        ("10.0.0.256 2 L 360 300", "'10.0.0.256' is no address"),
        ("root@10.0.0.1 2 L 360 300", "'root@10.0.0.1' is no address: .* without user and port"),
        ("10.0.0.1:22 2 L 360 300", "'10.0.0.1:22' is no address"),
        ("{{x}} 2 L 360 300", "'{{x}}' is no address"),
        ("runner[1:3] 2 L 360 300", "is no address"),
        ("134.158.75.112 2 L 360 300", "134.158.75.112 is in line 1 already"),
    ],
)
def test_it_rejects_a_bad_line_by_its_number(line, problem, parse):
    _, [found] = parse(f"{MANUAL}\n{line}\n")
    assert found.startswith("line 4: ")
    assert re.search(problem, found), found


def test_host_names_and_addresses_of_both_kinds_are_fine(parse):
    addresses = ["runner-1.example.org", "runner_2", "10.0.0.1", "2001:db8::1"]
    assert parse("".join(f"{address} 1 L,H,celery 2 1\n" for address in addresses))[0].keys() == set(addresses)


def test_the_same_host_in_other_letters_is_a_duplicate(parse):
    assert parse("a.example 1 L 2 1\nA.Example 1 L 2 1\n")[1][0].startswith("line 2: A.Example is in line 1 already")


def test_a_bad_line_fails_the_whole_run_and_all_are_told_at_once(tmp_path):
    """`10.0.0.9` alone would be a host to Ansible's own ini plugin, which must not get the file."""
    path = tmp_path / "list_runners.txt"
    path.write_text(f"{MANUAL}10.0.0.9\n10.0.0.8 x L 2 1\n")
    done = ansible("inventory", "-i", path, "--list")
    assert done.returncode != 0
    assert f"{path}, line 3: 1 word instead of the 5" in done.stdout
    assert f"{path}, line 4: concurrency is 'x'" in done.stdout


def test_a_lone_address_is_no_host(tmp_path):
    """Ansible's own ini plugin takes it for one, so ansible.cfg must not enable it."""
    path = tmp_path / "list_runners.txt"
    path.write_text("10.0.0.9\n")
    assert ansible("inventory", "-i", path, "--list").returncode != 0


def test_a_file_that_is_no_text_fails_the_run(tmp_path):
    path = tmp_path / "list_runners.txt"
    path.write_bytes(b"\xff\xfe1\x00")
    done = ansible("inventory", "-i", path, "--list")
    assert done.returncode != 0
    assert "can't be read as text" in done.stdout
