"""The Django project and, as `celery -A datarun`, the master's Celery application."""

from datarun.celery import app as celery_app

__all__ = ["celery_app"]
