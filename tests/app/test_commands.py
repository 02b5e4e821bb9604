"""manage.py: createuser, and what must hold of migrations and settings."""

import io
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from django.contrib.auth import get_user_model
from django.core.management import CommandError, call_command

from datarun.celery import _period
from runner.env import ConfigurationError
from tests.app.helpers import Api

pytestmark = pytest.mark.embedded

APP = Path(__file__).resolve().parents[2] / "app"
OURS = ("DR_", "DATARUN_", "RMQ_", "DIR_", "CELERY_", "IP_MASTER", "DJANGO_")
PROD = {
    "DR_WORKING_ENV": "PROD",
    "DR_SECRET_KEY": "k3Y-" * 20 + "aBcDeFgHiJ",
    "DR_ALLOWED_HOSTS": "datarun.example.org",
}
POSTGRESQL = {"DR_DATABASE_NAME": "d", "DR_DATABASE_USER": "u", "DR_DATABASE_PASSWORD": "p"}
RABBITMQ = {"RMQ_VHOST": "v", "IP_MASTER": "127.0.0.1"}


@pytest.fixture
def python(tmp_path):
    """Run Python in app/ with nothing of ours in the environment but what is given."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=APP,
            env=clean | {"DATARUN_HOME": str(tmp_path / "home")} | environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return run


# --- createuser


def test_it_works(db, capsys):
    call_command("createuser", "grace", "grace@example.org", "a long password")

    user = get_user_model().objects.get(username="grace")
    assert (user.email, user.is_superuser, user.is_staff, user.is_active) == ("grace@example.org", False, False, True)
    assert Api(("grace", "a long password")).get("rawdata/").status == 200
    assert "a long password" not in capsys.readouterr().out


def test_it_makes_a_superuser(db):
    call_command("createuser", "grace", "grace@example.org", "a long password", "--superuser")
    user = get_user_model().objects.get(username="grace")
    assert user.is_superuser
    assert user.is_staff


@pytest.mark.parametrize(
    ("name", "email"),
    [("ada", "ada@example.org"), ("a b/c", "ada@example.org"), ("grace", "no address"), ("", "a@b.org")],
)
def test_it_rejects_users_that_cant_be(user, name, email):
    with pytest.raises(CommandError):
        call_command("createuser", name, email, "a long password")
    assert get_user_model().objects.count() == 1


def test_it_reads_the_password_from_standard_input(db, monkeypatch, capsys):
    for name, given in (("grace", []), ("joan", ["-"])):
        monkeypatch.setattr("sys.stdin", io.StringIO(f"the password of {name}\nand a second line"))
        call_command("createuser", name, "somebody@example.org", *given)
        assert Api((name, f"the password of {name}")).get("rawdata/").status == 200
    assert "the password" not in capsys.readouterr().out


def test_it_asks_a_person_twice(db, monkeypatch):
    answers = iter(["a long password", "a long password", "a long password", "a lomg password"])
    monkeypatch.setattr("sys.stdin", io.StringIO())
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("getpass.getpass", lambda _: next(answers))
    call_command("createuser", "grace", "grace@example.org")
    assert Api(("grace", "a long password")).get("rawdata/").status == 200
    with pytest.raises(CommandError, match="differ"):
        call_command("createuser", "joan", "joan@example.org")
    assert get_user_model().objects.count() == 1


def test_it_rejects_an_empty_password(db, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO())
    with pytest.raises(CommandError, match="no password"):
        call_command("createuser", "grace", "grace@example.org")
    assert not get_user_model().objects.exists()


# --- migrations


def test_migrations_are_complete(db):
    call_command("makemigrations", "--check", "--dry-run", verbosity=0)


# --- settings


def test_the_home_is_its_owners_alone(python, tmp_path):
    home = tmp_path / "home"
    done = python("manage.py", "check")
    assert (done.returncode, home.stat().st_mode & 0o777) == (0, 0o700)
    assert "was open" not in done.stderr

    home.chmod(0o755)  # as earlier versions made it
    done = python("manage.py", "check")
    assert (done.returncode, home.stat().st_mode & 0o777) == (0, 0o700)
    assert f"{home} was open to other users (mode 0755): its mode is 0700 now" in done.stderr


def test_production_is_safe(python):
    done = python("manage.py", "check", "--deploy", "--fail-level", "DEBUG", **PROD)
    assert done.returncode == 0, done.stderr
    assert "no issues" in done.stdout


@pytest.mark.parametrize("name", ["DR_SECRET_KEY", "DR_ALLOWED_HOSTS"])
def test_production_refuses_to_start_without(python, name):
    done = python("manage.py", "check", **PROD | {name: ""})
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert "ConfigurationError" in last
    assert name in last


@pytest.fixture
def load(monkeypatch, tmp_path):
    """Read the settings anew in an environment that has nothing of ours but what is given."""

    def run(environment):
        for name in [name for name in os.environ if name.startswith(OURS)]:
            monkeypatch.delenv(name)
        for name, value in ({"DATARUN_HOME": str(tmp_path / "home")} | environment).items():
            monkeypatch.setenv(name, value)
        _period()
        return runpy.run_path(str(APP / "datarun" / "settings.py"))

    return run


@pytest.mark.parametrize("environment", [{}, PROD, POSTGRESQL | RABBITMQ, PROD | POSTGRESQL | RABBITMQ])
def test_settings_that_agree_load(load, environment):
    settings = load(environment)
    engine = settings["DATABASES"]["default"]["ENGINE"].rpartition(".")[2]
    assert engine == ("postgresql" if "RMQ_VHOST" in environment else "sqlite3")
    assert not settings["DEBUG"]


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"DR_WORKING_ENV": "PRODUCTION"}, "DR_WORKING_ENV"),
        (POSTGRESQL, "RMQ_VHOST"),
        (RABBITMQ, "DR_DATABASE_NAME"),
        (POSTGRESQL | {"RMQ_VHOST": "v"}, "IP_MASTER"),
        (RABBITMQ | {"DR_DATABASE_NAME": "d", "DR_DATABASE_PASSWORD": "p"}, "DR_DATABASE_USER"),
        (POSTGRESQL | RABBITMQ | {"DR_DATABASE_PORT": "many"}, "DR_DATABASE_PORT"),
        ({"DATARUN_MAX_DATA_BYTES": "-1"}, "DATARUN_MAX_DATA_BYTES"),
        ({"CELERY_SCHEDULER_PERIOD": "often"}, "CELERY_SCHEDULER_PERIOD"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_it_rejects_settings_that_contradict_each_other(load, environment, named):
    with pytest.raises(ConfigurationError, match=named):
        load(environment)


def test_a_secret_may_be_a_file(load, tmp_path):
    secret = tmp_path / "key"
    secret.write_text("from a file\n")
    environment = {name: value for name, value in PROD.items() if name != "DR_SECRET_KEY"}
    assert load(environment | {"DR_SECRET_KEY_FILE": str(secret)})["SECRET_KEY"] == "from a file"


def test_a_key_of_its_own_is_made_once_and_kept_to_itself(load, tmp_path):
    keys = {load({})["SECRET_KEY"] for _ in range(2)}
    assert len(keys) == 1
    assert len(keys.pop()) > 40
    assert (tmp_path / "home" / "secret_key").stat().st_mode & 0o077 == 0
