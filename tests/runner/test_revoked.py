"""What the result store says of a task that is not to be run any more."""

import pytest
from celery import Celery

from runner import revoked


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    (tmp_path / "results").mkdir()
    app = Celery(backend=f"file://{tmp_path}/results", set_as_current=False)
    monkeypatch.setattr(revoked, "_backend", lambda: app.backend)


def test_it_works():
    assert not revoked.is_revoked("none")
    revoked.revoke("one", "two")
    assert revoked.is_revoked("one")
    assert revoked.is_revoked("two")


@pytest.fixture
def away(monkeypatch):
    monkeypatch.setattr(revoked, "_backend", lambda: 1 / 0)


def test_a_store_that_does_not_answer_is_in_nobodys_way(away):
    revoked.revoke("one")
    assert not revoked.is_revoked("one")
