"""What playbooks/secrets_rotate.yml counts on: passwords and certificates that change under open connections."""

import json
import runpy
import ssl

import pytest
from amqp.exceptions import AccessRefused
from kombu import Connection

from tests.ansible.helpers import ROOT
from tests.e2e.live import until

hashed = runpy.run_path(str(ROOT / "plugins/filter/rabbitmq_hash.py"))["rabbitmq_hash"]


@pytest.fixture
def change(declared):
    """change(user, password): by an import of this user alone, as the role does it; returns the user's new address."""

    def work(user: str, password: str) -> str:
        account = {"name": user, "tags": "", "password_hash": hashed(password, user)}
        account["hashing_algorithm"] = "rabbit_password_hashing_sha256"
        file = declared.rabbitmq.folder / "passwords.json"
        declared.rabbitmq.write(file, json.dumps({"users": [account]}))
        declared.rabbitmq.control("import_definitions", str(file))
        return declared.rabbitmq.url.replace(
            f"//{declared.rabbitmq.broker_user}:{declared.rabbitmq.password}@", f"//{user}:{password}@"
        )

    return work


def test_a_new_password_leaves_open_connections_and_other_users_alone(declared, change):
    old = declared.rabbitmq.add_user("rotated", ".*", ".*", ".*")
    with Connection(old) as connection, connection.channel() as channel:
        new = change("rotated", "new")
        assert channel.queue_declare("L", passive=True).queue == "L"
    for address in (new, declared.rabbitmq.url):
        with Connection(address) as connection:
            connection.connect()
    with Connection(old) as connection, pytest.raises(AccessRefused):
        connection.connect()


def test_a_runner_that_is_refused_finishes_its_fold_and_ends_so_that_systemd_starts_it(
    declared, change, worker, broker, share
):
    """With the new password it then sends what it could not."""
    share.submission("slow", "time.sleep(6)")
    old = declared.rabbitmq.add_user("refused", ".*", ".*", ".*")
    one = worker("one", DATARUN_BROKER_URL=old).start().ready()
    broker.send_fold(1, "slow")
    until(share.fits, 180, "the fold runs")
    new = change("refused", "new")
    declared.rabbitmq.control("close_all_connections", "--vhost", declared.rabbitmq.vhost, "a new password")
    assert one.wait(60) != 0, one.log.read_text()
    worker("one", DATARUN_BROKER_URL=new).start().ready()
    results = until(broker.results, 60, "the result has come")
    assert {result["databoard_sf_id"] for result in results} == {1}


def test_a_new_certificate_is_shown_without_a_restart(services):
    rabbitmq = services.rabbitmq
    before = shown(rabbitmq.tls_port)
    tls = {"ca_certs": str(rabbitmq.ca), "server_hostname": "localhost"}
    with Connection(rabbitmq.tls_url, ssl=tls) as connection, connection.channel() as channel:
        rabbitmq.make_certificates()
        rabbitmq.control("eval", "ssl:clear_pem_cache().")
        until(lambda: shown(rabbitmq.tls_port) != before, 60, "the new certificate is shown")
        channel.exchange_declare("amq.direct", "direct", passive=True)
    with Connection(rabbitmq.tls_url, ssl=tls) as connection:
        connection.connect()


def shown(port: int) -> str:
    return ssl.get_server_certificate(("localhost", port))
