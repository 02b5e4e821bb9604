"""amqps:// and rediss:// addresses: the authority and the host name have to be right, to Celery and to Django."""

import json
import os
import subprocess
import sys

import pytest

from tests.e2e.live import APP

CONNECT = """
import json
from celery import Celery
app = Celery()
app.config_from_object("runner.celeryconfig")

def broker():
    with app.connection_for_write() as connection:
        connection.connect()

def results():
    app.backend.client.ping()

def cache():
    import django
    from django.core.cache import cache
    django.setup()
    cache.set("key", 1)

said = {}
for connect in (broker, results, cache):
    try:
        connect()
        said[connect.__name__] = "connected"
    except Exception as error:
        said[connect.__name__] = f"{type(error).__name__}: {error}"
print(json.dumps(said))
"""


@pytest.fixture
def connect(services, tmp_path):
    """connect(ca, host): what came of the connections, with the authorities of these files."""

    def connect(*authorities, host="localhost"):
        (tmp_path / "ca.pem").write_text("".join(path.read_text() for path in authorities))
        urls = {"DATARUN_BROKER_URL": services.rabbitmq.tls_url, "DATARUN_RESULT_URL": services.redis.tls_url}
        environment = os.environ | services.env()
        environment |= {name: url.replace("@localhost:", f"@{host}:") for name, url in urls.items()}
        environment |= {"DATARUN_CA_FILE": str(tmp_path / "ca.pem") if authorities else ""}
        done = subprocess.run([sys.executable, "-c", CONNECT], cwd=APP, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return connect


def test_the_right_authority_works(connect, services):
    said = connect(services.rabbitmq.ca, services.redis.ca)
    assert said == {"broker": "connected", "results": "connected", "cache": "connected"}


def test_another_authority_is_refused(connect, services):
    """Each service has an authority of its own: the other's does not do."""
    said = connect(services.rabbitmq.ca)
    assert said["broker"] == "connected"
    assert "CERTIFICATE_VERIFY_FAILED" in said["results"]
    assert "CERTIFICATE_VERIFY_FAILED" in said["cache"]
    assert "CERTIFICATE_VERIFY_FAILED" in connect(services.redis.ca)["broker"]


def test_without_an_authority_of_its_own_the_machine_s_decide(connect):
    assert all("CERTIFICATE_VERIFY_FAILED" in answer for answer in connect().values())


def test_another_host_name_is_refused(connect, services):
    said = connect(services.rabbitmq.ca, services.redis.ca, host="127.0.0.1")
    assert all("certificate is not valid for '127.0.0.1'" in answer for answer in said.values()), said
