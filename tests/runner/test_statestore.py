"""Celery's way to Redis."""

import pytest
from celery import Celery
from kombu.transport.memory import Transport

from runner import celeryconfig


@pytest.fixture
def app():
    """As configured, but for a Redis that does not answer."""
    app = Celery(set_as_current=False)
    same = {name: getattr(celeryconfig, name) for name in ("override_backends", "result_backend_transport_options")}
    app.config_from_object(same | {"broker_url": "memory://", "result_backend": "redis://127.0.0.1:1/0"})
    yield app
    Transport.global_state.clear()


def test_who_sends_a_task_subscribes_to_nothing(app):
    """To a Redis that is away it could not."""
    assert app.send_task("a.task", task_id="task-1").id == "task-1"


def test_a_state_that_can_not_be_noted_stops_no_task(app, caplog):
    assert app.backend.store_result("task-1", {"rows": 9}, "SUCCESS") == {"rows": 9}
    assert "task task-1: that it is SUCCESS is not noted" in caplog.text
