"""Create a user of the API: `manage.py createuser NAME EMAIL PASSWORD [--superuser]`."""

from argparse import ArgumentParser
from typing import Any

from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from django.core.management import BaseCommand, CommandError


class Command(BaseCommand):
    help = "Create a user of the API."

    def add_arguments(self, parser: ArgumentParser) -> None:
        for name in ("name", "email", "password"):
            parser.add_argument(name)
        parser.add_argument("--superuser", action="store_true", help="may also use /admin/")

    def handle(self, *args: Any, name: str, email: str, password: str, superuser: bool, **options: Any) -> None:
        user = get_user_model()(username=name, email=email, is_superuser=superuser, is_staff=superuser)
        user.set_password(password)
        try:
            user.full_clean()
        except ValidationError as error:
            raise CommandError("; ".join(error.messages)) from None
        user.save()
        self.stdout.write(f"user {name} created")
