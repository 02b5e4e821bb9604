"""Migrations are undone by an upgrade that goes back: each can be, with rows in the tables, and done again."""

from collections.abc import Iterator

import pytest
from django.core.management import call_command
from django.db.migrations.loader import MigrationLoader

from runapp.models import Attempt, Call, RawData, Runner, Submission, SubmissionFold
from tests.app.helpers import Api, failure, finish, heard, stored

pytestmark = pytest.mark.embedded

TABLES = RawData, Submission, SubmissionFold, Attempt, Runner, Call


def names() -> list[str]:
    return sorted(name for app, name in MigrationLoader(None).disk_migrations if app == "runapp")


@pytest.fixture
def rows(transactional_db, api: Api, iris: RawData) -> dict[str, int]:
    """Some in each table; how many there are."""
    assert api.new_fold(iris).status == 201
    finish(failure())
    heard()
    Call.objects.create(databoard_sf_id=1, task_id=stored().task_id, host="192.0.2.1")
    counts = {model.__name__: model.objects.count() for model in TABLES}
    assert all(counts.values()), counts
    return counts


@pytest.fixture
def up_to_date() -> Iterator[None]:
    yield
    call_command("migrate", "runapp", verbosity=0)


def test_each_can_be_undone_and_done_again(rows: dict[str, int], up_to_date: None) -> None:
    first, *others = names()
    for name in reversed([first, *others[:-1]]):
        call_command("migrate", "runapp", name, verbosity=0)
    call_command("migrate", "runapp", verbosity=0)
    now = {model.__name__: model.objects.count() for model in TABLES}
    of_the_first = {"RawData", "Submission", "SubmissionFold"}
    assert {name: now[name] for name in of_the_first} == {name: rows[name] for name in of_the_first}


def test_the_last_one_undone_loses_no_row(rows: dict[str, int], up_to_date: None) -> None:
    call_command("migrate", "runapp", names()[-2], verbosity=0)
    call_command("migrate", "runapp", verbosity=0)
    assert {model.__name__: model.objects.count() for model in TABLES} == rows


def test_they_have_a_line_of_numbers() -> None:
    # As an upgrade compares two versions: the last that both have is the one to go back to.
    assert [int(name.split("_")[0]) for name in names()] == [*range(1, len(names()) + 1)]
