"""GET /healthz: the web server answers, and asks nobody."""

import os
import subprocess
import sys

import pytest

from tests.app.helpers import Api
from tests.e2e.live import APP

ASK = """
import sys
import django
django.setup()
from django.test import Client
client = Client(headers={"host": sys.argv[1]})
for path in sys.argv[2:]:
    print(client.get(path).status_code)
"""


def test_it_works():
    """No fixture gives it a database: a look at one would fail."""
    answer = Api(None).get("/healthz")
    assert answer.status == 200
    assert answer.body == {"alive": True}


@pytest.mark.parametrize("accept", ["*/*", "text/plain", "text/html", "image/png"])
def test_it_answers_whatever_the_caller_accepts(accept):
    response = Api(None).client.get("/healthz", headers={"accept": accept})
    assert (response.status_code, response.headers["Content-Type"]) == (200, "application/json")


def test_it_answers_in_spite_of_wrong_credentials():
    assert Api(("nobody", "wrong")).get("/healthz").status == 200


def ask(host: str, *paths: str) -> list[str]:
    """The statuses with which a server in production answers over http."""
    environment = os.environ | {
        "DR_WORKING_ENV": "PROD",
        "DR_SECRET_KEY": "not a secret",
        "DR_ALLOWED_HOSTS": "datarun.example.org",
    }
    done = subprocess.run(
        [sys.executable, "-c", ASK, host, *paths], cwd=APP, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_in_production_it_answers_by_http_to_the_hosts_that_are_allowed():
    asked = ("/healthz", "/runapp/rawdata/", "/metrics", "/healthz/more")
    assert ask("datarun.example.org", *asked) == ["200", "301", "301", "301"]


def test_it_rejects_other_hosts_in_production():
    assert ask("elsewhere.example.org", "/healthz", "/readyz") == ["400", "400"]


def test_it_rejects_other_methods():
    answer = Api(None).post("/healthz", {})
    assert answer.status == 405
    assert list(answer.body) == ["detail"]
