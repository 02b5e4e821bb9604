"""The API on the master. It works in plain Python too: `from runapp import tasks`, without any set-up before."""

import django
from django.apps import apps

import datarun  # noqa: F401 - names the settings and makes the Celery application

if not (apps.ready or apps.loading):
    django.setup()
