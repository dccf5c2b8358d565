"""Which of the answer's knobs sit at an end of what was searched: there the best may lie beyond it."""

import math
from collections.abc import Iterator, Mapping

from lrtune.analysis.words import short
from lrtune.optimizers import LEARNING_RATE, OPTIMIZERS
from lrtune.schedules import FAMILIES, FLOOR, WARMUP
from lrtune.space import Axis, Choice, Number, Range, knobs, within
from lrtune.wire.configuration import Configuration
from lrtune.wire.job import CLIP, AdmittedJob
from lrtune.wire.report import Edge, End

NEAR = 0.05  # of a range, on its own scale, within which its end is reached
PLURAL = {
    "learning_rate": "learning rates",
    "warmup": "warm-ups",
    "floor": "floors",
    "clip_norm": "clip norms",
    "clip_value": "clip values",
}


def edges(spec: AdmittedJob, answer: Configuration) -> list[Edge]:
    """The ends at which an answer's knobs sit, but for those beyond which no value is legal."""
    found = []
    for name, value, axis, kind in _searched(spec, answer):
        ends = _ends(axis, value)
        legal: Mapping[End, float] = {"low": kind.low, "high": kind.high}
        for end, limit in ends.items():
            if limit != legal[end] and _reached(value, limit, axis, ends):
                found.append(Edge(knob=name, end=end, value=value, searched=(ends["low"], ends["high"]), words=""))
    return [edge.model_copy(update={"words": _words(edge)}) for edge in found]


def _searched(spec: AdmittedJob, answer: Configuration) -> Iterator[tuple[str, float, Axis, Number]]:
    """The answer's numeric knobs that the job searched: name, value, axis, and which values are legal."""
    (optimizer, family), space = answer.kind, spec.space()
    kinds = {
        **knobs(OPTIMIZERS[optimizer]),
        **knobs(FAMILIES[family]),
        **{"learning_rate": LEARNING_RATE, "warmup": WARMUP, "floor": FLOOR, "clip_norm": CLIP, "clip_value": CLIP},
    }
    places: tuple[tuple[object, Mapping[str, Axis]], ...] = (
        (answer, {"learning_rate": space.optimizers.get(optimizer, {}).get("learning_rate", Choice(()))}),
        (answer.optimizer, space.optimizers.get(optimizer, {})),
        (answer.schedule, space.schedules.get(family, {})),
        (answer, space.common),
    )
    for owner, axes in places:
        for name, axis in axes.items():
            value, kind = getattr(owner, name, None), kinds.get(name)
            if isinstance(value, float | int) and not isinstance(value, bool) and isinstance(kind, Number):
                yield name, value, axis, kind


def _ends(axis: Axis, value: float) -> dict[End, float]:
    """Both ends of an axis; nothing where it is none of numbers, or a single one.

    A value that lies beyond a grid and inside the range that it is cut from, as one of `try` may, is itself the end.
    """
    if isinstance(axis, Range):
        return {"low": axis.low, "high": axis.high}
    points = [point for point in axis.options if isinstance(point, float | int)] if isinstance(axis, Choice) else []
    if len(points) > 1 and isinstance(axis, Choice) and axis.ends and within(axis.ends, value):
        points = [*points, value]
    return {"low": min(points), "high": max(points)} if len(points) > 1 else {}


def _reached(value: float, limit: float, axis: Axis, ends: Mapping[End, float]) -> bool:
    if isinstance(axis, Choice) or (isinstance(axis, Range) and axis.whole):
        return math.isclose(value, limit, rel_tol=1e-9)
    scale = math.log if isinstance(axis, Range) and axis.log else float
    if not ends["low"] <= value <= ends["high"]:
        return False
    return abs(scale(value) - scale(limit)) <= NEAR * (scale(ends["high"]) - scale(ends["low"]))


def _words(edge: Edge) -> str:
    side, way = ("lower", "downwards") if edge.end == "low" else ("upper", "upwards")
    what = PLURAL.get(edge.knob, f"values of {edge.knob}")
    low, high = map(short, edge.searched)
    searched = f"{short(edge.value)} of {low} to {high}"
    return f"the answer sits at the {side} end of the {what} searched, {searched}: widen `{edge.knob}` {way}"
