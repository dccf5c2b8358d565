"""The answer as data: JSON and CSV with the exact rate of every step, piece by piece: a run may have 10^8 steps."""

import json as lib
from collections.abc import Iterator

from lrtune.export.found import Exported, Found

STEPS = 4096  # in one piece


def json(found: Found) -> Exported:
    """The answer, and the rate of every step."""
    return Exported(lambda: _json(found), "application/json", "learning_rate.json")


def _json(found: Found) -> Iterator[str]:
    answer = lib.dumps((found.at or found.best).model_dump(mode="json"), indent=2).removesuffix("\n}")
    yield f'{answer},\n  "learning_rates": [\n    '
    for start, rates in _pieces(found):
        yield (",\n    " if start else "") + ",\n    ".join(map(repr, rates))
    yield "\n  ]\n}\n"


def csv(found: Found) -> Exported:
    """Step and rate."""
    return Exported(lambda: _csv(found), "text/csv", "learning_rate.csv")


def _csv(found: Found) -> Iterator[str]:
    yield "step,learning_rate\n"
    for start, rates in _pieces(found):
        yield "".join([f"{step},{rate!r}\n" for step, rate in enumerate(rates, start)])


def _pieces(found: Found) -> Iterator[tuple[int, Iterator[float]]]:
    """The first step of each piece, and the rates of its steps."""
    factor, peak = found.curve.over(found.steps), found.configuration.learning_rate
    for start in range(0, found.steps, STEPS):
        yield start, map(peak.__mul__, map(factor, range(start, min(start + STEPS, found.steps))))
