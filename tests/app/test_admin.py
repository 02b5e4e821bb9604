"""/admin/ and /api-auth/: the pages of an operator."""

import pytest
from django.test import Client

from runapp import services
from runapp.models import RawData, Runner, Submission, SubmissionFold
from tests.app.helpers import busy, failure, finish, indices, report, result

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
        "?o=-3",
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


def test_deleting_a_data_set_takes_all_of_it(admin, disk, django_capture_on_commit_callbacks):
    row = RawData.objects.get()
    with django_capture_on_commit_callbacks(execute=True):
        response = admin.post(f"/admin/runapp/rawdata/{row.pk}/delete/", {"post": "yes"})
    assert response.status_code == 302
    assert not SubmissionFold.objects.exists()
    assert not Submission.objects.exists()
    assert disk() == {}


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
