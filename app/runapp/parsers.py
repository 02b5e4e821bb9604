"""Request bodies: JSON and forms. settings.DATA_UPLOAD_MAX_MEMORY_SIZE bounds their size before they are read."""

import json
from collections.abc import Mapping
from typing import Any

from django.core.files import File
from django.http import QueryDict
from rest_framework.exceptions import ParseError, ValidationError
from rest_framework.parsers import JSONParser
from rest_framework.utils.json import strict_constant

MOST_VALUES = 500_000
"""Values of a JSON text, which may take thirty times its memory: 10,000 folds have 200,000, files included."""

CSRF_FIELD = "csrfmiddlewaretoken"
"""The field by which a page of this server proves that it sent the form. No call gets to see it."""


class SafeJSONParser(JSONParser):
    """JSON. Refuses nesting that would exhaust the stack, and objects that have a key twice."""

    def parse(
        self, stream: Any, media_type: str | None = None, parser_context: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        try:
            return load(stream.read().decode())  # JSON is UTF-8, whatever else the caller says
        except ValueError as error:
            raise ParseError(f"JSON parse error - {error}") from None


class Form(dict[str, Any]):
    """The fields of a form or of an address: a text each, or a list of texts where a field is repeated."""

    @classmethod
    def of(cls, sent: QueryDict) -> "Form":
        """Reads the files of a multipart form as texts. ParseError for JSON that is labelled as a form."""
        form = cls()
        for name, values in sent.lists():
            if name.lstrip()[:1] in ("{", "[") and len(sent) == 1:
                raise ParseError("The body is JSON, sent as a form: add the header Content-Type: application/json.")
            if name != CSRF_FIELD:
                texts = [_text(name, value) for value in values]
                form[name] = texts if len(texts) > 1 else texts[0]
        return form


def load(text: str) -> Any:
    """The value of a JSON text. ValueError where it is not JSON, or ambiguous."""
    if len(text) > MOST_VALUES and sum(map(text.count, ",:[{")) > MOST_VALUES:
        raise ValueError(f"more than {MOST_VALUES} values, or text with as many commas: send less in one request")
    try:
        return json.loads(text, parse_constant=strict_constant, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"an object has the key {name[:100]!r} twice")
        found[name] = value
    return found


def _text(name: str, value: Any) -> str:
    if not isinstance(value, File):
        return str(value)
    try:
        return value.read().decode()
    except UnicodeDecodeError:
        raise ValidationError({name[:100]: "Send UTF-8 text."}) from None
