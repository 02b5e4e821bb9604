"""The API in this process. Loaded before its conftest, which imports models."""

import django

django.setup()
