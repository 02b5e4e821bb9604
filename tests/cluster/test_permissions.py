"""What a runner may do with its credentials, tried from the runner itself, and what the master gives to strangers."""

import base64
import functools
import hashlib
import json
import re
import socket
import ssl
from pathlib import Path

import pytest
import requests

from tests.cluster.conftest import Organiser, url
from tests.cluster.hosts import MASTER, RUNNERS, VARIABLES, as_datarun, run
from tests.e2e.live import until

# What a runner tries (as_runner.py), and what must come of it.
EXPECTED = {
    "RabbitMQ: connect": "done",
    "RabbitMQ: send a result": "done",
    "RabbitMQ: publish work": "AccessRefused",
    "RabbitMQ: publish work past the exchange": "AccessRefused",
    "RabbitMQ: publish dead letters": "AccessRefused",
    "RabbitMQ: send commands to runners": "AccessRefused",
    "RabbitMQ: read results": "AccessRefused",
    "RabbitMQ: consume results": "AccessRefused",
    "RabbitMQ: read dead letters": "AccessRefused",
    "RabbitMQ: read the mail of another runner": "AccessRefused",
    "RabbitMQ: delete a work queue": "AccessRefused",
    "RabbitMQ: delete the queue of results": "AccessRefused",
    "RabbitMQ: delete an exchange": "AccessRefused",
    "RabbitMQ: purge the results": "AccessRefused",
    "RabbitMQ: make a queue": "AccessRefused",
    "RabbitMQ: without TLS": "Error",
    "RabbitMQ: certificate of an unknown authority": "CERTIFICATE_VERIFY_FAILED",
    "RabbitMQ: certificate of another host": "CERTIFICATE_VERIFY_FAILED",
    "Redis: connect": "done",
    "Redis: read the state of a task": "done",
    "Redis: read another key": "NoPermissionError",
    "Redis: write another key": "NoPermissionError",
    "Redis: delete the state of a task": "NoPermissionError",
    "Redis: list the keys": "NoPermissionError",
    "Redis: empty it": "NoPermissionError",
    "Redis: read its settings": "NoPermissionError",
    "Redis: list its users": "NoPermissionError",
    "Redis: publish to others": "NoPermissionError",
    "Redis: stop it": "NoPermissionError",
    "Redis: without TLS": "Error",
    "Redis: certificate of an unknown authority": "CERTIFICATE_VERIFY_FAILED",
    "Redis: without a user": "Authentication",
}


@functools.cache
def _tried(name: str) -> dict[str, str] | Exception:
    try:
        printed = run(name, as_datarun("runner", Path(__file__).with_name("as_runner.py").read_text()))
        found: dict[str, str] = json.loads(printed.splitlines()[-1])
    except Exception as error:  # kept too: what hangs once is not waited for by each test
        return error
    return found


def tried(name: str) -> dict[str, str]:
    found = _tried(name)
    assert not isinstance(found, Exception), f"what could not be tried: {found}"
    return found


@pytest.mark.parametrize("name", RUNNERS)
def test_all_that_is_tried_is_expected(name: str) -> None:
    assert set(tried(name)) == set(EXPECTED)


@pytest.mark.parametrize("what", EXPECTED)
@pytest.mark.parametrize("name", RUNNERS)
def test_a_runner(name: str, what: str) -> None:
    assert EXPECTED[what] in tried(name)[what]


@pytest.mark.parametrize("name", RUNNERS)
def test_a_runner_is_refused_by_rabbitmqs_management(name: str) -> None:
    """Even where it could reach it: asked on the master itself."""
    queues, password = "http://127.0.0.1:15672/api/queues", VARIABLES[name]["cluster_runner_password"]
    script = f"""
import urllib.error, urllib.request
manager = urllib.request.HTTPPasswordMgrWithPriorAuth()
manager.add_password(None, "{queues}", "runner-{name}", "{password}", True)
try:
    urllib.request.build_opener(urllib.request.HTTPBasicAuthHandler(manager)).open("{queues}")
    print("let in")
except urllib.error.HTTPError as error:
    print(error.code, error.read().decode())
"""
    said = run(MASTER, f"/usr/bin/python3 - <<'END'\n{script}\nEND")
    assert "Not management user" in said


def test_rabbitmq_has_the_users_of_the_cluster_and_no_other() -> None:
    users = json.loads(run(MASTER, "rabbitmqctl --quiet list_users --formatter json"))
    assert {user["user"] for user in users} == {
        VARIABLES[MASTER]["rabbitmq_user"],
        *(f"runner-{name}" for name in RUNNERS),
    }
    assert {user["user"] for user in users if user["tags"]} <= {VARIABLES[MASTER]["rabbitmq_user"]}


def test_the_masters_certificate_is_of_the_clusters_authority(authority: Path) -> None:
    address = VARIABLES[MASTER]["cluster_master_address"]
    context = ssl.create_default_context(cafile=authority)
    with socket.create_connection((address, 443), timeout=10) as plain:
        with context.wrap_socket(plain, server_hostname=address) as secured:
            assert secured.version() in ("TLSv1.2", "TLSv1.3")
    with socket.create_connection((address, 443), timeout=10) as plain:
        with pytest.raises(ssl.SSLCertVerificationError):
            ssl.create_default_context().wrap_socket(plain, server_hostname=address)


@pytest.mark.parametrize("path", ["", "runapp/rawdata/", "flower/"])
def test_without_tls_a_client_is_sent_to_the_encrypted_address(path: str) -> None:
    answer = requests.get(url().replace("https", "http") + path, allow_redirects=False, timeout=30)
    assert (answer.status_code, answer.headers["Location"]) == (301, url() + path)


def answer(path: str, who: tuple[str, str] | None = None) -> int:
    """With flower's slowdown of guesses waited for."""
    codes = [429]

    def told() -> bool:
        codes.append(requests.get(url() + path, auth=who, timeout=30).status_code)
        return codes[-1] != 429

    until(told, 60, "an answer other than 429")
    return codes[-1]


@pytest.mark.parametrize(
    "path", ["runapp/rawdata/", "flower/", "flower/api/workers", "flower/metrics", "flower/healthcheck"]
)
def test_strangers_are_refused(path: str, api: Organiser) -> None:
    assert answer(path) in (401, 403)
    assert answer(path, (api.who[1], "wrong")) in (401, 403)


def test_the_organiser_is_let_in(api: Organiser) -> None:
    assert answer("runapp/rawdata/", api.who[1:]) == 200


def test_flower_has_a_password_of_its_own(api: Organiser) -> None:
    flower = api.who[1], VARIABLES[MASTER]["master_flower_password"]
    for path in ("flower/", "flower/metrics", "flower/api/workers", "flower/static/js/flower.js"):
        assert answer(path, flower) == 200
    assert answer("flower/", api.who[1:]) == 401
    assert answer("runapp/rawdata/", flower) == 401


GUESS = """
import base64, json, ssl, urllib.error, urllib.request

def code(password):
    request = urllib.request.Request("{url}flower/")
    if password:
        request.add_header("Authorization", "Basic " + base64.b64encode(("{login}:" + password).encode()).decode())
    try:
        return urllib.request.urlopen(request, context=context).status
    except urllib.error.HTTPError as error:
        return error.code

context = ssl.create_default_context(cafile="/etc/datarun/ca.pem")
guessed = [code("guess %d" % number) for number in range(100)]
print(json.dumps([sorted(set(guessed)), code("{password}"), code("")]))
"""


def test_guessing_flowers_password_is_slow_and_locks_nobody_out(api: Organiser) -> None:
    """From a runner, as the limit is one for each address."""
    script = GUESS.replace("{url}", url()).replace("{login}", api.who[1])
    script = script.replace("{password}", VARIABLES[MASTER]["master_flower_password"])
    guessed, right, none = json.loads(run(RUNNERS[0], f"/usr/bin/python3 - <<'END'\n{script}\nEND"))
    assert set(guessed) <= {401, 429} and 429 in guessed
    assert right == 200
    assert none in (401, 429)


def test_a_page_of_flower_runs_no_script_that_a_runner_may_have_put_there(api: Organiser) -> None:
    flower = api.who[1], VARIABLES[MASTER]["master_flower_password"]
    page = requests.get(url() + "flower/", auth=flower, timeout=30)
    policy = dict(part.split(maxsplit=1) for part in page.headers["Content-Security-Policy"].split("; "))
    scripts = re.findall(r"<script[^>]*>([^<]+)</script>", page.text)
    hashes = {base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts}
    assert set(policy["script-src"].split()) == {"'self'", *(f"'sha256-{digest}'" for digest in hashes)}
