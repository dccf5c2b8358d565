"""A job's form filled in as another job has it: what `job_form.job` makes of a form, backwards.

What a job says and the form has no control for is kept as JSON in its field for anything else.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError

from app.pages.deps import Fields
from app.pages.job_form import COMMON, LISTS, NUMBERS, OTHER, TEXTS, job
from lrtune.wire.job import AdmittedJob, JobSpec

PLAIN = (*TEXTS, *(name for name in NUMBERS if not name.startswith("/baseline")), "/resources/device")
_USUAL = JobSpec.model_validate({"task": "any"}).model_dump(mode="json")


def fields(spec: AdmittedJob, params: Mapping[str, Any], *, named: Callable[[str], str]) -> Fields:
    """The form of a job; `params` is the JSON Schema of its task's, and `named` what a file's dataset is called."""
    said = spec.model_dump(mode="json")
    found = {name: text for name in PLAIN if (text := _text(_at(said, name)))}
    found |= {"/task/name": spec.task.name, "/tags": ", ".join(_tag(*one) for one in spec.tags.items())}
    found |= {"/search/sampler": spec.search.sampler.name, "/search/pruner": spec.search.pruner.name}
    unit, length = ("steps", spec.horizon.steps) if spec.horizon.steps is not None else ("epochs", spec.horizon.epochs)
    found |= {"/horizon": _text(length), "unit": unit, "/metric/name": spec.metric.name}
    found |= {"/metric/goal": spec.metric.goal} if spec.external else {}
    found |= _params(said["task"]["params"], params, named)
    for name in COMMON:
        found |= _knob(f"/{name}", said[name]) if said[name] != _USUAL[name] or spec.external else {}
    for field, (tag, _) in LISTS.items():
        for one in said[field]:
            found[f"/{field}/{one[tag]}"] = "on"
            for knob, value in one.items():
                found |= _knob(f"/{field}/{one[tag]}/{knob}", value) if knob != tag else {}
    filled = {name: [text] for name, text in found.items()}
    more = _left(spec, job(filled, params))
    return filled | ({"/more": [json.dumps(more, ensure_ascii=False)]} if more else {})


def _at(said: Mapping[str, Any], pointer: str) -> Any:
    value: Any = said
    for part in pointer.strip("/").split("/"):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _text(value: Any) -> str:
    """A value as it is typed into the form."""
    if value is None:
        return ""
    if isinstance(value, list) and all(type(one) in (int, float) for one in value):
        return ", ".join(map(_text, value))
    whole = isinstance(value, float) and value.is_integer() and abs(value) < 1e15
    return value if isinstance(value, str) else json.dumps(int(value) if whole else value, ensure_ascii=False)


def _tag(key: str, value: str) -> str:
    return f"{key}={value}" if value else key


def _params(given: Mapping[str, Any], schema: Mapping[str, Any], named: Callable[[str], str]) -> dict[str, str]:
    """The parameters that are not as usual; a dataset by the name that its owner gave it."""
    found = dict[str, str]()
    for name, value in given.items():
        usual = schema.get("properties", {}).get(name, {}).get("default")
        text = _text(value)
        if name == "dataset":
            called = named(text)
            found |= {f"/task/params/{name}": OTHER, f"/task/params/{name}{OTHER}": text} if called == text else {}
            found |= {f"/task/params/{name}": called} if called != text else {}
        elif value != usual:
            found[f"/task/params/{name}"] = text
    return found


def _knob(pointer: str, value: Any) -> dict[str, str]:
    """A knob that is fixed, searched between two ends, or none."""
    if value is None:
        return {f"{pointer}:how": "none"}
    if isinstance(value, list) and len(value) == 2 and all(type(one) in (int, float) for one in value):
        return {f"{pointer}:how": "range", pointer: _text(value[0]), f"{pointer}:to": _text(value[1])}
    if isinstance(value, bool | str):
        return {f"{pointer}:how": _text(value)}
    return {f"{pointer}:how": "fixed", pointer: _text(value)}


def _left(spec: AdmittedJob, made: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a job that the form as it is filled in does not say, or says otherwise."""
    said = spec.model_dump(mode="json")
    try:
        again = JobSpec.model_validate(made).model_dump(mode="json")
    except ValidationError:
        again = {}
    filled_in = {"task"} if spec.external else {"task", "metric"}  # as the task has them
    return {name: value for name, value in said.items() if name not in filled_in and value != again.get(name)}
