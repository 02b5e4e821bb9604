"""What happens to every request before Django looks at it."""

import io
import re
from collections.abc import Callable

from django.conf import settings
from django.http import HttpRequest, JsonResponse
from django.http.response import HttpResponseBase

from runapp.authentication import sender_of

SMALL_BODY = 1 << 20
"""Bytes that anybody may send: a login form, or a request whose credentials are checked when it was read."""


def normalise_path(
    get_response: Callable[[HttpRequest], HttpResponseBase],
) -> Callable[[HttpRequest], HttpResponseBase]:
    """Accept the addresses that clients of the manuals send.

    The 2016 client joins `http://host/` and `/runapp/...` with a double slash; the manual's examples spell
    `rawdata` also as `raw_data`; and a POST can't be redirected to the address with its final slash.
    """

    def middleware(request: HttpRequest) -> HttpResponseBase:
        path = _clean(request.path_info)
        if path.startswith("/runapp/"):
            path = path if path.endswith("/") else path + "/"
            path = path.replace("/runapp/raw_data/", "/runapp/rawdata/", 1)
        request.path_info = path
        return get_response(request)

    return middleware


def most_bytes(method: str | None, path: str) -> int:
    """How large the body of a request may be whose sender is known."""
    is_upload = method in ("POST", "PUT", "PATCH") and _clean(path).startswith("/runapp/")
    return int(settings.DATA_UPLOAD_MAX_MEMORY_SIZE) if is_upload else SMALL_BODY


def bound_body(
    get_response: Callable[[HttpRequest], HttpResponseBase],
) -> Callable[[HttpRequest], HttpResponseBase]:
    """Refuse a body that is too large before it is read; read a large one only for a sender who is known.

    Comes before whatever reads forms, such as the check of a form's token.
    """

    def middleware(request: HttpRequest) -> HttpResponseBase:
        sent = request.META.get("CONTENT_LENGTH") or ""
        length = int(sent) if sent.isdecimal() else 0
        most = most_bytes(request.method, request.path_info)
        if length > most:
            return JsonResponse({"detail": [f"A request may have {most} bytes at most."]}, status=413)
        if length > SMALL_BODY and sender_of(request.META) is None:
            # Who is asked gets to see no body, and says what is wrong with the credentials.
            request.META["CONTENT_LENGTH"] = "0"
            request._stream = io.BytesIO()
        return get_response(request)

    return middleware


def _clean(path: str) -> str:
    return re.sub("/{2,}", "/", path)
