"""Take up what a restored backup held: `manage.py restored`, before the master's services start."""

from typing import Any

from django.core.management import BaseCommand, CommandError
from rest_framework.exceptions import APIException

from runapp import services


class Command(BaseCommand):
    help = "Queue what is open in a restored database; says in a line each what its files can't make true any more."

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            lines = services.restored()
        except APIException as error:  # no room for a split
            raise CommandError(str(error.detail)) from None
        for line in lines:
            self.stdout.write(line)
