"""Credentials that do not eat the server.

The documented clients send a password with each request, and checking one takes a third of a second of CPU
by design. A password that was right is remembered for REMEMBER_SECONDS in this process's memory, under an HMAC
with a key that never leaves it; a wrong one is counted against the caller's address.
"""

import hashlib
import hmac
import io
import logging
import secrets
import time
from ipaddress import IPv4Address, ip_address, ip_network
from typing import Any

from django.contrib.auth import get_user
from django.contrib.auth.backends import ModelBackend
from django.contrib.auth.models import User
from django.contrib.sessions.middleware import SessionMiddleware
from django.core.cache import cache
from django.core.exceptions import PermissionDenied
from django.core.handlers.wsgi import WSGIRequest
from django.http import HttpRequest, HttpResponse
from drf_spectacular.authentication import BasicScheme
from rest_framework.authentication import BasicAuthentication, TokenAuthentication
from rest_framework.exceptions import APIException, Throttled
from rest_framework.throttling import BaseThrottle

log = logging.getLogger(__name__)

REMEMBER_SECONDS = 300
REMEMBER_COUNT = 10_000
WRONG_PASSWORDS = 10
"""Wrong passwords an address may send in WRONG_SECONDS."""
WRONG_SECONDS = 60

_SENDER = "datarun.sender"
_key = secrets.token_bytes(32)
remembered: dict[bytes, tuple[Any, str, float]] = {}  # credential's HMAC -> user id, password hash, when


class RememberingBackend(ModelBackend):
    """Django's check of a password, remembered and throttled; used by the API and by the login pages."""

    def authenticate(
        self, request: HttpRequest | None, username: str | None = None, password: str | None = None, **kwargs: Any
    ) -> User | None:
        if username is None or password is None or "\0" in username:  # which PostgreSQL refuses to look for
            return None
        digest = hmac.digest(_key, f"{len(username)}:{username}:{password}".encode("utf-8", "replace"), hashlib.sha256)
        if user := self._recall(digest, username):
            return user
        if seconds_to_wait(request):
            raise PermissionDenied("too many wrong passwords")
        user = super().authenticate(request, username=username, password=password, **kwargs)
        if user is None:
            _count_wrong(request)
            return None
        if len(remembered) >= REMEMBER_COUNT:
            remembered.clear()
        remembered[digest] = (user.pk, user.password, time.monotonic())
        return user

    def _recall(self, digest: bytes, username: str) -> User | None:
        user_id, password_hash, when = remembered.get(digest, (None, "", 0.0))
        if user_id is None:
            return None
        user = self.get_user(user_id)  # from the database: a changed, renamed or blocked user is not remembered
        if (
            user is not None
            and time.monotonic() - when < REMEMBER_SECONDS
            and user.password == password_hash
            and user.get_username() == username
        ):
            return user
        remembered.pop(digest, None)
        return None


class ThrottledBasicAuthentication(BasicAuthentication):
    """HTTP Basic; 429 with Retry-After where an address has sent too many wrong passwords."""

    www_authenticate_realm = "datarun"

    def authenticate_credentials(self, userid: str, password: str, request: Any = None) -> tuple[Any, None]:
        try:
            return super().authenticate_credentials(userid, password, request)
        except Exception:
            if wait := seconds_to_wait(request):
                raise Throttled(wait, "Too many wrong passwords from this address.") from None
            raise


def sender_of(environ: dict[str, Any]) -> int | None:
    """The id of the user who sends a request, by its headers alone; None without valid credentials.

    environ: of WSGI. Its body is not looked at. The answer is kept there: a wrong password counts once.
    """
    if _SENDER not in environ:
        environ[_SENDER] = _find_sender(environ)
    found: int | None = environ[_SENDER]
    return found


def _find_sender(environ: dict[str, Any]) -> int | None:
    request: Any = WSGIRequest(environ | {"wsgi.input": io.BytesIO(), "CONTENT_LENGTH": "0"})
    for scheme in (ThrottledBasicAuthentication(), TokenAuthentication()):
        try:
            if found := scheme.authenticate(request):
                return int(found[0].pk)
        except APIException:
            return None
    SessionMiddleware(lambda _: HttpResponse()).process_request(request)
    user = get_user(request)
    return int(user.pk) if user.is_authenticated and user.is_active else None


class ThrottledBasicScheme(BasicScheme):  # type: ignore[no-untyped-call]
    """Names the class above in the OpenAPI schema."""

    target_class = "runapp.authentication.ThrottledBasicAuthentication"


def seconds_to_wait(request: Any) -> int:
    """How long this address has to wait before another password of it is looked at; 0 if it has not."""
    try:
        count, until = cache.get(_address(request), (0, 0.0))
    except Exception:
        log.exception("wrong passwords can't be counted: the cache is away")
        return 0
    return max(int(until - time.time()) + 1, 0) if count >= WRONG_PASSWORDS else 0


def _count_wrong(request: Any) -> None:
    try:
        # Two wrong passwords at the same moment may count as one: the bound need not be exact.
        count, until = cache.get(_address(request), (0, time.time() + WRONG_SECONDS))
        cache.set(_address(request), (count + 1, until), max(until - time.time(), 1))
    except Exception:
        log.exception("wrong passwords can't be counted: the cache is away")


def _address(request: Any) -> str:
    address = _network(BaseThrottle().get_ident(request)) if request is not None else "local"
    return "wrong-password:" + hashlib.sha256(address.encode()).hexdigest()


def _network(address: str) -> str:
    """What stands for a caller: an address, or in IPv6 the 64 bits that say which network it is in."""
    try:
        found = ip_address(address)
    except ValueError:
        return address
    return address if isinstance(found, IPv4Address) else str(ip_network((found, 64), strict=False))
