"""Who may ask: Basic, session and token authentication; passwords are hashed once and can't be guessed."""

import socket
import threading
import time

import pytest
from django.conf import settings as django_settings
from django.contrib.auth.hashers import MD5PasswordHasher
from rest_framework.authtoken.models import Token
from rest_framework.test import APIClient

from runapp import authentication
from runner import config
from tests.app.helpers import PASSWORD, USER, Api, basic

pytestmark = pytest.mark.embedded

PATHS = [
    ("get", "rawdata/"),
    ("post", "rawdata/"),
    ("post", "rawdata/split/"),
    ("post", "rawdata/customsplit/"),
    ("get", "submissionfold/"),
    ("post", "submissionfold/"),
    ("post", "submissionfold/bulk/"),
    ("get", "submissionfold/1/"),
    ("get", "submissionfold-light/"),
    ("post", "testpredictions/list/"),
    ("post", "testpredictions/new/"),
]


@pytest.fixture
def hashed(monkeypatch):
    """The passwords that were hashed to be checked, in order."""
    passwords: list[str] = []
    verify = MD5PasswordHasher.verify

    def counted(self, password, encoded):
        passwords.append(password)
        return verify(self, password, encoded)

    monkeypatch.setattr(MD5PasswordHasher, "verify", counted)
    return passwords


def test_it_works(user):
    assert Api().get("rawdata/").status == 200


@pytest.mark.parametrize(("method", "path"), PATHS)
def test_it_rejects_a_call_without_credentials(db, method, path):
    answer = getattr(Api(None), method)(path)
    assert answer.status == 401
    assert list(answer.body) == ["detail"]
    assert all(isinstance(text, str) for text in answer.body["detail"])
    assert answer.headers["WWW-Authenticate"] == 'Basic realm="datarun"'


@pytest.mark.parametrize(
    "header",
    [
        basic(USER, "wrong"),
        basic("nobody", PASSWORD),
        basic(USER, ""),
        basic("a\0b", "c\0d"),
        basic("é" * 1000, "x"),
        "Basic",
        "Basic !!!",
        "Basic YWRh",
        "Basic a b",
        "Token nonsense",
        "Token",
        "Bearer x",
        "Digest x",
    ],
    ids=repr,
)
def test_it_rejects_other_credentials(user, header):
    api = Api(None)
    api.client.credentials(HTTP_AUTHORIZATION=header)
    answer = api.get("rawdata/")
    assert answer.status == 401
    assert list(answer.body) == ["detail"]


def test_a_token_works(user):
    api = Api(None)
    api.client.credentials(HTTP_AUTHORIZATION=f"Token {Token.objects.create(user=user).key}")
    assert api.get("rawdata/").status == 200
    assert api.post("testpredictions/new/", {}).status == 200


def test_a_session_works(user):
    api = Api(None)
    page = "/api-auth/login/"
    answer = api.client.post(page, {"username": USER, "password": PASSWORD}, format="multipart")
    assert answer.status_code == 302
    assert api.get("rawdata/").status == 200


@pytest.fixture
def session(user):
    api = Api(None, enforce_csrf_checks=True)
    api.client.force_login(user)
    return api


def test_a_session_needs_its_csrf_token(session):
    answer = session.post("testpredictions/new/", {})
    assert answer.status == 403
    assert list(answer.body) == ["detail"]


def test_a_session_with_its_csrf_token_works(session):
    token = "a" * 32
    session.client.cookies["csrftoken"] = token
    assert session.post("testpredictions/new/", {}, HTTP_X_CSRFTOKEN=token).status == 200


def test_basic_credentials_need_no_csrf_token(user):
    assert Api(enforce_csrf_checks=True).post("testpredictions/new/", {}).status == 200


@pytest.mark.parametrize("client", [APIClient])
def test_a_password_with_a_colon_and_letters_of_any_language_works(client, django_user_model, db):
    django_user_model.objects.create_user("Łódź", password="p:ä:日本")
    assert Api(("Łódź", "p:ä:日本")).get("rawdata/").status == 200


# --- remembered


def test_a_right_password_is_hashed_once(user, hashed):
    for _ in range(5):
        assert Api().get("rawdata/").status == 200
    assert hashed == [PASSWORD]


def test_a_wrong_password_is_not_remembered_as_right(user, hashed):
    Api().get("rawdata/")
    for _ in range(2):
        assert Api((USER, "wrong")).get("rawdata/").status == 401
    assert hashed.count("wrong") == 2


def test_nobody_is_taken_for_another(user, django_user_model):
    django_user_model.objects.create_user("bob", password="another one")
    Api().get("rawdata/")
    assert Api(("bob", PASSWORD)).get("rawdata/").status == 401
    # Name and password joined give the same text.
    assert Api((USER + PASSWORD[0], PASSWORD[1:])).get("rawdata/").status == 401


def test_nothing_that_is_remembered_tells_the_password(user):
    Api().get("rawdata/")
    assert PASSWORD not in repr(authentication.remembered)
    assert PASSWORD.encode() not in b"".join(authentication.remembered)


def test_a_changed_password_is_forgotten(user):
    assert Api().get("rawdata/").status == 200
    user.set_password("a new one")
    user.save()
    assert Api().get("rawdata/").status == 401
    assert Api((USER, "a new one")).get("rawdata/").status == 200


def test_a_user_made_inactive_is_forgotten(user):
    assert Api().get("rawdata/").status == 200
    user.is_active = False
    user.save()
    assert Api().get("rawdata/").status == 401
    user.is_active = True
    user.save()
    assert Api().get("rawdata/").status == 200


def test_a_deleted_user_is_forgotten(user):
    assert Api().get("rawdata/").status == 200
    user.delete()
    assert Api().get("rawdata/").status == 401


def test_a_renamed_user_is_forgotten(user):
    assert Api().get("rawdata/").status == 200
    user.username = "grace"
    user.save()
    assert Api().get("rawdata/").status == 401


def test_it_is_remembered_for_a_short_time(user, hashed, monkeypatch):
    Api().get("rawdata/")
    now = authentication.time.monotonic()
    monkeypatch.setattr(authentication.time, "monotonic", lambda: now + authentication.REMEMBER_SECONDS + 1)
    Api().get("rawdata/")
    assert len(hashed) == 2


def test_what_is_remembered_is_bounded(user, django_user_model, monkeypatch):
    monkeypatch.setattr(authentication, "REMEMBER_COUNT", 3)
    for number in range(5):
        django_user_model.objects.create_user(f"u{number}", password="x")
        Api((f"u{number}", "x")).get("rawdata/")
    assert len(authentication.remembered) <= 3


# --- throttled


def guess(times, **address):
    api = Api((USER, "wrong"))
    return [api.answer(lambda: api.client.get("/runapp/rawdata/", **address)).status for _ in range(times)]


def test_wrong_passwords_are_throttled(user, hashed):
    assert guess(authentication.WRONG_PASSWORDS - 1) == [401] * (authentication.WRONG_PASSWORDS - 1)
    guess(1)

    answer = Api((USER, "wrong")).get("rawdata/")

    assert answer.status == 429
    assert list(answer.body) == ["detail"]
    assert 0 < int(answer.headers["Retry-After"]) <= authentication.WRONG_SECONDS + 1
    # What is refused costs no hash, and a right guess is not told from a wrong one.
    assert len(hashed) == authentication.WRONG_PASSWORDS
    assert Api().get("rawdata/").status == 429


def test_remembered_passwords_pass_meanwhile(user):
    assert Api().get("rawdata/").status == 200
    guess(authentication.WRONG_PASSWORDS + 1)
    assert Api().get("rawdata/").status == 200


def test_another_address_passes_meanwhile(user):
    guess(authentication.WRONG_PASSWORDS + 1)
    api = Api()
    assert api.client.get("/runapp/rawdata/", REMOTE_ADDR="192.0.2.7").status_code == 200


def test_another_address_of_the_same_network_does_not(user):
    """In IPv6 a caller has 2^64 of them."""
    statuses = []
    for number in range(authentication.WRONG_PASSWORDS + 1):
        client = Api((USER, "wrong")).client
        statuses.append(client.get("/runapp/rawdata/", REMOTE_ADDR=f"2001:db8:1:2::{number}").status_code)
    assert statuses[-1] == 429
    assert Api().client.get("/runapp/rawdata/", REMOTE_ADDR="2001:db8:1:3::1").status_code == 200


def test_an_address_that_a_caller_makes_up_does_not_help(user):
    """Without a web server of ours in front, X-Forwarded-For is the caller's own word."""
    statuses = [status for n in range(12) for status in guess(1, HTTP_X_FORWARDED_FOR=f"192.0.2.{n}")]
    assert statuses[-1] == 429


def test_after_a_while_they_are_looked_at_again(user, monkeypatch):
    guess(authentication.WRONG_PASSWORDS + 1)
    now = authentication.time.time()
    monkeypatch.setattr(authentication.time, "time", lambda: now + authentication.WRONG_SECONDS + 2)
    assert Api().get("rawdata/").status == 200


def test_the_login_pages_are_throttled_too(user):
    guess(authentication.WRONG_PASSWORDS)
    api = Api(None)
    right = {"username": USER, "password": PASSWORD}
    answer = api.client.post("/api-auth/login/", right, format="multipart")
    assert answer.status_code == 200  # the form again
    assert api.get("rawdata/").status == 401


def test_right_passwords_are_served_while_the_cache_is_away(user, monkeypatch):
    def away(*args, **kwargs):
        raise ConnectionError("no Redis")

    monkeypatch.setattr(authentication.cache, "get", away)
    monkeypatch.setattr(authentication.cache, "set", away)
    assert Api().get("rawdata/").status == 200
    assert Api((USER, "wrong")).get("rawdata/").status == 401


@pytest.mark.skipif(not config.has_broker(), reason="memory does not hang")
def test_a_cache_that_is_frozen_holds_no_login_up_for_long(user, settings):
    with socket.create_server(("127.0.0.1", 0)) as frozen:  # takes connections, and answers nothing
        port = frozen.getsockname()[1]
        at_last = threading.Timer(120, frozen.close)
        at_last.start()
        place = {"LOCATION": f"redis://127.0.0.1:{port}/0", "OPTIONS": {"socket_timeout": 2}}
        settings.CACHES = {"default": django_settings.CACHES["default"] | place}
        began = time.monotonic()
        assert Api().get("rawdata/").status == 200
        assert time.monotonic() - began < 30
        assert Api((USER, "wrong")).get("rawdata/").status == 401
        assert time.monotonic() - began < 60
        at_last.cancel()
