"""A runner that has the time to say its last word to a slow broker."""

from runner import heartbeat
from runner.celery import app

__all__ = ["app"]

heartbeat.LAST_WORD = 60.0
