"""What all calls under /runapp/ have in common."""

from typing import Any

from django.conf import settings
from django.core.exceptions import RequestDataTooBig
from django.http import QueryDict
from rest_framework import serializers
from rest_framework.exceptions import APIException, ParseError, ValidationError
from rest_framework.request import Request
from rest_framework.settings import api_settings
from rest_framework.views import APIView

from runapp.parsers import Form
from runapp.strict import Nothing, StrictSerializer, unknown

USER = "datarun.user"
"""Where, in a request's META, the web server finds the id of the user whose answer it sends."""


class LengthRequired(APIException):
    status_code = 411
    default_code = "length_required"
    default_detail = (
        "The body comes in chunks (Transfer-Encoding). Send it whole, with a Content-Length: from bytes or a text, "
        "not from a stream or a generator."
    )


class Compressed(APIException):
    status_code = 415
    default_code = "compressed"


class ApiView(APIView):
    """A call that refuses what it does not know: query parameters, and bodies that it would not read.

    query: the query parameters of a GET. Their values are in `self.asked`.
    """

    query: type[StrictSerializer] = Nothing
    asked: dict[str, Any]

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        _check_body(request)  # first: to authenticate a session may read a form
        super().initial(request, *args, **kwargs)
        request.META[USER] = request.user.pk
        is_get = request.method in ("GET", "HEAD")
        sent = Form.of(request.query_params)
        sent.pop(str(api_settings.URL_FORMAT_OVERRIDE), None)  # which the framework knows, on all calls
        query = self.query if is_get else Nothing
        if errors := unknown(sent, [*query().fields], "query parameter"):
            if not is_get:
                errors["detail"] = [f"A {request.method} takes its fields in the body, not in the address."]
            raise ValidationError(errors)
        self.asked = checked(query, dict(sent))
        if isinstance(request.data, QueryDict) and not request.data and _length(request) > 0:
            raise ParseError("The form holds no field: it is broken, or its boundary is another one.")
        if is_get and request.data:
            raise ValidationError("A GET takes its parameters in the address, such as ?limit=10, and no body.")


def checked(serializer: type[serializers.Serializer[Any]], data: Any) -> dict[str, Any]:
    """The validated data, or 400."""
    form = serializer(data=Form.of(data) if isinstance(data, QueryDict) else data)
    form.is_valid(raise_exception=True)
    result: dict[str, Any] = form.validated_data
    return result


def _check_body(request: Request) -> None:
    """Refuse a body that would be taken for an empty one, or that is too large."""
    encoding = request.META.get("HTTP_CONTENT_ENCODING", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise Compressed(f"Send the body as it is, without Content-Encoding: {encoding[:100]}.")
    if not request.META.get("CONTENT_LENGTH") and request.META.get("HTTP_TRANSFER_ENCODING"):
        raise LengthRequired
    if _length(request) > settings.DATA_UPLOAD_MAX_MEMORY_SIZE:
        raise RequestDataTooBig


def _length(request: Request) -> int:
    """Bytes of the body."""
    length = str(request.META.get("CONTENT_LENGTH") or "")
    return int(length) if length.isdecimal() else 0
