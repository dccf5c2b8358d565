"""From pydantic's errors to rejections: where the field stands in the body that was sent, and what would be accepted.

Pydantic's own places also hold names that are no fields (union tags, validators), so each is looked up in the body.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter
from pydantic_core import ErrorDetails

from lrtune.errors import Rejection
from lrtune.space import shown
from lrtune.wire.people import PERSON

NEEDED = "found nothing; this field is needed"
PUT_IN_WORDS = 500  # rejections; more are counted
Loc = tuple[str | int, ...]
Found = Mapping[str, Any] | ErrorDetails
ELSEWHERE = {  # what is asked for at the top of a job, and where it is said
    "/learning_rate": 'it is a knob of an optimizer: "optimizers": [{"name": "adamw", "learning_rate": [1e-4, 1e-2]}]',
    "/batch_size": 'it is a parameter of a task: "task": {"name": "digits", "params": {"batch_size": 64}}',
}
EXAMPLES = {  # of fields that are objects or lists: people write the one thing that they would say
    "metric": '{"name": "val_loss"}, for a task of your own with its "goal": "minimize" or "maximize"',
    "horizon": '{"steps": 2000} or {"epochs": 5}',
    "budget": '{"full_runs": 20}',
    "confirm": '{"top": 3, "seeds": 3}',
    "search": '{"sampler": "curve", "pruner": "forecast"}',
    "training": '{"precision": "bfloat16"}',
    "resources": '{"device": "cuda"}',
    "baseline": '{"learning_rate": 3e-4, "schedule": "linear"}',
    "optimizers": '["adamw", "sgd"]',
    "schedules": '["cosine", "linear"]',
    "horizons": "[500, 0.5]",
    "try": '[{"learning_rate": 1e-3}]',
}
PATTERNS = {  # regular expressions of fields, as people would say them
    PERSON: "accepted are 1 to 64 letters without accents, digits and . _ @ + -, a letter or digit first, such as ada",
    r"^[^\x00]*$": "accepted is text without the character 0",
    r"^[^\x00-\x1f\x7f]*$": "accepted is one line of text, without control characters",
    r"^[^:\x00]+$": "accepted is text without a colon",
    r"^[a-z]{1,16}$": "accepted is a kind of device in small letters, such as cuda",
}
OBJECT, LIST = "accepted is an object", "accepted is a list"
WORDS = (  # pydantic's phrases, and how they go on after "found 3; "
    (r"^Input should be a valid (dictionary|model|JSON object).*", OBJECT),
    (r"^Input should be a valid list$", LIST),
    (r"^Input should be a valid (.*?),? .*(unable to parse|got a number with).*", r"accepted is a valid \1"),
    (r"^Input should be (greater|less|a finite)", r"accepted is a number \1"),
    (r"^a number a finite number", "a finite number"),
    (r"^Input should be ", "accepted is "),
    (r"^String should have ", "accepted is text with "),
    (r"^List should have (.*?)( after validation, not .*)?$", r"accepted is a list with \1"),
    (r"^Dictionary should have (.*?)( after validation, not .*)?$", r"accepted is an object with \1"),
    (r"^String should match pattern (.*)", r"accepted is text that matches \1"),
    (r"^(?!accepted|found)(.)", r"accepted: \1"),
)


def rejections(found: Sequence[Found], body: object, schema: Mapping[str, Any] | None = None) -> list[Rejection]:
    """One rejection a field; several reasons for the same field (the sides of a union) are joined."""
    joined: dict[str, list[str]] = {}
    for error in found[:PUT_IN_WORDS]:
        where, detail = _rejection(error, body, schema or {})
        details = joined.setdefault(where, [])
        if detail not in details:
            details.append(detail)
    for error in found[PUT_IN_WORDS:]:
        joined.setdefault(pointer(error["loc"][1:]), ["found something that is not accepted"])
    return [{"pointer": where, "detail": _joined(details)} for where, details in joined.items()]


def schema_of(annotation: Any) -> dict[str, Any]:
    """The JSON Schema of what a body should be: it knows the names of the fields."""
    return TypeAdapter(annotation).json_schema()


def pointer(parts: Sequence[str | int]) -> str:
    """A JSON pointer (RFC 6901)."""
    return "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in parts)


def anchored(one: Rejection, body: object) -> Rejection:
    """A rejection in a job's full form, whose pointer is cut where the body that was sent is shorter.

    Its task may be just a name. What is missing there is said by its own name then.
    """
    parts, kept = one["pointer"].split("/")[1:], list[str]()
    for part in parts:
        if not isinstance(body, dict | list):
            break
        kept.append(part)
        if isinstance(body, dict):
            body = body.get(part.replace("~1", "/").replace("~0", "~"), {})
        else:
            body = body[int(part)] if part.isdigit() and int(part) < len(body) else {}
    detail, below = one["detail"], ".".join(parts[len(kept) :])
    if below and detail == NEEDED:
        detail = f"found {shown(body)} without {below}; this field is needed"
    return {"pointer": "".join(f"/{part}" for part in kept), "detail": detail}


def _rejection(error: Found, body: object, schema: Mapping[str, Any]) -> tuple[str, str]:
    place, loc = error["loc"][0] if error["loc"] else "", tuple(error["loc"][1:])
    if place in ("query", "path", "header"):
        return pointer(loc[:1]), f"{place} parameter {loc[0]}: {_sentence(error, [])}"
    where = _in_body(body, loc)
    if error["type"] == "missing" and loc:
        where = (*_in_body(body, loc[:-1]), loc[-1])
    accepted = _fields(schema, schema, loc[:-1]) if error["type"] == "extra_forbidden" else []
    if "optimizers" in accepted and (elsewhere := ELSEWHERE.get(pointer(where))):
        return pointer(where), f"found no such field of a job; {elsewhere}"
    return pointer(where), _sentence(error, accepted)


def _in_body(body: object, loc: Loc) -> Loc:
    """The parts of a place that are keys and positions in the body; the reading that reaches the last part wins."""
    if not loc:
        return ()
    ways = [_in_body(body, loc[1:])]
    if (isinstance(body, dict) and loc[0] in body) or (
        isinstance(body, list) and isinstance(loc[0], int) and loc[0] < len(body)
    ):
        below: Any = body
        ways.insert(0, (loc[0], *_in_body(below[loc[0]], loc[1:])))
    return max(ways, key=lambda way: (way[-1:] == loc[-1:], len(way)))


def _sentence(error: Found, accepted: Sequence[str]) -> str:
    message, value = error["msg"].removeprefix("Value error, "), error.get("input")
    if error["type"] == "missing":
        return NEEDED
    if error["type"] == "extra_forbidden":
        return f"found an unknown field; accepted fields are {', '.join(accepted)}" if accepted else "unknown field"
    if message.startswith("found"):
        return message
    if isinstance(value, bytes):
        return "found a body that is no JSON object; accepted is one, sent with Content-Type: application/json"
    if error["type"] == "string_pattern_mismatch":
        message = PATTERNS.get(error.get("ctx", {}).get("pattern", ""), message)
    for pattern, words in WORDS:
        message = re.sub(pattern, words, message)
    if message in (OBJECT, LIST) and (example := EXAMPLES.get(str(*error["loc"][-1:]))):
        message += f", such as {example}"
    quoted = json.dumps(value) if value is None or isinstance(value, bool) else shown(value)
    return f"found {quoted}; {message}"


def _joined(details: Sequence[str]) -> str:
    """`found x; accepted is a, or b`: what was found is said once."""
    first, *more = details
    rest = [detail.partition("; ")[2].removeprefix("accepted is ") or detail for detail in more]
    return ", or ".join([first, *rest])


def _fields(node: Mapping[str, Any], schema: Mapping[str, Any], loc: Loc) -> list[str]:
    """The names of the fields at a place, read from the JSON Schema."""
    if "$ref" in node:
        return _fields(schema["$defs"][node["$ref"].rpartition("/")[2]], schema, loc)
    for sides in ("anyOf", "oneOf", "allOf"):
        tag = node.get("discriminator", {}).get("mapping", {}).get(loc[0] if loc else None)
        if tag:
            return _fields({"$ref": tag}, schema, loc[1:])
        found = [_fields(side, schema, loc) for side in node.get(sides, ())]
        if any(found):
            return max(found, key=len)
    if not loc:
        return list(node.get("properties", ()))
    below = node.get("items") if isinstance(loc[0], int) else node.get("properties", {}).get(loc[0])
    return _fields(below, schema, loc[1:]) if isinstance(below, Mapping) else []
