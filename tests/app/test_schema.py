"""What the OpenAPI schema says is what the API does, for requests that nobody would think of."""

import logging

import hypothesis
import pytest
import schemathesis
from django.core.signals import request_finished, request_started
from django.db import close_old_connections
from drf_spectacular.generators import SchemaGenerator
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from datarun.wsgi import application
from tests.app.helpers import PASSWORD, USER, basic, finish, result

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]

schema = schemathesis.openapi.from_dict(SchemaGenerator().get_schema(public=True))
schema.app = application


@pytest.fixture
def one_connection():
    """The requests come through WSGI, whose signals would close the connection of the test's transaction."""
    for signal in (request_started, request_finished):
        signal.disconnect(close_old_connections)
    logging.getLogger("django.request").setLevel(logging.CRITICAL)
    yield
    logging.getLogger("django.request").setLevel(logging.NOTSET)
    for signal in (request_started, request_finished):
        signal.connect(close_old_connections)


@pytest.fixture
def stored(api, iris):
    """Something of everything, for the lists to show."""
    for key in (1, 2, 3):
        api.new_fold(iris, key)
    finish(result(1))
    finish(result(2, "ERROR", error_reason="user_code", log_messages="ERROR(train): x"))


OPERATIONS = [found.ok() for found in schema.get_all_operations()]  # type: ignore[union-attr]  # a bad path has none


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.label)
def test_it_works(operation, stored, one_connection):
    @hypothesis.settings(
        max_examples=12,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate],
    )
    @hypothesis.given(operation.as_strategy())
    def ask(case):
        case.call_and_validate(headers={"Authorization": basic(USER, PASSWORD)}, checks=CHECKS)

    ask()
