"""Run the server and a worker in the foreground until Ctrl-C.

1. Hold DATARUN_HOME, so that no two servers share it.
2. Bring the database and the broker's queues up to date, make the user.
3. Queue what an earlier life left open.
4. Run the processes and restart any that dies.
"""

import os
import secrets
import signal
import socket
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management import BaseCommand, CommandError, call_command

from datarun import embedded
from runapp import services
from runner import config, env


class Command(BaseCommand):
    help = "Run the server and a worker until Ctrl-C."

    def handle(self, *args: Any, **options: Any) -> None:
        os.umask(0o077)  # data sets and submissions may be outside of DATARUN_HOME
        stop: list[int] = []
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda received, _: stop.append(received))
        try:
            config.limits()
            port = env.whole("PORT", 8000)
            with embedded.lock_home():
                _check_free(port)
                call_command("migrate", verbosity=0)
                services.declare_queues()
                login, password = _user()
                left_over = embedded.requeue()
                self.stdout.write(_greeting(port, login, password, left_over))
                self.stdout.flush()
                embedded.Server(port, config.slots()).run(lambda: bool(stop))
        except (embedded.ServerError, env.ConfigurationError) as error:
            raise CommandError(str(error)) from None
        self.stdout.write("datarun: stopped; folds that were running are finished after the next start")


def _check_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            raise embedded.ServerError(f"port {port} can't be used ({error}): set PORT to another one") from None


def _user() -> tuple[str, str | None]:
    """The user of the environment, made if absent, and the password if it was made now. USER_PSWD replaces another."""
    users = get_user_model().objects
    login = env.text("USER_LOGIN", "datarun")
    user = users.filter(username=login).first()
    if env.is_set("USER_PSWD"):
        password = env.text("USER_PSWD")
        if user is None:
            users.create_superuser(login, env.text("DR_EMAIL", ""), password)
        elif not user.check_password(password):
            user.set_password(password)
            user.save()
        return login, None
    if user is not None:
        return login, None
    password = secrets.token_urlsafe(9)
    users.create_superuser(login, env.text("DR_EMAIL", ""), password)
    return login, password


def _greeting(port: int, login: str, password: str | None, left_over: int) -> str:
    address = f"http://127.0.0.1:{port}"
    lost = False
    if password:
        shown = f", password {password} (made now, shown only this once)"
    elif env.is_set("USER_PSWD"):
        shown = " with the password in USER_PSWD"
    else:
        shown, lost = " with the password set at an earlier start", True
    lines = [f"datarun serves {address} to user {login}{shown}."]
    if lost:
        lines.append("  lost password:  stop the server, start it as before with a new one: USER_PSWD=NEW make serve")
    lines += [
        f"  first request:  curl -u {login}{f':{password}' if password else ''} {address}/runapp/rawdata/",
        f"  all requests:   {address}/docs/      tables: {address}/admin/",
        f"  files:          {config.home()}",
    ]
    if left_over:
        lines.append(f"  {left_over} that were open at the last stop are queued again")
    return "\n".join([*lines, "Ctrl-C stops it."])
