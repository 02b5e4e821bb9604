"""A runner whose broker loses patience after seconds."""

from runner.celery import app

app.conf.broker_heartbeat = 2
