"""What the runners' workers say of themselves, as JSON: `manage.py workers [NAME ...]`.

{worker name: {"busy": slots that run something, "slots": all of them, "done": folds since its start, "queues": [...]}}.
A worker that does not answer in time is missing. Without names nobody knows how many there are: it waits out its time.
"""

import json
from argparse import ArgumentParser
from typing import Any

from celery import current_app
from django.core.management import BaseCommand, CommandError
from kombu.exceptions import OperationalError

FOLD = "runapp.tasks.train_test_submission_fold"


class Command(BaseCommand):
    help = "Print as JSON what each worker does and did."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("names", nargs="*", metavar="NAME", help="those alone, such as celery@runner1 (all)")
        parser.add_argument("--timeout", type=float, default=3.0, help="seconds in which a worker answers (3)")

    def handle(self, *args: Any, names: list[str], timeout: float, **options: Any) -> None:
        try:
            stats = current_app.control.inspect(names or None, timeout=timeout).stats() or {}
            # They have just answered: asked by name they are not waited for any longer than they take.
            inspect = current_app.control.inspect([*stats], timeout=timeout)
            active = (inspect.active() or {}) if stats else {}
            queues = (inspect.active_queues() or {}) if stats else {}
        except (OperationalError, OSError) as error:
            raise CommandError(f"the broker does not answer: {error}") from None
        workers = {
            name: {
                "busy": len(active.get(name, ())),
                "slots": said["pool"]["max-concurrency"],
                "done": said["total"].get(FOLD, 0),
                "queues": sorted(queue["name"] for queue in queues.get(name, ())),
            }
            for name, said in stats.items()
        }
        self.stdout.write(json.dumps(workers, indent=2))
