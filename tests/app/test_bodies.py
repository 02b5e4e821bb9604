"""How large a body may be, and whose: decided before it is read."""

from urllib.parse import urlencode

import pytest
from django.contrib.auth.backends import ModelBackend
from django.core.handlers.wsgi import LimitedStream
from rest_framework.authtoken.models import Token

from runapp.middleware import SMALL_BODY, most_bytes
from tests.app.helpers import PASSWORD, USER, Api, basic, data_set, pack

pytestmark = pytest.mark.embedded

FORM = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data; boundary=x"
LARGE = b'{"a": "' + b"a" * SMALL_BODY + b'"}'


@pytest.fixture
def unread(monkeypatch):
    """Call it at the end: no body was read."""
    read: list[object] = []
    for name in ("read", "readline"):
        monkeypatch.setattr(LimitedStream, name, lambda *how: read.append(how) or b"")

    def check():
        assert read == []

    return check


@pytest.fixture
def known(user):
    """Clients whose credentials are right: by password, token and session."""
    session = Api(None)
    session.client.force_login(user)
    token = Api(None)
    token.client.credentials(HTTP_AUTHORIZATION=f"Token {Token.objects.create(user=user).key}")
    return {"password": Api(), "token": token, "session": session}


@pytest.mark.parametrize("kind", [FORM, MULTIPART, "application/json"])
@pytest.mark.parametrize(
    "path", ["/admin/login/", "/admin/", "/api-auth/login/", "/docs/", "/nowhere/", "/healthz", "/"]
)
def test_a_large_body_is_for_the_api_alone(known, unread, path, kind):
    for api in (Api(None), *known.values()):
        answer = api.post_bytes(path, LARGE, kind)
        assert answer.status == 413
        assert answer.body == {"detail": [f"A request may have {SMALL_BODY} bytes at most."]}
    unread()


@pytest.mark.parametrize("method", ["get", "delete", "options"])
def test_a_large_body_is_sent_by_what_has_one(known, unread, method):
    for api in known.values():
        send = getattr(api.client, method)
        kwargs = {"CONTENT_LENGTH": str(len(LARGE))} if method == "get" else {"data": LARGE, "content_type": FORM}
        assert send("http://testserver/runapp/rawdata/", **kwargs).status_code == 413
    unread()


@pytest.mark.parametrize("kind", [FORM, MULTIPART, "application/json", "text/plain"])
@pytest.mark.parametrize(
    "header",
    [
        None,
        basic(USER, "wrong"),
        basic("nobody", PASSWORD),
        "Basic x",
        "Token 0123",
        "Token",
        "Bearer x",
    ],
)
def test_a_large_body_of_somebody_unknown_is_not_read(api, unread, header, kind):
    stranger = Api(None)
    if header:
        stranger.client.credentials(HTTP_AUTHORIZATION=header)
    stranger.client.cookies["sessionid"] = "x" * 32
    for path in ("rawdata/", "//runapp//rawdata/", "submissionfold/bulk/", "testpredictions/new/"):
        assert stranger.post_bytes(path, LARGE, kind).status == 401
    unread()


def test_a_wrong_password_with_a_large_body_is_hashed_twice_at_most(user, monkeypatch):
    checked = []
    check = ModelBackend.authenticate
    monkeypatch.setattr(ModelBackend, "authenticate", lambda *who, **how: checked.append(1) or check(*who, **how))
    assert Api((USER, "wrong")).post_bytes("rawdata/", LARGE).status == 401
    assert len(checked) == 2


def test_it_is_not_read_for_who_was_blocked(known, user, unread):
    user.is_active = False
    user.save()
    for api in known.values():
        assert api.post_bytes("rawdata/", LARGE).status in (401, 403)
    unread()


def test_a_large_body_of_somebody_known_is(known):
    for name, api in known.items():
        files = {"rows.bin": "x", "specific.py": pack(b"")}
        files["rows.bin"] = pack(bytes(1)) + "\n" * SMALL_BODY  # no base64, and said so
        answer = api.post("rawdata/", data_set(name, files=files))
        assert answer.status == 400
        assert answer.body.keys() == {"files"}
        form = urlencode({"name": name, "unknown": "a" * SMALL_BODY}).encode()
        answer = api.post_bytes("rawdata/", form, FORM)
        assert answer.status == 400
        assert "unknown" in answer.body


def test_the_paths_that_may_be_sent_large_bodies(settings):
    most = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
    for path in ("/runapp/rawdata/", "//runapp/rawdata/", "/runapp//rawdata"):
        assert most_bytes("POST", path) == most
        assert most_bytes("GET", path) == SMALL_BODY
    for path in ("/runapp", "/admin/runapp/", "/admin/../runapp/", ""):
        assert most_bytes("POST", path) == SMALL_BODY
