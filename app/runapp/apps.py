"""The Django application."""

from django.apps import AppConfig


class RunappConfig(AppConfig):
    name = "runapp"
    verbose_name = "datarun"

    def ready(self) -> None:
        from runapp import signals  # noqa: F401 - connects the receivers
