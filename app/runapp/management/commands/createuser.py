"""Create a user of the API: `manage.py createuser NAME EMAIL [--superuser]` asks for the password.

Without a terminal the first line of standard input is the password. datarun 0.4's form, with the password as the third
argument, still works, but shows it to all users of the machine (`ps`).
"""

import getpass
import sys
from argparse import ArgumentParser
from typing import Any

from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from django.core.management import BaseCommand, CommandError


class Command(BaseCommand):
    help = "Create a user of the API."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("name")
        parser.add_argument("email")
        parser.add_argument(
            "password",
            nargs="?",
            default="-",
            help="leave it out: it is asked for, or read from standard input. On the command line `ps` shows it to all",
        )
        parser.add_argument("--superuser", action="store_true", help="may also use /admin/")

    def handle(self, *args: Any, name: str, email: str, password: str, superuser: bool, **options: Any) -> None:
        user = get_user_model()(username=name, email=email, is_superuser=superuser, is_staff=superuser)
        user.set_password(_read() if password == "-" else password)
        try:
            user.full_clean()
        except ValidationError as error:
            raise CommandError("; ".join(error.messages)) from None
        user.save()
        self.stdout.write(f"user {name} created")


def _read() -> str:
    """The password that a person types twice, or the first line of what is piped in."""
    if not sys.stdin.isatty():
        password = sys.stdin.readline().rstrip("\r\n")
    elif (password := getpass.getpass("Password: ")) != getpass.getpass("Password (again): "):
        raise CommandError("the two passwords differ: nobody was created")
    if not password:
        raise CommandError("no password: type one, or pipe it in as the first line of standard input")
    return password
