"""One axis of a job's space as Optuna knows it: its distribution, a draw from it, a value's parameter and back.

Options that are numbers (the √2 grid of rates, warm-ups in hundredths) become integers, their positions
0, 1, 2 ..., so that a sampler sees their order; names and flags are categories; ranges stay ranges.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Protocol, TypeAlias, cast

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from lrtune.space import Axis, Choice, Fixed, Point, Range

Distribution: TypeAlias = FloatDistribution | IntDistribution | CategoricalDistribution
Param: TypeAlias = float | int | bool | str | None
Open: TypeAlias = Range | Choice  # an axis that is searched


class Suggests(Protocol):
    """What suggests a knob's value: a trial of Optuna's, or `draw.RandomTrial`."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = ...) -> float:
        """A number between two."""

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = ...) -> int:
        """An integer between two."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of a few."""


@lru_cache(maxsize=1024)
def distribution(axis: Open) -> Distribution:
    """What Optuna draws from."""
    if isinstance(axis, Range):
        integers = IntDistribution(int(axis.low), int(axis.high), log=axis.log) if axis.whole else None
        return integers or FloatDistribution(axis.low, axis.high, log=axis.log)
    if ordered(axis):
        return IntDistribution(0, len(axis.options) - 1)
    return CategoricalDistribution([name for name in axis.options if not isinstance(name, tuple)])


def drawn(trial: Suggests, name: str, axis: Axis) -> Point:
    """The value that Optuna gives a knob; a fixed one is not asked for."""
    return drawer(name, axis)(trial)


def drawer(name: str, axis: Axis) -> Callable[[Suggests], Point]:
    """What draws a knob's value as `drawn` does, for who draws it many times."""
    if isinstance(axis, Fixed):
        value = axis.value
        return lambda _: value
    match distribution(axis):
        case FloatDistribution(low=low, high=high, log=log):
            return lambda trial: decode(axis, trial.suggest_float(name, low, high, log=log))
        case IntDistribution(low=first, high=last, log=log):
            return lambda trial: decode(axis, trial.suggest_int(name, first, last, log=log))
        case CategoricalDistribution(choices=choices):
            return lambda trial: decode(axis, trial.suggest_categorical(name, choices))


def decode(axis: Axis, param: Param) -> Point:
    """The value that a parameter stands for."""
    if isinstance(axis, Fixed):
        return axis.value
    return axis.options[int(param)] if isinstance(axis, Choice) and ordered(axis) and param is not None else param


def encode(axis: Open, value: Point) -> Param:
    """The parameter nearest to a value; None where nothing on this axis stands for it."""
    if isinstance(axis, Choice) and not ordered(axis):
        return value if value in axis.options and not isinstance(value, tuple) else None
    if not isinstance(value, float | int):
        return None
    if isinstance(axis, Range):
        return min(max(value, int(axis.low) if axis.whole else axis.low), int(axis.high) if axis.whole else axis.high)
    numbers = cast(tuple[float, ...], axis.options)
    return min(range(len(numbers)), key=lambda place: abs(numbers[place] - value))


def middle(axis: Open) -> Param:
    """The parameter in the middle of an axis: what stands for a knob that a configuration does not have."""
    if isinstance(axis, Choice):
        return len(axis.options) // 2 if ordered(axis) else encode(axis, axis.options[0])
    centre = math.sqrt(axis.low * axis.high) if axis.log else (axis.low + axis.high) / 2
    return round(centre) if axis.whole else centre


def ordered(choice: Choice) -> bool:
    """Whether the options are numbers and no names or flags: they are of one kind, so the first one tells."""
    return isinstance(choice.options[0], float | int) and not isinstance(choice.options[0], bool)


def hundredths(axis: Axis) -> Axis:
    """A range in steps of a hundredth, where it holds two of them: equal warm-ups make equal prefixes."""
    if not isinstance(axis, Range):
        return axis
    steps = range(math.ceil(axis.low * 100 - 1e-9), math.floor(axis.high * 100 + 1e-9) + 1)
    return Choice(tuple(step / 100 for step in steps)) if len(steps) > 1 else axis


def cut(axis: Axis, points: int) -> Axis:
    """An axis of numbers cut into so many evenly spaced points, both ends among them; others stay as they are."""
    if isinstance(axis, Choice) and len(axis.options) > points and ordered(axis):
        places = [round(point * (len(axis.options) - 1) / (points - 1)) for point in range(points)]
        return Choice(tuple(axis.options[place] for place in places))
    if not isinstance(axis, Range):
        return axis
    found = [_between(axis, point / (points - 1)) for point in range(points)]
    return Choice(tuple(sorted({round(value) for value in found}) if axis.whole else found))


def _between(axis: Range, share: float) -> float:
    if share in (0.0, 1.0):  # the ends themselves, unrounded
        return axis.high if share else axis.low
    if axis.log:
        return float(axis.low * (axis.high / axis.low) ** share)
    return axis.low + share * (axis.high - axis.low)
