"""Fields and query parameters that a call does not know are refused by name. A misspelt one would else do nothing."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from rest_framework import serializers
from rest_framework.exceptions import ValidationError

from runapp.parsers import Form, load

MOST_NAMED = 10
"""Unknown names that one answer lists."""
LONGEST = 100
"""Characters of an unknown name that the answer repeats."""


class StrictSerializer(serializers.Serializer[Any]):
    """Refuses fields that it does not know, together with whatever else is wrong. Reads forms as well as JSON."""

    default_error_messages = {"invalid": 'Send an object such as {{"field": "value"}}; this is of type {datatype}.'}

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, Form):
            data = self._of_form(data)
        if not isinstance(data, Mapping):
            return super().to_internal_value(data)
        writable = [name for name, field in self.fields.items() if not field.read_only]
        errors = unknown(data, writable, "field")
        errors |= {name: [f"The server sets {name!r}: leave it out."] for name in self.fields.keys() & errors}
        try:
            values = super().to_internal_value(data)
        except ValidationError as error:
            assert isinstance(error.detail, dict)
            raise ValidationError({**error.detail, **errors}) from None
        if errors:
            raise ValidationError(errors)
        return values

    def _of_form(self, form: Form) -> dict[str, Any]:
        """The fields as JSON would have them. An optional text that is empty counts as left out, as pages send them."""
        data = {}
        for name, value in form.items():
            field = self.fields.get(name)
            optional = field is not None and not field.required
            if value == "" and optional and not isinstance(field, serializers.IntegerField):
                continue  # a number may decide what a call is about: raw_data_id= is no way to say `all`
            if isinstance(field, serializers.ListField | serializers.DictField):
                value = _loaded(value)
            if isinstance(field, serializers.ListField) and isinstance(value, int | float):
                value = [value]
            data[name] = value
        return data


class Nothing(StrictSerializer):
    """A call without fields, or without query parameters."""


def unknown(names: Iterable[str], known: list[str], what: str) -> dict[str, list[str]]:
    """A message for each name that is not known, up to MOST_NAMED. what: "field" or "query parameter"."""
    errors = {}
    for name in [name for name in names if name not in known][:MOST_NAMED]:
        shown = name[:LONGEST]
        near = get_close_matches(shown, known, 1)
        guess = f" Did you mean {near[0]!r}?" if near else ""
        all_known = f"It knows {', '.join(known)}." if known else "It knows none."
        errors[shown] = [f"This call does not know the {what} {shown!r}.{guess} {all_known}"]
    return errors


def _loaded(value: Any) -> Any:
    """The value of a JSON text; anything else as it is, for the field to refuse."""
    try:
        return load(value) if isinstance(value, str) else value
    except ValueError:
        return value
