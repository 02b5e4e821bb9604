"""The master's Celery application: the runners' tasks, the results, and the periodic mending."""

import os
import sys
from typing import Any

from celery import Celery
from celery.schedules import crontab
from celery.signals import celeryd_after_setup, task_prerun, worker_init, worker_ready

from datarun import clock
from runner import config, env

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "datarun.settings")


def _period() -> crontab:
    minutes = env.text("CELERY_SCHEDULER_PERIOD", "*/2")
    try:
        return crontab(minute=minutes)
    except ValueError as error:
        raise env.ConfigurationError(
            f"CELERY_SCHEDULER_PERIOD is {minutes!r}: it must be a crontab minute field such as */2 ({error})"
        ) from None


app = Celery("datarun", control="runner.control:Control")
app.config_from_object("runner.celeryconfig")
app.autodiscover_tasks(["runapp"])
app.conf["CELERY_DB_REUSE_MAX"] = sys.maxsize  # see _use_connection_again
# The broker drops one that nobody took in time: those of an hour in which the worker was busy are not run in a row.
app.conf.beat_schedule = {"mend": {"task": "runapp.tasks.mend", "schedule": _period(), "options": {"expiration": 60}}}


@worker_init.connect
def _take_results_together(sender: Any, **_: Any) -> None:
    """Before the worker says how many messages it holds at once; after that nothing changes it."""
    if {*sender.app.amqp.queues.consume_from} == {config.MASTER_QUEUE}:
        from runapp.batches import MOST  # needs Django, which is ready by now

        sender.prefetch_multiplier = MOST


@celeryd_after_setup.connect
def _only_the_masters_tasks(instance: Any, **_: Any) -> None:
    """Each runner may write to the master's queue: it can have results stored there, and have nothing else run."""
    tasks = instance.app.tasks
    if {*instance.app.amqp.queues.consume_from} == {config.MASTER_QUEUE}:
        for name in [name for name in tasks if not name.startswith(("runapp.tasks.save_", "runapp.tasks.mend"))]:
            del tasks[name]


@task_prerun.connect
def _use_connection_again(**_: Any) -> None:
    """Check the connection as before a request. Celery would close it, and a new one costs more than the task."""
    from django.db import close_old_connections

    close_old_connections()


@worker_ready.connect
def _start_threads(sender: Any, **_: Any) -> None:
    """Beside the results that it stores, the master's worker sends the periodic tasks and delivers webhooks."""
    if config.MASTER_QUEUE in sender.app.amqp.queues.consume_from:
        from runapp.services.calls import Deliverer  # needs Django, which is ready by now

        clock.start(sender.app)
        Deliverer().start()
