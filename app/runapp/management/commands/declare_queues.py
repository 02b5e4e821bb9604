"""Declare exchanges and queues, which runners may not: `manage.py declare_queues`, before a runner starts."""

from typing import Any

from django.core.management import BaseCommand, CommandError
from kombu.exceptions import OperationalError

from runapp import services


class Command(BaseCommand):
    help = "Declare the exchanges and queues in RabbitMQ; prints the names of those that were not there."

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            for name in services.declare_queues():
                self.stdout.write(name)
        except services.QueueError as error:
            raise CommandError(str(error)) from None
        except OperationalError as error:
            raise CommandError(f"RabbitMQ does not answer: {error}") from None
