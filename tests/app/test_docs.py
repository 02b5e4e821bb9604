"""/docs/: the interactive documentation, with nothing from elsewhere."""

import re
from urllib.parse import urlsplit

import pytest
import yaml
from django.core.management import call_command
from django.test import Client

PATHS = {
    "/runapp/rawdata/": {"get", "post"},
    "/runapp/rawdata/split/": {"post"},
    "/runapp/rawdata/customsplit/": {"post"},
    "/runapp/submissionfold/": {"get", "post"},
    "/runapp/submissionfold/bulk/": {"post"},
    "/runapp/submissionfold/{id}/": {"get"},
    "/runapp/submissionfold-light/": {"get"},
    "/runapp/testpredictions/list/": {"post"},
    "/runapp/testpredictions/new/": {"post"},
    "/runapp/submissionfold/{id}/queue/": {"get"},
    "/runapp/packages/": {"get"},
    "/runapp/runners/": {"get"},
    "/healthz": {"get"},
    "/metrics": {"get"},
    "/readyz": {"get"},
}


@pytest.fixture
def pages(db):
    return Client()


def content(response) -> str:
    return b"".join(response).decode()


def test_it_works(pages):
    response = pages.get("/docs/")
    assert response.status_code == 200
    assert "swagger-ui" in content(response)


def test_it_loads_nothing_from_elsewhere(pages):
    page = content(pages.get("/docs/"))
    assets = re.findall(r"""(?:src|href)=["']([^"']+)["']""", page)
    assert any(asset.endswith(".js") for asset in assets)
    assert any(asset.endswith(".css") for asset in assets)
    for asset in assets:
        assert not urlsplit(asset).netloc, asset
        assert pages.get(asset).status_code == 200, asset
    assert not re.findall(r"""["'](?:https?:)?//[^"']+["']""", page)


def test_its_schema_is_ours(pages):
    response = pages.get("/docs/schema/")
    assert response.status_code == 200
    schema = yaml.safe_load(response.content)
    assert {path: set(methods) for path, methods in schema["paths"].items()} == PATHS
    assert {scheme["type"] for scheme in schema["components"]["securitySchemes"].values()} >= {"http"}


def test_making_the_schema_warns_of_nothing():
    call_command("spectacular", "--fail-on-warn", "--validate", "--file", "/dev/null")


def test_static_files_of_the_admin_are_served(pages):
    assert pages.get("/static/admin/css/base.css").status_code == 200
