"""What a runner's users in RabbitMQ and Redis may do, as docs/configuration.md says it: their work, and no more."""

import os
import re
import subprocess
import sys
from pathlib import Path

import amqp
import pytest
import redis
from celery import Celery
from celery.result import AsyncResult
from kombu import Connection, Exchange, Queue

from tests.broker.conftest import manage
from tests.e2e.live import APP, until

DOCUMENTED = (Path(__file__).resolve().parents[2] / "docs" / "configuration.md").read_text()


@pytest.fixture(scope="module")
def address(declared):
    """The address of a RabbitMQ user with the documented permissions."""
    rows = dict(re.findall(r"^\| (configure|write|read) \| `(.*)` \|$", DOCUMENTED, re.MULTILINE))
    rules = [rows[name].replace("\\|", "|").replace("NAME", "one") for name in ("configure", "write", "read")]
    return declared.rabbitmq.add_user("runner-one", *rules)


@pytest.fixture(scope="module")
def results(declared):
    """The address of a Redis user with the documented rules."""
    [rules] = re.findall(r"^    ACL SETUSER runner (.*)$", DOCUMENTED, re.MULTILINE)
    client = redis.Redis.from_url(declared.redis.url)
    client.execute_command("ACL", "SETUSER", "runner-one", *rules.replace("PASSWORD", "secret").split())
    yield declared.redis.url.replace(f":{declared.redis.password}@", "runner-one:secret@")
    client.execute_command("ACL", "DELUSER", "runner-one")


@pytest.fixture
def runner(worker, address, results):
    return worker("one", DATARUN_BROKER_URL=address, DATARUN_RESULT_URL=results)


@pytest.fixture
def channel(address):
    """A channel of the runner's user."""
    with Connection(address) as connection:
        yield connection.channel()


def celery(services, *arguments):
    command = [sys.executable, "-m", "celery", "-A", "datarun", *arguments]
    return subprocess.run(command, cwd=APP, env=os.environ | services.env(), capture_output=True, text=True).stdout


def test_a_fold_comes_through(runner, broker, declared):
    runner.start().ready()
    task_id = broker.send_fold(7)
    result = broker.result()
    assert (result["databoard_sf_id"], result["state"]) == (7, "TESTED"), result["log_messages"]
    with Celery(backend=declared.redis.url, set_as_current=False) as app:
        until(lambda: AsyncResult(task_id, app=app).state == "SUCCESS", 180, "the state of the task is in Redis")
    log = runner.log.read_text()
    assert "NOPERM" not in log and "ACCESS_REFUSED" not in log and "Traceback" not in log, log


def test_a_runner_reports_itself_and_the_broker_forgets_it(runner, broker):
    runner.start("tests.broker.patient").ready()
    with broker.connection() as connection, connection.channel() as channel:
        queue = Queue("master_periodic", channel=channel)
        message = until(lambda: queue.get(no_ack=True), 180, "a report has arrived")
        assert message.headers["task"] == "runapp.tasks.save_runner"
        assert message.properties["expiration"] == "30000"
        [report] = message.payload[0]
        assert (report["name"], report["state"], sorted(report["queues"])) == ("celery@one", "up", ["H", "L", "celery"])
        runner.terminate()
        assert runner.wait() == 0
        last = [message.payload[0][0] for message in iter(lambda: queue.get(no_ack=True), None)][-1]
        assert (last["state"], last["queues"]) == ("stopped", [])
    log = runner.log.read_text()
    assert "not reported" not in log and "ACCESS_REFUSED" not in log, log


def test_the_runner_answers_the_master_and_sends_events(runner, broker, declared):
    runner.start().ready()
    asked = ["--destination", "celery@one", "--timeout", "60"]  # as long as it takes the one to answer
    assert "celery@one: OK" in celery(declared, "status", *asked)
    assert "datarun" in celery(declared, "inspect", "active_queues", *asked)
    celery(declared, "control", "enable_events", "--timeout", "1")
    with broker.connection() as connection, connection.channel() as channel:
        events = Queue("", Exchange("celeryev", "topic"), "task.#", exclusive=True, channel=channel)
        events.declare()
        broker.send_fold(7)
        news = until(lambda: events.get(no_ack=True), 180, "the events of the fold have arrived")
    assert news.payload[0]["hostname"] == "celery@one"


@pytest.mark.parametrize("exchange", ["datarun", "", "amq.direct"])
@pytest.mark.parametrize("queue", ["L", "H", "celery"])
def test_work_can_not_be_published(exchange, queue, channel, broker):
    channel.confirm_select()
    with pytest.raises(amqp.AccessRefused):
        channel.basic_publish_confirm(amqp.Message("work"), exchange=exchange, routing_key=queue)
    assert broker.waiting(queue) == 0


def test_commands_can_not_be_sent_to_other_runners(channel):
    channel.confirm_select()
    with pytest.raises(amqp.AccessRefused):
        channel.basic_publish_confirm(amqp.Message("shutdown"), exchange="celery.pidbox")


REFUSED = {
    "read results": lambda channel: channel.basic_get("master_periodic"),
    "consume results": lambda channel: channel.basic_consume("master_periodic"),
    "bind to results": lambda channel: channel.queue_bind("celery@one.celery.pidbox", "datarun.results", "x"),
    "bind to work": lambda channel: channel.queue_bind("celery@one.celery.pidbox", "datarun", "L"),
    "delete a queue": lambda channel: channel.queue_delete("L"),
    "delete the results": lambda channel: channel.queue_delete("master_periodic"),
    "delete an exchange": lambda channel: channel.exchange_delete("datarun"),
    "delete that of commands": lambda channel: channel.exchange_delete("celery.pidbox"),
    "delete that of answers": lambda channel: channel.exchange_delete("reply.celery.pidbox"),
    "delete that of events": lambda channel: channel.exchange_delete("celeryev"),
    "make that of commands": lambda channel: channel.exchange_declare("celery.pidbox", "direct"),
    "read the events": lambda channel: channel.queue_bind("celery@one.celery.pidbox", "celeryev", "#"),
    "purge the results": lambda channel: channel.queue_purge("master_periodic"),
    "make a queue": lambda channel: channel.queue_declare("mine"),
    "unbind a queue": lambda channel: channel.queue_unbind("L", "datarun", "L"),
    "dead letters as work": lambda channel: channel.queue_declare(
        "celery@one.celery.pidbox", arguments={"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "L"}
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_runner_may_not(what, channel, broker):
    if what.startswith(("bind", "read the")):
        channel.queue_declare("celery@one.celery.pidbox", exclusive=True)
    with pytest.raises(amqp.AccessRefused):
        REFUSED[what](channel)


def test_in_redis_a_runner_sees_the_states_of_tasks_alone(results, declared):
    client = redis.Redis.from_url(results)
    redis.Redis.from_url(declared.redis.url).set(":1:session", "secret")
    for refused in (
        lambda: client.get(":1:session"),
        lambda: client.set(":1:session", "mine"),
        lambda: client.keys("*"),
        lambda: client.flushall(),
        lambda: client.config_get("*"),
        lambda: client.delete("celery-task-meta-1"),
        lambda: client.publish("other", "news"),
        lambda: client.execute_command("ACL", "LIST"),
    ):
        with pytest.raises(redis.exceptions.NoPermissionError):
            refused()


def test_the_masters_worker_runs_nothing_but_its_own_tasks(declared, tmp_path):
    """A runner may write to its queue."""
    command = [sys.executable, "-m", "celery", "-A", "datarun", "worker", "-Q", "master_periodic", "-c", "1"]
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen(command, cwd=APP, env=os.environ | declared.env(), stdout=log, stderr=log) as process,
    ):
        try:
            said = until(lambda: celery(declared, "inspect", "registered"), 180, (tmp_path / "log").read_text)
        finally:
            process.terminate()
    names = {"save_fold", "save_lost", "save_progress", "save_returned", "save_runner", "save_split", "mend"}
    assert {*re.findall(r"\* (\S+)", said)} == {f"runapp.tasks.{name}" for name in names}


def test_declaring_twice_makes_nothing(declared):
    with Connection(declared.rabbitmq.url) as connection, connection.channel() as channel:
        channel.queue_delete("H")
    assert manage(declared, "declare_queues") == "H\n"
    assert manage(declared, "declare_queues") == ""


def test_a_queue_from_before_keeps_its_messages_and_is_bound_anew(declared, broker):
    """Until now results came through the exchange of the work."""
    with broker.connection() as connection, connection.channel() as channel:
        channel.queue_delete("master_periodic")
        channel.exchange_delete("datarun.results")
        arguments = {"x-queue-type": "quorum", "x-consumer-timeout": 90_000_000}
        old = Queue("master_periodic", Exchange("datarun"), "master_periodic", queue_arguments=arguments)
        old(channel).declare()
        channel.basic_publish(amqp.Message("kept"), "datarun", "master_periodic")
        assert manage(declared, "declare_queues") == "datarun.results\n"
        channel.basic_publish(amqp.Message("new"), "datarun.results", "master_periodic")
        until(lambda: broker.waiting("master_periodic") == 2, 180, "both are in the queue")


def test_a_queue_with_other_properties_is_named(declared, broker):
    with broker.connection() as connection, connection.channel() as channel:
        channel.queue_delete("H")
        channel.queue_declare("H", durable=True, auto_delete=False)
        with pytest.raises(
            AssertionError, match="CommandError: H is there with other properties .* delete it while it"
        ):
            manage(declared, "declare_queues")
        channel.queue_delete("H")
    manage(declared, "declare_queues")


def test_a_runner_that_comes_before_the_queues_ends_for_its_supervisor_to_start_it_again(declared, broker, worker):
    with broker.connection() as connection, connection.channel() as channel:
        channel.queue_delete("H")
    early = worker("early").start()
    try:
        assert early.wait() != 0
    finally:
        manage(declared, "declare_queues")
    early.start().ready()
