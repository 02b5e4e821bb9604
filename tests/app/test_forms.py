"""Forms: both manuals of 2016 give the fields of each POST as `paramType: form`."""

import json
from urllib.parse import urlencode

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test.client import BOUNDARY, MULTIPART_CONTENT, encode_multipart

from runapp.models import RawData, SubmissionFold
from tests.app.helpers import Api, data_set, finish, finish_split, fold, new_fold, result

pytestmark = pytest.mark.embedded

URLENCODED = "application/x-www-form-urlencoded"


def as_text(value):
    return json.dumps(value) if isinstance(value, dict) else value


@pytest.fixture(params=["urlencoded", "multipart"])
def send(request, api):
    """Send the fields as a form. An object is JSON text; a list is a field that is repeated."""

    def urlencoded(path, fields, **headers):
        body = urlencode({name: as_text(value) for name, value in fields.items()}, doseq=True)
        return api.post_bytes(path, body.encode(), URLENCODED, **headers)

    def multipart(path, fields, **headers):
        body = encode_multipart(BOUNDARY, {name: as_text(value) for name, value in fields.items()})
        return api.post_bytes(path, body, MULTIPART_CONTENT, **headers)

    return urlencoded if request.param == "urlencoded" else multipart


def test_a_whole_challenge(api, send):
    sent = send("rawdata/", data_set())
    assert sent.status == 201, sent.content
    data_id = sent.body["id"]
    assert send("rawdata/split/", {"raw_data_id": data_id, "held_out_test": 0.25, "random_state": 7}).status == 200
    raw_data = RawData.objects.get()
    assert raw_data.split_request == {"held_out_test": 0.25, "random_state": 7}
    finish_split(raw_data)
    answer = send("submissionfold/", new_fold(raw_data, 1, priority="H"))
    assert answer.status == 201, answer.content
    assert answer.body["priority"] == "H"
    assert send("submissionfold/bulk/", {"folds": json.dumps([fold(2), fold(3)])}).ids == [2, 3]
    for key in (1, 2, 3):
        finish(result(key))
    assert send("testpredictions/list/", {"list_submission_fold": [1, 2]}).ids == [1, 2]
    assert send("testpredictions/new/", {"raw_data_id": data_id}).ids == [3]


def test_a_custom_split(api, send, custom):
    assert send("rawdata/customsplit/", {"raw_data_id": custom.pk}).status == 200


@pytest.mark.parametrize("value", ["[1]", "1", ["1", "404"], "[1, 404]"])
def test_a_list_is_json_text_or_a_repeated_field(api, iris, send, value):
    api.new_fold(iris)
    assert send("testpredictions/list/", {"list_submission_fold": value}).ids == [1]


def test_an_empty_field_that_is_optional_is_left_out(api, iris, send):
    """As pages send their forms."""
    fields = new_fold(iris) | {"priority": "", "force": "", "webhook": "", "webhook_secret": ""}
    assert send("submissionfold/", fields).status == 201
    assert send("submissionfold/", fold(2) | {"files": ""}).status == 201
    assert {fold.priority for fold in SubmissionFold.objects.all()} == {"L"}


def test_an_empty_number_is_refused(api, iris, send):
    """In `curl -d raw_data_id=$ID` the variable may be unset."""
    api.new_fold(iris)
    SubmissionFold.objects.update(state="TESTED")
    assert send("testpredictions/new/", {"raw_data_id": ""}).body == {"raw_data_id": ["A valid integer is required."]}
    assert SubmissionFold.objects.get().new
    assert send("submissionfold/", fold(2) | {"raw_data": ""}).body.keys() == {"raw_data"}


def test_an_empty_body_is_a_form_without_fields(api):
    form = {"content_type": "application/x-www-form-urlencoded"}
    assert api.post_bytes("testpredictions/new/", b"", **form).status == 200
    assert api.post_bytes("submissionfold/bulk/", b"", **form).body.keys() == {"folds"}


@pytest.mark.parametrize(
    "body",
    [
        b"junk",
        b"--B--\r\n",
        b'--B\nContent-Disposition: form-data; name="raw_data_id"\n\n1\n--B--\n',
        b"--B\r\nContent-Disposition: form-data\r\n\r\n1\r\n--B--\r\n",
        b'--B\r\nContent-Disposition: form-data; name="raw_data_id"\r\n',
    ],
    ids=["junk", "no field", "LF", "no name", "cut off"],
)
def test_a_broken_multipart_form_is_refused(api, iris, body):
    api.new_fold(iris)
    SubmissionFold.objects.update(state="TESTED")
    answer = api.post_bytes("testpredictions/new/", body, content_type="multipart/form-data; boundary=B")
    assert answer.status == 400
    assert "The form holds no field" in answer.body["detail"][0]
    assert SubmissionFold.objects.get().new


@pytest.mark.parametrize(
    "files", ["classifier.py", "[]", '{"a.py": 1}', '{"a.py": "eJwDAAAAAAE=", "a.py": ""}', "{", ""]
)
def test_files_that_are_no_json_text(api, iris, send, files):
    answer = send("submissionfold/", new_fold(iris) | {"files": files})
    assert answer.status == 400
    assert all(name.startswith("files") for name in answer.body)
    assert not SubmissionFold.objects.exists()


@pytest.mark.parametrize(
    ("path", "fields", "named"),
    [
        ("testpredictions/new/", {"raw_data": 1}, "raw_data"),
        ("testpredictions/list/", {"list_submission_fold": "1,2"}, "list_submission_fold"),
        ("testpredictions/list/", {"list_submission_fold": ["1", "x"]}, "list_submission_fold"),
        ("rawdata/split/", {"raw_data_id": ["1", "2"], "held_out_test": 0.5}, "raw_data_id"),
        ("submissionfold/bulk/", {"folds": "[{}]"}, "[0].databoard_sf_id"),
        ("submissionfold/bulk/", {"folds": "nothing"}, "folds"),
    ],
    ids=str,
)
def test_it_is_checked_as_json_is(api, send, path, fields, named):
    answer = send(path, fields)
    assert answer.status == 400
    assert any(name.startswith(named) for name in answer.body), answer.body


def test_json_that_is_labelled_as_a_form_is_said(api):
    """What curl -d sends without a header."""
    for body in (b'{"raw_data_id": 1}', b'[{"databoard_sf_id": 1}]'):
        answer = api.post_bytes("testpredictions/new/", body, URLENCODED)
        assert answer.status == 400
        assert "Content-Type: application/json" in answer.body["detail"][0]


def test_a_part_that_is_a_file_is_read_as_text(api):
    fields = data_set()
    fields["files"] = SimpleUploadedFile("files.json", json.dumps(fields["files"]).encode())
    answer = api.post_bytes("rawdata/", encode_multipart(BOUNDARY, fields), MULTIPART_CONTENT)
    assert answer.status == 201, answer.content
    fields = data_set("other") | {"files": SimpleUploadedFile("files.json", b"\xff")}
    answer = api.post_bytes("rawdata/", encode_multipart(BOUNDARY, fields), MULTIPART_CONTENT)
    assert (answer.status, answer.body) == (400, {"files": ["Send UTF-8 text."]})


def test_a_form_that_is_too_large(api, send, settings):
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 1 << 20
    answer = send("rawdata/", data_set(name="x" * (1 << 21)))
    assert answer.status == 413
    assert list(answer.body) == ["detail"]


def test_a_form_with_too_many_fields(api, send):
    answer = send("testpredictions/list/", {"list_submission_fold": [*range(2000)]})
    assert answer.status == 400
    assert "JSON text in one field" in answer.body["detail"][0]


@pytest.mark.parametrize("content_type", ["multipart/form-data", "multipart/form-data; boundary=x"])
def test_a_broken_multipart_form(api, content_type):
    answer = api.post_bytes("rawdata/", b"--x nonsense", content_type)
    assert answer.status == 400
    assert answer.body


# --- session users


@pytest.fixture
def session(user):
    api = Api(None, enforce_csrf_checks=True)
    api.client.force_login(user)
    api.client.cookies["csrftoken"] = "a" * 32
    return api


@pytest.mark.parametrize("kind", [URLENCODED, MULTIPART_CONTENT])
@pytest.mark.parametrize("token", ["", "a" * 32])
def test_a_session_sends_forms_with_its_csrf_token(session, kind, token):
    fields = {"csrfmiddlewaretoken": token, "list_submission_fold": "[1, 2]"}
    body = urlencode(fields).encode() if kind == URLENCODED else encode_multipart(BOUNDARY, fields)
    answer = session.post_bytes("testpredictions/list/", body, kind)
    assert answer.status == (200 if token else 403), answer.content


@pytest.mark.parametrize("kind", [URLENCODED, MULTIPART_CONTENT])
def test_a_bad_form_of_a_session_is_refused_as_any(session, kind, settings):
    headers = {"HTTP_X_CSRFTOKEN": "a" * 32}
    fields = {"list_submission_fold": [*range(2000)]}
    body = urlencode(fields, doseq=True).encode() if kind == URLENCODED else encode_multipart(BOUNDARY, fields)
    answer = session.post_bytes("testpredictions/list/", body, kind, **headers)
    assert answer.status == 400
    assert list(answer.body) == ["detail"]
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 1000
    assert session.post_bytes("testpredictions/list/", body, kind, **headers).status == 413
    if kind != URLENCODED:
        assert session.post_bytes("testpredictions/list/", b"x", "multipart/form-data", **headers).status == 400
