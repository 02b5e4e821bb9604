"""A list_runners.txt as an inventory source: `-i inventories/<cluster> -i list_runners.txt`."""

import ipaddress
import re
from pathlib import Path

from ansible.errors import AnsibleParserError
from ansible.plugins.inventory import BaseInventoryPlugin

DOCUMENTATION = """
name: list_runners
short_description: Runners out of a list_runners.txt
description:
  - A line a runner, C(address concurrency queues hard_time_limit soft_time_limit), as in the manual.
    Blank lines and comments (C(#)) are passed over.
  - Each address becomes a host of the group C(runners), a child of C(cluster), with the host variables
    C(runner_concurrency), C(runner_queues), C(runner_hard_time_limit) and C(runner_soft_time_limit).
  - Any bad line refuses the whole file, with the numbers of all bad lines.
  - Ansible goes on without a source that is refused, unless C(any_unparsed_is_failed) is set, and tries other
    plugins, of which C(ini) takes nearly anything for hosts; ansible.cfg has both as they should be.
options:
  plugin:
    description: The name of this plugin; a list_runners.txt has no place for it.
    type: str
"""

EXAMPLES = """
# 134.158.75.112 2 L,celery 360 300
# 134.158.75.113 3 H 240 200
"""

WORDS = "address concurrency queues hard_time_limit soft_time_limit"
QUEUES = ("L", "H", "celery")


class InventoryModule(BaseInventoryPlugin):
    NAME = "list_runners"

    def verify_file(self, path):
        return super().verify_file(path) and path.endswith(".txt")

    def parse(self, inventory, loader, path, cache=True):
        super().parse(inventory, loader, path, cache)
        try:
            text = Path(path).read_text(encoding="utf-8-sig")  # editors on Windows begin a file with a mark
        except (OSError, UnicodeDecodeError) as error:
            raise AnsibleParserError(f"{path}: can't be read as text: {error}") from error
        runners, problems = parse_list(text)
        if problems:
            raise AnsibleParserError("\n".join(f"{path}, {problem}" for problem in problems))
        inventory.add_group("cluster")
        inventory.add_group("runners")
        inventory.add_child("cluster", "runners")
        for address, variables in runners.items():
            inventory.add_host(address, group="runners")
            for name, value in variables.items():
                inventory.set_variable(address, name, value)


def parse_list(text):
    """The host variables of each address, and what is wrong: a text for each bad line, with its number."""
    runners, problems, seen = {}, [], {}
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        try:
            address, variables = parse_words(words)
            first = seen.setdefault(address.lower(), number)
            if first != number:
                raise ValueError(f"{address} is in line {first} already: give each runner one line")
        except ValueError as error:
            problems.append(f"line {number}: {error}")
        else:
            runners[address] = variables
    return runners, problems


def parse_words(words):
    if len(words) != 5:
        count = f"{len(words)} word{'s' * (len(words) > 1)}"
        raise ValueError(f"{count} instead of the 5 of '{WORDS}'; queues are separated by commas without blanks")
    address, concurrency, queues, hard, soft = words
    variables = {
        "runner_concurrency": parse_number("concurrency", concurrency),
        "runner_queues": parse_queues(queues),
        "runner_hard_time_limit": parse_number("hard_time_limit", hard),
        "runner_soft_time_limit": parse_number("soft_time_limit", soft),
    }
    if int(soft) >= int(hard):
        raise ValueError(f"soft_time_limit {soft} must be below hard_time_limit {hard} (the hard one comes first)")
    return parse_address(address), variables


def parse_number(name, word):
    if not re.fullmatch("0*[1-9][0-9]*", word):
        raise ValueError(f"{name} is '{word}': it must be a whole number above 0")
    return int(word)


def parse_queues(word):
    queues = word.split(",")
    for queue in queues:
        if queue not in QUEUES:
            raise ValueError(f"queue '{queue}' is unknown: use {', '.join(QUEUES)}, separated by commas")
        if queues.count(queue) > 1:
            raise ValueError(f"queue {queue} is named twice: once is enough")
    return queues


def parse_address(word):
    """A host name, or an IP address that is one; as in the manual, without user and port."""
    try:
        if re.fullmatch("[0-9.]+", word) or ":" in word:
            ipaddress.ip_address(word)
        elif not re.fullmatch("[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", word):
            raise ValueError
    except ValueError:
        raise ValueError(f"'{word}' is no address: give a host name or an IP address, without user and port") from None
    return word
