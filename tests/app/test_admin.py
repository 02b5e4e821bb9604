"""/admin/ and /api-auth/: the pages of an operator."""

import re
from datetime import timedelta

import pytest
from django.contrib.auth.models import Permission
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from runapp import admin as pages
from runapp import services
from runapp.models import PAYLOADS, Attempt, RawData, Runner, Submission, SubmissionFold
from runner import payloads
from tests.app.helpers import busy, committed, failure, finish, indices, report, result

pytestmark = pytest.mark.embedded

FILTERS = {
    "rawdata": ["", "?q=iris", "?split_state__exact=DONE", "?custom__exact=0"],
    "submission": ["", "?q=1", "?raw_data__id__exact=1"],
    "submissionfold": [
        "",
        "?q=1",
        "?q=nothing",
        "?state__exact=TESTED",
        "?error_reason__exact=user_code",
        "?priority__exact=L",
        "?new__exact=1",
        "?databoard_s__raw_data__id__exact=1",
        "?runner=runner@here",
        "?o=-3",
        "?o=-9",
    ],
    "runner": ["", "?o=-3"],
}


@pytest.fixture
def folds(api, iris):
    for key in (1, 2, 3):
        api.new_fold(iris, key)
    finish(result(1))
    finish(result(2, "ERROR", error_reason="user_code", log_messages="ERROR(train): <b>x</b>"))
    services.save_runner(report(busy=[busy(3)]))


@pytest.fixture
def admin(folds, django_user_model):
    client = Client()
    client.force_login(django_user_model.objects.create_superuser("root", "", "x"))
    return client


def test_it_works(admin):
    response = admin.get("/admin/")
    assert response.status_code == 200
    assert "Data sets" in response.content.decode()


@pytest.mark.parametrize(
    ("model", "query"), [(model, query) for model, queries in FILTERS.items() for query in queries]
)
def test_its_lists_open(admin, model, query):
    response = admin.get(f"/admin/runapp/{model}/{query}")
    assert response.status_code == 200


def test_it_finds_folds_by_state(admin):
    page = admin.get("/admin/runapp/submissionfold/?state__exact=ERROR").content.decode()
    assert "/admin/runapp/submissionfold/2/change/" in page
    assert "/admin/runapp/submissionfold/1/change/" not in page


@pytest.mark.parametrize("model", [RawData, Submission, SubmissionFold, Runner], ids=lambda model: model.__name__)
def test_its_rows_open(admin, model):
    for row in model.objects.all():
        response = admin.get(f"/admin/runapp/{model._meta.model_name}/{row.pk}/change/")
        assert response.status_code == 200


def test_a_fold_shows_its_log_escaped_and_no_payloads(admin):
    page = admin.get("/admin/runapp/submissionfold/2/change/").content.decode()
    assert "&lt;b&gt;x&lt;/b&gt;" in page
    assert indices([0, 1, 2, 3, 4, 5]) not in page


def test_the_list_of_folds_takes_few_queries(admin, django_assert_max_num_queries):
    with django_assert_max_num_queries(25):
        admin.get("/admin/runapp/submissionfold/")


def test_the_list_of_folds_shows_the_newest_first(admin):
    now = timezone.now()
    for key, age in ((1, 5), (2, 1), (3, 9)):
        SubmissionFold.objects.filter(pk=key).update(created_at=now - timedelta(minutes=age))
    page = admin.get("/admin/runapp/submissionfold/").content.decode()
    assert re.findall(r"submissionfold/(\d)/change/", page) == ["2", "1", "3"]


def test_the_newest_folds_are_found_by_an_index(admin, monkeypatch):
    """Sorting all of 100,000 folds would take seconds."""
    monkeypatch.setattr(pages.SubmissionFoldAdmin, "list_per_page", 2)
    with CaptureQueriesContext(connection) as asked:
        admin.get("/admin/runapp/submissionfold/")
    [listing] = [query["sql"] for query in asked if "ORDER BY" in query["sql"] and "LIMIT 2" in query["sql"]]
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("SET LOCAL enable_sort = off")  # else it sorts the few rows that a test has
        cursor.execute(f"EXPLAIN {'QUERY PLAN ' if connection.vendor == 'sqlite' else ''}{listing}")
        plan = str(cursor.fetchall())
    assert "fold_newest" in plan
    assert "TEMP B-TREE" not in plan


# --- deletion

LARGE = "x" * 100
"""Of a payload in the test: above the bound from which payloads are files."""


@pytest.fixture
def in_files(admin, monkeypatch, iris, api):
    """Folds 1 to 4, of which 4 keeps its payloads in files, and 3 has a failed attempt."""
    finish(failure(3))
    monkeypatch.setattr(payloads, "INLINE_BYTES", 10)
    api.new_fold(iris, 4, submission=4)
    assert SubmissionFold.objects.get(pk=4).train_is.startswith("@")


def delete(admin, model, *keys):
    """As a user does: the page that asks, then yes. Of several by the list's action. Returns the page that asks."""
    address = f"/admin/runapp/{model}/"
    choice = {"action": "delete_selected", "_selected_action": [*keys]}
    if len(keys) == 1:
        address, choice = f"{address}{keys[0]}/delete/", {}
        asked = admin.get(address)
    else:
        asked = admin.post(address, choice)
    assert asked.status_code == 200
    with committed():
        done = admin.post(address, choice | {"post": "yes"})
    assert done.status_code == 302
    return asked.content.decode()


@pytest.mark.parametrize("keys", [[1], [2], [3], [4], [1, 2, 3, 4]], ids=str)
def test_folds_are_deleted_with_their_attempts_and_files(admin, in_files, disk, keys):
    before = {name for name in disk() if ".large" in name}
    delete(admin, "submissionfold", *keys)
    assert {*SubmissionFold.objects.values_list("pk", flat=True)} == {1, 2, 3, 4} - {*keys}
    assert Attempt.objects.filter(fold__in=keys).count() == 0
    assert before
    assert {name for name in disk() if ".large" in name} == (set() if 4 in keys else before)


@pytest.mark.parametrize("keys", [[1], [4], [1, 4]], ids=str)
def test_submissions_are_deleted_with_their_folds(admin, in_files, disk, keys):
    page = delete(admin, "submission", *keys)
    assert f"Folds: {sum({1: 3, 4: 1}[key] for key in keys)}" in page
    assert {*Submission.objects.values_list("pk", flat=True)} == {1, 4} - {*keys}
    assert {*SubmissionFold.objects.values_list("databoard_s", flat=True)} == {1, 4} - {*keys}
    assert any(".large" in name for name in disk()) == (4 not in keys)


@pytest.mark.parametrize("by_action", [False, True])
def test_data_sets_are_deleted_with_all_of_theirs(admin, in_files, api, custom, disk, by_action):
    keys = RawData.objects.values_list("pk", flat=True)
    if by_action:
        delete(admin, "rawdata", *keys)
    else:
        for key in keys:
            delete(admin, "rawdata", key)
    assert [model.objects.count() for model in (RawData, Submission, SubmissionFold, Attempt)] == [0, 0, 0, 0]
    assert disk() == {}


def test_runners_are_deleted(admin):
    delete(admin, "runner", "runner@here")
    assert not Runner.objects.exists()


@pytest.mark.parametrize("model", ["submissionfold", "submission", "rawdata"])
def test_a_deletion_reads_no_payloads_and_takes_few_queries(admin, in_files, django_assert_max_num_queries, model):
    row = {"submissionfold": SubmissionFold, "submission": Submission, "rawdata": RawData}[model].objects.first()
    with CaptureQueriesContext(connection) as asked:
        delete(admin, model, row.pk)
    assert len(asked) < 40
    for query in asked.captured_queries:
        chosen = query["sql"].partition(" FROM ")[0]
        assert not [name for name in PAYLOADS if re.search(rf'(?<!\()"\w+"\."{name}"', chosen)], query["sql"]


def test_the_page_before_a_deletion_names_some_and_counts_all(admin, monkeypatch):
    monkeypatch.setattr(pages, "SHOWN", 2)
    page = delete(admin, "submissionfold", 1, 2, 3)
    assert ("fold 3" in page, "fold 1" in page) == (True, False)
    assert "... and 1 more" in page
    assert "Folds: 3" in page


def test_one_who_may_not_delete_folds_deletes_no_submission(folds, user):
    user.is_staff = True
    user.save()
    user.user_permissions.set(Permission.objects.filter(codename__in=["view_submission", "delete_submission"]))
    client = Client()
    client.force_login(user)
    page = client.get("/admin/runapp/submission/1/delete/").content.decode()
    assert "doesn't have permission" in page or "doesn’t have permission" in page
    assert client.post("/admin/runapp/submission/1/delete/", {"post": "yes"}).status_code == 403
    assert SubmissionFold.objects.count() == 3


@pytest.mark.parametrize("model", FILTERS)
def test_nothing_is_added_there(admin, model):
    assert admin.get(f"/admin/runapp/{model}/add/").status_code == 403


def test_it_rejects_a_plain_user(folds, user):
    client = Client()
    client.force_login(user)
    assert client.get("/admin/").status_code == 302
    assert "/admin/login/" in client.get("/admin/runapp/rawdata/").headers["Location"]


def test_the_login_page_opens(db):
    assert Client().get("/api-auth/login/").status_code == 200
    assert Client().get("/admin/login/").status_code == 200


def test_a_fold_shows_its_failed_attempts_which_nobody_edits(admin):
    finish(failure(3, runner="runner@broken"))
    page = admin.get("/admin/runapp/submissionfold/3/change/").content.decode()
    assert "Failed attempts" in page or "failed attempts" in page
    assert "runner@broken" in page
    assert "ERROR(train): the disk is away" in page
    assert 'name="failed_attempts-0-DELETE"' not in page
    assert 'name="failed_attempts-0-text"' not in page


# --- how it looks


def shown(page: str, name: str) -> str:
    """The text of a field of a row's page."""
    [(text,)] = [match.groups() for match in re.finditer(rf'field-{name}">.*?class="readonly">(.*?)</div>', page, re.S)]
    return text


def test_a_fold_shows_its_log_on_top_as_it_was_printed(admin):
    page = admin.get("/admin/runapp/submissionfold/2/change/").content.decode()
    assert re.findall(r'class="form-row field-(\w+)"', page)[0] == "log_messages"
    log = shown(page, "log_messages")
    assert log.startswith("<pre")
    assert "monospace" in log and "overflow: auto" in log and "max-height" in log


def test_a_fold_shows_times_in_seconds_and_memory_in_megabytes(admin):
    SubmissionFold.objects.filter(pk=1).update(train_time=1.23456789, test_memory=2_560.0)
    page = admin.get("/admin/runapp/submissionfold/1/change/").content.decode()
    assert shown(page, "train_time") == "1.235 s"
    assert shown(page, "test_memory") == "2.5 MB"
    assert "1.235 s" in admin.get("/admin/runapp/submissionfold/").content.decode()


def test_a_fold_shows_who_sent_it(admin, user):
    row = admin.get("/admin/runapp/submissionfold/?q=1").content.decode()
    assert re.search(rf"field-created_by[^>]*>(<a[^>]*>)?{user.get_username()}<", row)
    assert user.get_username() in shown(
        admin.get("/admin/runapp/submissionfold/1/change/").content.decode(), "created_by"
    )


def test_it_says_to_fetch_for_new(admin):
    lists = admin.get("/admin/runapp/submissionfold/").content.decode()
    assert re.search(r'column-new">.*?>To fetch<', lists, re.S)
    assert "By to fetch" in lists
    page = admin.get("/admin/runapp/submissionfold/1/change/").content.decode()
    assert re.search(r"field-new.*?<label>To fetch:</label>", page, re.S)


@pytest.mark.parametrize(
    "address",
    ["", "login/", "runapp/", "runapp/submissionfold/", "runapp/submissionfold/1/change/", "password_change/"],
)
def test_its_pages_are_datarun_s_and_lead_to_the_documentation(admin, address):
    if address == "login/":
        admin.logout()
    page = admin.get(f"/admin/{address}").content.decode()
    visible = re.sub(r"<script.*?</script>|<[^>]*>", " ", page, flags=re.S)
    assert "datarun" in visible
    assert "django" not in visible.lower()
    assert ('href="/docs/"' in page) == (address != "login/")


def test_the_login_page_of_the_api_is_datarun_s(db):
    page = Client().get("/api-auth/login/").content.decode()
    assert "datarun" in page
    assert "Django" not in page
