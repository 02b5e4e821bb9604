"""Every refusal has one shape: `{field: [message, ...]}`, with `detail` where no field is to blame."""

from typing import Any

from django.conf import settings
from django.core.exceptions import RequestDataTooBig, TooManyFieldsSent, TooManyFilesSent
from django.http import HttpRequest, JsonResponse
from django.http.multipartparser import MultiPartParserError
from rest_framework.exceptions import APIException, ErrorDetail, ParseError, UnsupportedMediaType
from rest_framework.response import Response
from rest_framework.views import exception_handler as drf_handler

READABLE = (
    "The body can't be read by its Content-Type. Send JSON with application/json, or a form with "
    "application/x-www-form-urlencoded or multipart/form-data."
)

Errors = dict[str, list[str]]


class BodyTooLarge(APIException):
    status_code = 413
    default_code = "too_large"


def exception_handler(exception: Exception, context: dict[str, Any]) -> Response | None:
    if isinstance(exception, RequestDataTooBig):
        exception = BodyTooLarge(f"A request may have {settings.DATA_UPLOAD_MAX_MEMORY_SIZE} bytes at most.")
    elif isinstance(exception, TooManyFieldsSent | TooManyFilesSent):
        most = settings.DATA_UPLOAD_MAX_NUMBER_FIELDS
        exception = ParseError(f"A form may have {most} fields at most: send a list as JSON text in one field.")
    elif isinstance(exception, UnsupportedMediaType):
        exception.detail = ErrorDetail(READABLE, exception.default_code)
    elif isinstance(exception, MultiPartParserError):  # where Django has read the form, to authenticate a session
        exception = ParseError(f"Multipart form parse error - {exception}")
    response = drf_handler(exception, context)
    if response is not None:
        response.data = _flat(response.data)
    return response


def not_found(request: HttpRequest, exception: Exception | None = None) -> JsonResponse:
    return JsonResponse({"detail": [f"There is nothing at {request.path}; /docs/ lists what there is."]}, status=404)


def server_error(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"detail": ["The server failed; its log says why."]}, status=500)


def _flat(data: Any, path: str = "") -> Errors:
    """Nested errors by their path: {'files': {'a.py': ['bad']}} -> {'files.a.py': ['bad']}; a list's items as [0]."""
    if isinstance(data, dict):
        nested = [(_join(path, key), value) for key, value in data.items()]
    elif isinstance(data, list) and any(isinstance(item, dict | list) for item in data):
        nested = [(f"{path}[{index}]", value) for index, value in enumerate(data)]
    else:
        messages = [_text(item) for item in data] if isinstance(data, list) else [_text(data)]
        return {path or "detail": messages} if messages else {}
    flat: Errors = {}
    for key, value in nested:
        for name, messages in _flat(value, key).items():
            flat.setdefault(name.replace("non_field_errors", "detail"), []).extend(messages)
    return flat


def _join(path: str, key: Any) -> str:
    if isinstance(key, int):
        return f"{path}[{key}]"
    return f"{path}.{_text(key)}" if path else _text(key)


def _text(value: Any) -> str:
    """What a caller sent may hold half a surrogate pair, which can't be answered with: as its escape."""
    return str(value).encode("utf-8", "backslashreplace").decode()
