"""The parameters of a task that a worker announced, checked against its JSON Schema, with a sentence for each field."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from app import pointers
from lrtune.errors import Rejection
from lrtune.space import shown

LIMITS = {
    "minimum": "a number of at least {}",
    "exclusiveMinimum": "a number above {}",
    "maximum": "a number of at most {}",
    "exclusiveMaximum": "a number below {}",
    "multipleOf": "a multiple of {}",
    "minLength": "text of at least {} characters",
    "maxLength": "text of at most {} characters",
    "pattern": "text that matches {}",
    "minItems": "a list of at least {}",
    "maxItems": "a list of at most {}",
    "minProperties": "an object of at least {} fields",
    "maxProperties": "an object of at most {} fields",
}
KINDS = {"object": "an object", "array": "a list", "string": "text", "integer": "a whole number", "null": "null"}
KINDS |= {"number": "a number", "boolean": "true or false"}


def checked(given: Mapping[str, Any], schema: Mapping[str, Any]) -> tuple[dict[str, Any], list[Rejection]]:
    """The parameters with the defaults of those left out, and what is wrong with them (pointers begin at `params`)."""
    fields = schema.get("properties", {})
    defaults = {name: field["default"] for name, field in fields.items() if "default" in field}
    wrong: dict[str, Rejection] = {}
    for error in Draft202012Validator(schema).iter_errors(dict(given)):
        for one in _rejections(error):
            wrong.setdefault(one["pointer"], one)
    return defaults | dict(given), list(wrong.values())


def _rejections(error: ValidationError) -> Iterator[Rejection]:
    where: list[str | int] = list(error.absolute_path)
    found: Any = error.instance
    if error.validator == "required":
        for name in (name for name in error.validator_value if name not in found):
            yield {"pointer": pointers.pointer([*where, name]), "detail": pointers.NEEDED}
    elif error.validator == "additionalProperties" and isinstance(error.schema, Mapping):
        fields = list(error.schema.get("properties", ()))
        accepted = f"accepted fields are {', '.join(fields)}" if fields else "there are no parameters"
        for name in (name for name in found if name not in fields):
            detail = f"found an unknown field; {accepted}"
            yield {"pointer": pointers.pointer([*where, name]), "detail": detail}
    else:
        yield {"pointer": pointers.pointer(where), "detail": f"found {_shown(found)}; accepted is {_accepted(error)}"}


def _accepted(error: ValidationError) -> str:
    value: Any = error.validator_value
    if error.validator in ("anyOf", "oneOf"):
        return " or ".join(dict.fromkeys(_accepted(one) for one in error.context or ())) or "one of several forms"
    if error.validator == "enum":
        return f"one of {', '.join(_shown(one) for one in value)}"
    if error.validator == "const":
        return _shown(value)
    if error.validator == "type":
        return " or ".join(KINDS.get(kind, kind) for kind in ([value] if isinstance(value, str) else value))
    words = LIMITS.get(str(error.validator))
    return words.format(value) if words else f"what the schema says ({error.message[:200]})"


def _shown(value: object) -> str:
    return json.dumps(value) if value is None or isinstance(value, bool) else shown(value)
