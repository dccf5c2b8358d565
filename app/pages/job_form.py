"""The form of a job: its controls, made from what tasks, schedules and optimizers say of themselves, and back to a job.

A control is named by the JSON pointer of its field, with a family's or an optimizer's name in place of its position;
so a rejected field is found by its pointer.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

from app.pages.deps import Fields
from lrtune.errors import Rejection
from lrtune.optimizers import OPTIMIZERS
from lrtune.schedules import FAMILIES, FLOOR, WARMUP
from lrtune.space import Flag, Knob, Name, Number, Numbers, knobs
from lrtune.wire.job import CLIP, DEFAULT_SCHEDULES
from lrtune.wire.strategies import Pruners, Samplers

COMMON: Mapping[str, tuple[Knob, str]] = {
    "warmup": (WARMUP, "of the run, rising"),
    "floor": (FLOOR, "of the peak, never below"),
    "clip_norm": (CLIP, "of the gradient"),
    "clip_value": (CLIP, "of each entry"),
}
LISTS: Mapping[str, tuple[str, Mapping[str, type]]] = {
    "optimizers": ("name", OPTIMIZERS),
    "schedules": ("family", FAMILIES),
}
TEXTS = ("/name", "/webhook")
NUMBERS = (
    *("/budget/full_runs", "/budget/trials", "/budget/seconds", "/confirm/top", "/confirm/seeds", "/search/seed"),
    *("/baseline/learning_rate", "/priority", "/resources/memory_gb"),
)
NAMES = (
    *("/metric/name", "/metric/goal", "/search/sampler", "/search/pruner"),
    *("/baseline/optimizer", "/baseline/schedule", "/resources/device"),
)
OTHER = ":other"  # of a list of datasets: a file that was not uploaded
SAMPLERS, PRUNERS = (
    tuple((kind.model_fields["name"].default, (kind.__doc__ or "").strip()) for kind in get_args(union))
    for union in (Samplers, Pruners)
)


@dataclass(frozen=True, slots=True)
class Control:
    """One knob as the form shows it: left to the search, fixed, or between two ends."""

    name: str
    label: str
    hint: str
    options: Sequence[str] = ()
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    whole: bool = False
    number: bool = True
    ranged: bool = True
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Pick:
    """A family or an optimizer to tick, with its knobs."""

    name: str
    label: str
    sentence: str
    controls: Sequence[Control]


def picks(field: str) -> list[Pick]:
    """Every schedule family, or every optimizer."""
    _, registry = LISTS[field]
    return [
        Pick(f"/{field}/{name}", name, (cls.__doc__ or "").strip(), list(_controls(field, name, cls)))
        for name, cls in registry.items()
    ]


def _controls(field: str, name: str, cls: type) -> Iterator[Control]:
    if field == "optimizers":
        low, high = cls.rates  # type: ignore[attr-defined]
        hint = f"searched from {low:g} to {high:g}"
        yield Control(f"/{field}/{name}/learning_rate", "learning rate", hint, low=low / 10, high=high * 10, log=True)
    for knob, kind in knobs(cls).items():
        default = cls.__dataclass_fields__[knob].default  # type: ignore[attr-defined]
        yield control(f"/{field}/{name}/{knob}", knob, kind, default)


def common() -> list[Control]:
    """The knobs around every schedule."""
    defaults = {"warmup": None, "floor": 0.0, "clip_norm": 1.0, "clip_value": None}
    found = []
    for name, (kind, of) in COMMON.items():
        made = control(f"/{name}", name, kind, defaults[name])
        found.append(replace(made, hint=f"{of}; {made.hint}"))
    return found


def control(name: str, label: str, kind: Knob, default: object) -> Control:
    """The control of a knob."""
    label = label.replace("_", " ")
    searched = getattr(kind, "search", None)
    if isinstance(kind, Number):
        high = kind.high if kind.high <= 100 else max(10.0, *(searched or (0.0,)))
        low = kind.low if not kind.above else min(1e-4, (searched or (high,))[0])
        hint = f"searched from {searched[0]:g} to {searched[1]:g}" if searched else f"{_shown(default)} unless set"
        return Control(name, label, hint, low=low, high=high, log=kind.log, whole=kind.whole, optional=kind.optional)
    options = kind.options if isinstance(kind, Name) else ("true", "false") if isinstance(kind, Flag) else ()
    hint = f"searched: {', '.join(searched)}" if searched else f"{_shown(default)} unless set"
    return Control(name, label, hint, options=options, number=False, ranged=not isinstance(kind, Numbers))


def _shown(value: object) -> str:
    if value is None:
        return "none"
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value).lower()


def usual(task: str) -> dict[str, list[str]]:
    """The form as it first stands: the defaults of a job."""
    ticked = {f"/schedules/{name}": ["on"] for name in DEFAULT_SCHEDULES}
    numbers = {"/budget/full_runs": ["20"], "/confirm/top": ["3"], "/confirm/seeds": ["3"], "/search/seed": ["0"]}
    return {"/task/name": [task], "/optimizers/adamw": ["on"], "unit": ["steps"], **ticked, **numbers}


# From the form to a job ----------------------------------------------------------------------------------------------


def job(fields: Fields, params: Mapping[str, Any]) -> dict[str, Any]:
    """The job that was filled in; `params` is the JSON Schema of its task's. What was left empty is left out."""
    made: dict[str, Any] = {"task": {"name": _text(fields, "/task/name"), "params": _params(fields, params)}}
    for name in (*TEXTS, *NUMBERS, *NAMES):
        if text := _text(fields, name):
            _put(made, name, value(text) if name in NUMBERS else text)
    if made.get("budget"):
        made["budget"] = {"full_runs": None, **made["budget"]}
    if horizon := _text(fields, "/horizon"):
        made["horizon"] = {"epochs" if _text(fields, "unit") == "epochs" else "steps": value(horizon)}
    for name in COMMON:
        _knob(made, fields, f"/{name}", name)
    for field in LISTS:
        made[field] = _ticked(fields, field)
    if tags := _text(fields, "/tags"):
        made["tags"] = dict(_tag(one) for one in tags.split(",") if one.strip())
    return made | _more(fields)


def _text(fields: Fields, name: str) -> str:
    return fields.get(name, [""])[0].strip()


def value(text: str) -> Any:
    """JSON where it is some; else the text, for the checks to refuse."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _put(target: dict[str, Any], pointer: str, value: Any) -> None:
    *above, last = pointer.strip("/").split("/")
    for part in above:
        target = target.setdefault(part, {})
    target[last] = value


def _params(fields: Fields, schema: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for name, one in schema.get("properties", {}).items():
        text = _text(fields, pointer := f"/task/params/{name}")
        if text := _text(fields, pointer + OTHER) if text == OTHER else text:
            found[name] = _param(text, one)
    return found


def _param(text: str, schema: Mapping[str, Any]) -> Any:
    """A parameter as its schema wants it: `64, 64` is a list, and text stays text."""
    if schema.get("type") == "string":
        return text
    if schema.get("type") == "array" and not text.startswith("["):
        return value(f"[{text}]")
    return value(text)


def _ticked(fields: Fields, field: str) -> list[Any]:
    tag, registry = LISTS[field]
    found: list[Any] = []
    for name, cls in registry.items():
        if _text(fields, f"/{field}/{name}"):
            made: dict[str, Any] = {tag: name}
            for knob in (*(["learning_rate"] if field == "optimizers" else []), *knobs(cls)):
                _knob(made, fields, f"/{field}/{name}/{knob}", knob)
            found.append(made if len(made) > 1 else name)
    return found


def _knob(made: dict[str, Any], fields: Fields, pointer: str, name: str) -> None:
    how, low, high = (_text(fields, f"{pointer}{end}") for end in (":how", "", ":to"))
    if how == "range":
        made[name] = [value(low), value(high)]
    elif how == "none":
        made[name] = None
    elif how:
        # A list of numbers is written as `0.5, 0.75`; a name is chosen as the way itself.
        made[name] = value(f"[{low}]") if "," in low else value(low if how == "fixed" else how)


def _tag(text: str) -> tuple[str, str]:
    key, _, value = text.partition("=")
    return key.strip(), value.strip()


def _more(fields: Fields) -> dict[str, Any]:
    """Whatever else, as JSON: what has no control of its own yet."""
    text = _text(fields, "/more")
    found = value(text) if text else {}
    return found if isinstance(found, dict) else {"more": found}


def named(rejected: Sequence[Rejection], made: Mapping[str, Any]) -> dict[str, str]:
    """Rejections by the name of the control they belong to."""
    found: dict[str, str] = {}
    for one in rejected:
        parts = one["pointer"].split("/")[1:]
        if len(parts) > 1 and parts[0] in LISTS and parts[1].isdigit() and int(parts[1]) < len(made[parts[0]]):
            item = made[parts[0]][int(parts[1])]
            parts[1] = item if isinstance(item, str) else item[LISTS[parts[0]][0]]
            parts = parts[:3]
        parts = ["metric", "name"] if parts == ["metric"] else parts
        name = "/" + "/".join(parts[:1] if parts[:1] in (["horizon"], ["tags"], *([c] for c in COMMON)) else parts)
        found.setdefault(name, one["detail"])
    return found
