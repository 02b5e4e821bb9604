"""The connection to the database is kept between requests and tasks, and replaced where the server has closed it."""

from threading import Thread

import pytest
from celery.signals import task_prerun
from django.core.signals import request_started
from django.db import close_old_connections, connection
from django.test.client import Client

import datarun.celery  # noqa: F401 - connects what is to be done before a task
from runapp.models import RawData
from tests.app.helpers import in_thread
from tests.e2e.live import until


def backend() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        [pid] = cursor.fetchone()
    return pid


def terminate(pid: int) -> None:
    """As a server that is restarted does."""

    def there(pid: int) -> bool:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = %s", [pid])
            return cursor.fetchone() is not None

    work = in_thread(lambda: until(lambda: not there(pid), 60, "the connection is closed"))
    thread = Thread(target=work)
    thread.start()
    thread.join()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("start", [request_started, task_prerun], ids=["request", "task"])
def test_it_works(start):
    if connection.vendor != "postgresql":
        pytest.skip("a file closes nothing")
    request_started.connect(close_old_connections)  # which the client of the tests has taken away
    first = backend()
    start.send(sender=Client)
    assert backend() == first
    terminate(first)
    start.send(sender=Client)
    assert RawData.objects.count() == 0
    assert backend() != first
