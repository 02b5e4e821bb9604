"""`python -m bench`: the figures of the sandbox, on the embedded default and on the real services.

Exit code 1 for a broken promise; a missed target is shown, no more.

Everything is below one temporary folder, some GB for 100,000 folds, which goes at the end.
"""

import argparse
import json
import os
import shlex
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from bench import counting, figures, sandbox
from bench.figures import Client, Figure, console
from tests.e2e.live import Live
from tests.services import Services, missing_packages


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Figures, each beside its bound.")
    parser.add_argument("--folds", type=int, default=100_000, help="how many are stored for the lists (%(default)s)")
    parser.add_argument("--only", choices=("sandbox", "embedded", "services"), help="one of the three")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there, to compare two runs")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # in order: nothing stays behind
    for name in list(os.environ):
        # Nothing of the caller's environment may lead a benchmark to a real cluster.
        if name.startswith(("DR_", "DATARUN_", "DIR_", "RMQ_", "CELERY_")):
            del os.environ[name]
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # for the bounds too: as a runner has it

    tables = []
    if options.only in (None, "sandbox"):
        tables.append(("sandbox", sandbox.measure()))
    if options.only in (None, "embedded"):
        tables.append(("embedded default", measure("embedded default", None, options.folds)))
    if options.only in (None, "services"):
        if missing := missing_packages():
            console.print(f"real services: left out, Debian packages are missing: {' '.join(missing)}")
        else:
            with Services(durable=True) as services:
                name = "PostgreSQL, RabbitMQ, Redis"
                tables.append((name, measure(name, services, options.folds)))
    for name, found in tables:
        console.print(table(name, found))
    if options.json:
        options.json.write_text(json.dumps({name: as_numbers(found) for name, found in tables}, indent=1))
    return int(any(figure.kept is False and not figure.target for _, found in tables for figure in found))


def measure(place: str, services: Services | None, folds: int) -> list[Figure]:
    found: list[Figure] = []
    environment = services.env() if services else {}
    with tempfile.TemporaryDirectory(prefix="datarun-bench-") as folder:
        console.print(f"{place}: folds and requests")
        with server(Path(folder, "folds"), environment) as live:
            client = Client(live)
            found += figures.one_at_a_time(client, 20)
            found += figures.two_at_a_time(client, 200)
            found += figures.cpu_of_folds(client, services, 200)
            found += figures.posts(client, 300, 1000)
        console.print(f"{place}: lists of {folds} folds")
        queries = Path(folder, "queries")
        config = {
            "GUNICORN_CMD_ARGS": shlex.join(["--config", f"file:{counting.__file__}"]),
            "BENCH_QUERIES": str(queries),
        }
        with server(Path(folder, "lists"), environment | config) as live:
            found += figures.lists(live, queries, folds)
    return found


@contextmanager
def server(home: Path, environment: dict[str, str]) -> Iterator[Live]:
    live = Live(home, DATARUN_SLOTS="2", **environment)
    try:
        yield live.start()
    finally:
        try:
            live.stop()
        except BaseException:  # told to end while it stops
            live.stop()
            raise


def table(place: str, found: list[Figure]) -> Table:
    result = Table(title=place, title_justify="left", box=box.SIMPLE_HEAD)
    result.add_column("figure")
    for name in ("measured", "bound", "ratio", ""):
        result.add_column(name, justify="right", no_wrap=True)
    for figure in found:
        kept = {None: "", True: "kept", False: "[red]missed[/red]" if figure.target else "[red]MISSED[/red]"}[
            figure.kept
        ]
        result.add_row(figure.name, figure.measured, figure.bound, figure.ratio, kept)
    return result


def as_numbers(found: list[Figure]) -> dict[str, Any]:
    """By name, measured and bound with their unit. A line of details has the line above it in its name."""
    result: dict[str, Any] = {}
    above = ""
    for figure in found:
        above = above if figure.name.startswith(" ") else figure.name
        name = figure.name if above is figure.name else f"{above}:{figure.name[1:]}"
        texts = {"measured": figure.measured, "bound": figure.bound}
        numbers = {key: float(text.partition(" ")[0]) for key, text in texts.items() if text}
        result[name] = numbers | {"unit": figure.measured.partition(" ")[2]}
    return result


if __name__ == "__main__":
    sys.exit(main())
