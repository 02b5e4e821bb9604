"""Prove that each runner serves each of its queues: `manage.py acceptance --url https://HOST --ca FILE --runner ...`.

On the master, with the login in USER_LOGIN and USER_PSWD (or ..._FILE). What it does: runapp.acceptance.
"""

import json
import os
import signal
from argparse import ArgumentParser, ArgumentTypeError
from pathlib import Path
from typing import Any

from django.core.management import BaseCommand, CommandError
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from runapp.acceptance import SPLITS, Acceptance, Runner, Verdict
from runner import config, env
from test_files.demo import DemoError, Server

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Verdicts = dict[tuple[str, str], Verdict]


class Command(BaseCommand):
    help = "Send canaries through the REST API until each runner has served each of its queues."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--url", required=True, help="address of the master, e.g. https://datarun.example.org")
        parser.add_argument("--ca", type=Path, help="the certificate authority's file, where it is not a public one")
        parser.add_argument(
            "--runner",
            dest="runners",
            action="append",
            required=True,
            type=_runner,
            metavar="NAME=QUEUE,...[:SLOTS]",
            help="a runner, e.g. runner1=L,celery:2; repeat for each",
        )
        parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
        parser.add_argument("--timeout", type=float, default=300.0, help="seconds (300)")

    def handle(
        self,
        *args: Any,
        url: str,
        ca: Path | None,
        runners: list[Runner],
        json: bool,
        timeout: float,
        **options: Any,
    ) -> None:
        names = [runner.name for runner in runners]
        if twice := {name for name in names if names.count(name) > 1}:
            raise CommandError(f"--runner {min(twice)} is given twice: name all of its queues at once")
        if not any(SPLITS in runner.queues for runner in runners):
            raise CommandError(f"no --runner serves the queue {SPLITS}: the canaries' data set is split there")
        if ca is not None:
            if not ca.is_file():
                raise CommandError(f"--ca {ca}: there is no such file")
            os.environ["REQUESTS_CA_BUNDLE"] = str(ca)  # which requests, and so the client, reads
        try:
            server = Server(url, env.text("USER_LOGIN"), env.text("USER_PSWD"))
            acceptance = Acceptance(server, runners, timeout, self._say)
            # The ssh connection that goes away, or systemd: what was sent is deleted all the same.
            for number in SIGNALS:
                signal.signal(number, acceptance.interrupt)
            verdicts = acceptance.run()
        except (DemoError, env.ConfigurationError) as error:
            raise CommandError(str(error)) from None
        except KeyboardInterrupt:
            raise CommandError("interrupted; the canaries are deleted") from None
        self.stdout.write(_as_json(runners, verdicts) if json else _as_table(runners, verdicts))
        if any(not verdict.ok for verdict in verdicts.values()):
            raise SystemExit(1)

    def _say(self, line: str) -> None:
        self.stderr.write(line)
        self.stderr.flush()


def _runner(text: str) -> Runner:
    right = "write NAME=QUEUE,...[:SLOTS], such as runner1=L,celery:2"
    name, _, rest = text.partition("=")
    queues, _, slots = rest.partition(":")
    words = tuple(word.strip() for word in queues.split(","))
    if not name or not queues:
        raise ArgumentTypeError(f"{text!r}: {right}")
    if unknown := [word for word in words if word not in config.QUEUES]:
        raise ArgumentTypeError(f"{text!r}: {unknown[0]!r} is no queue: the queues are L, H and celery")
    if not (slots or "1").isdecimal() or int(slots or 1) < 1:
        raise ArgumentTypeError(f"{text!r}: {slots!r} is no number of slots: {right}")
    return Runner(name, words, int(slots or 1))


def _as_json(runners: list[Runner], verdicts: Verdicts) -> str:
    """failed: runners that gave a wrong answer, or none. unproven: those that nothing is known of."""
    wrong = {name for (name, _), verdict in verdicts.items() if not verdict.ok and verdict.blamed}
    unknown = {name for (name, _), verdict in verdicts.items() if not verdict.ok} - wrong
    return json.dumps(
        {
            "runners": {
                runner.name: {queue: verdicts[runner.name, queue].why for queue in runner.queues} for runner in runners
            },
            "failed": sorted(wrong),
            "unproven": sorted(unknown),
        },
        indent=2,
    )


def _as_table(runners: list[Runner], verdicts: Verdicts) -> str:
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("runner", "queue", "result"):
        table.add_column(name, overflow="fold")
    table.add_column("seconds", justify="right")
    for runner in runners:
        for queue in runner.queues:
            verdict = verdicts[runner.name, queue]
            table.add_row(runner.name, queue, Text(verdict.why), f"{verdict.seconds:.1f}")
    console = Console(width=120, highlight=False)
    with console.capture() as capture:
        console.print(table)
    return capture.get()
