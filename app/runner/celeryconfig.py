"""Celery's settings, the same on the master and on the runners."""

from typing import Any

from celery.signals import before_task_publish
from kombu import Exchange, Queue

from runner import config, received

received.harden()

broker_url = config.broker_url()
broker_use_ssl = config.broker_tls()
result_backend = config.result_url()
redis_backend_use_ssl = config.result_tls()
override_backends = dict.fromkeys(("redis", "rediss"), "runner.statestore:Backend")
redis_socket_timeout = redis_socket_connect_timeout = 2.0  # seconds; Celery would wait for two minutes, twenty times
result_backend_transport_options = {"retry_policy": {"max_retries": 1, "interval_start": 0}}

if config.has_broker():
    # Quorum queues survive a broker that is killed; a publish counts once the broker has confirmed it.
    _arguments: dict[str, Any] = {
        "x-queue-type": "quorum",
        "x-consumer-timeout": (config.MAX_HARD_LIMIT + 3600) * 1000,  # in ms; otherwise half an hour
    }
    # In seconds: a broker that is frozen takes a large message for ever, and never answers a question.
    broker_transport_options: dict[str, Any] = {"confirm_publish": True, "write_timeout": 30, "read_timeout": 10}
else:
    _arguments = {}
    for _folder in ("queue", "control", "results"):
        (config.home() / _folder).mkdir(parents=True, exist_ok=True)
    broker_transport_options = {
        "data_folder_in": str(config.home() / "queue"),
        "data_folder_out": str(config.home() / "queue"),
        "control_folder": str(config.home() / "control"),
        "polling_interval": 0.01,
        "kept_queue": config.MASTER_QUEUE,
    }


@before_task_publish.connect
def _sign(properties: dict[str, Any], **_: Any) -> None:
    """RabbitMQ compares it with the connection's user: so the master knows who sent a message."""
    if user := config.broker_user():
        properties["user_id"] = user


def queues(no_declare: bool) -> list[Queue]:
    """What the master declares. Results have an exchange of their own: a runner may write to that one alone."""
    exchanges = dict.fromkeys(config.QUEUES, config.WORK_EXCHANGE) | {config.MASTER_QUEUE: config.RESULT_EXCHANGE}
    return [
        Queue(
            name,
            exchange=Exchange(exchange, no_declare=no_declare),
            routing_key=name,
            queue_arguments=_arguments,
            no_declare=no_declare,
        )
        for name, exchange in exchanges.items()
    ]


task_queues = queues(no_declare=False)
task_default_queue = "celery"
task_default_exchange = config.WORK_EXCHANGE
task_default_routing_key = "celery"
# Left to itself Celery publishes to the default exchange, which leads to every queue.
_to_master = {"queue": config.MASTER_QUEUE, "exchange": config.RESULT_EXCHANGE, "routing_key": config.MASTER_QUEUE}
task_routes = {"runapp.tasks.save_*": _to_master, "runapp.tasks.mend": _to_master}

# A message is done with when its work is: a worker that dies gives it back.
task_acks_late = True
task_reject_on_worker_lost = True
worker_prefetch_multiplier = 1
worker_consumer = "runner.consumer:Consumer"
# A fold has a process of its own; the worker's threads only wait for it.
worker_pool = "threads"
worker_concurrency = config.slots()
task_track_started = True

task_serializer = result_serializer = "json"
accept_content = ["json"]
broker_connection_timeout = 2
# A runner that lost its power is back before the broker has missed it, and must not be refused its own name.
control_queue_exclusive = False
broker_connection_retry_on_startup = True
worker_hijack_root_logger = True
