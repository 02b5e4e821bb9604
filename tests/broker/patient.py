"""A runner that has the time to say its last word to a slow broker, and rests until the test has ended."""

from runner import heartbeat, intake
from runner.celery import app

__all__ = ["app"]

heartbeat.LAST_WORD = 60.0
intake.FIRST_REST = intake.LONGEST_REST = 600.0
