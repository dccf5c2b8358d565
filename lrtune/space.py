"""What may be searched: the kinds of knob, how a job writes them, and the axes they become.

A knob is an annotation on a field of a schedule family or an optimizer. In a job a number fixes it, a pair
`[low, high]` is a range, a list of names is a choice, and leaving it out takes the knob's own search range.
To add a kind of knob, write one more class with `parse`, `axis` and `schema`.
"""

import itertools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, TypeAlias, get_args, get_origin, get_type_hints

Point: TypeAlias = float | int | bool | str | tuple[float, ...] | None
GRID = math.sqrt(2.0)  # the ratio of neighbouring peak rates: costs about 0.001 nats, and makes prefixes meet


@dataclass(frozen=True, slots=True)
class Fixed:
    """An axis that is not searched."""

    value: Point


@dataclass(frozen=True, slots=True)
class Range:
    """An axis of numbers between two ends, both included."""

    low: float
    high: float
    log: bool = False
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Choice:
    """An axis of a few options; numbers when it is a grid, cut from what lies between two `ends`."""

    options: tuple[Point, ...]
    ends: tuple[float, float] | None = field(default=None, compare=False)


Axis: TypeAlias = Fixed | Range | Choice


@dataclass(frozen=True, slots=True)
class Space:
    """Everything one job may try: optimizers and families with the axes of their knobs, and the knobs around them."""

    optimizers: Mapping[str, Mapping[str, Axis]]
    schedules: Mapping[str, Mapping[str, Axis]]
    common: Mapping[str, Axis]

    def rates(self, optimizer: str) -> tuple[float, float] | None:
        """The lowest and the highest peak rate of an optimizer; None where it was not asked for."""
        axis = self.optimizers.get(optimizer, {}).get("learning_rate")
        points = axis.options if isinstance(axis, Choice) else (getattr(axis, "value", None),)
        rates = [point for point in points if isinstance(point, float | int)]
        return (min(rates), max(rates)) if rates else None

    def ends(self, optimizer: str) -> tuple[float, float] | None:
        """What the peak rates of an optimizer lie between, as the job says it; None where it was not asked for."""
        axis = self.optimizers.get(optimizer, {}).get("learning_rate")
        return (axis.ends if isinstance(axis, Choice) else None) or self.rates(optimizer)

    def allows(self, optimizer: str, family: str, rate: float) -> bool:
        """Whether an optimizer at a peak rate under a schedule family lies in the space."""
        ends = self.ends(optimizer)
        return ends is not None and family in self.schedules and within(ends, rate)


def within(ends: tuple[float, float], value: float) -> bool:
    """Whether a number lies between two, but for rounding."""
    return ends[0] - 1e-9 * abs(ends[0]) <= value <= ends[1] + 1e-9 * abs(ends[1])


def at_least(least: int, name: str, found: int) -> int:
    """The number itself. Raises ValueError that names it where it is below the least that is accepted."""
    if not found >= least:
        raise ValueError(f"{name}: found {found}; accepted is {least} or more")
    return found


def shown(value: object) -> str:
    """A value as an error message quotes it: short, whatever came in."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


@dataclass(frozen=True, slots=True)
class Number:
    """A number with legal ends (`low` itself left out when `above`), and the range searched when a job names none."""

    low: float
    high: float
    search: tuple[float, float] | None = None
    log: bool = False
    whole: bool = False
    above: bool = False
    optional: bool = False
    length: bool = False  # a share of the run that lasts whole steps

    def accepted(self) -> str:
        """What would be accepted, in words."""
        kind = "a whole number" if self.whole else "a number"
        ends = f"above {self.low:g}" if self.above else f"of at least {self.low:g}"
        most = "" if math.isinf(self.high) else f" and at most {self.high:g}"
        return f"{kind} {ends}{most}"

    def point(self, value: object) -> float | int | None:
        """One legal value. Raises ValueError that says what would be accepted."""
        if value is None and self.optional:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not self._inside(value):
            raise ValueError(f"found {shown(value)}; accepted is {self.accepted()}{' or null' * self.optional}")
        return int(value) if self.whole else float(value)

    def _inside(self, value: float) -> bool:
        if abs(value) > 1e300 or not math.isfinite(value) or (self.whole and value != int(value)):
            return False
        return (self.low < value if self.above else self.low <= value) and value <= self.high

    def parse(self, value: object) -> Any:
        """A job's way to write this knob: a number, or a pair [low, high]. Raises ValueError."""
        if not isinstance(value, list | tuple):
            return self.point(value)
        if len(value) != 2:
            raise ValueError(f"found {shown(value)}; accepted is {self.accepted()}, or a range [low, high] of two")
        low, high = (self.point(end) for end in value)
        if low is None or high is None or low >= high:
            raise ValueError(f"found the range {shown(list(value))}; accepted is [low, high] with low below high")
        return (low, high)

    def axis(self, value: Any, default: Point) -> Axis:
        """The axis that a parsed value stands for; `None` (left out) takes the search range, else the default."""
        chosen = self.search if value is None else value
        if isinstance(chosen, tuple):
            low, high = chosen
            return Range(low, high, log=self.log and low > 0, whole=self.whole)
        return Fixed(default if chosen is None else chosen)

    def schema(self) -> dict[str, Any]:
        """JSON Schema of what `parse` takes."""
        one: dict[str, Any] = self.point_schema()
        numbers = {key: value for key, value in one.items() if key != "type"}
        kind = "integer" if self.whole else "number"
        pair = {"type": "array", "items": {"type": kind, **numbers}, "minItems": 2, "maxItems": 2}
        return {"anyOf": [one, {**pair, "description": "a range [low, high], low below high"}]}

    def point_schema(self) -> dict[str, Any]:
        """JSON Schema of one value."""
        least = "exclusiveMinimum" if self.above else "minimum"
        ends = {least: self.low} | ({} if math.isinf(self.high) else {"maximum": self.high})
        kind = "integer" if self.whole else "number"
        return {"type": [kind, "null"] if self.optional else kind, **ends}


@dataclass(frozen=True, slots=True)
class Name:
    """One of a few names."""

    options: tuple[str, ...]
    search: tuple[str, ...] | None = None

    def point(self, value: object) -> str:
        """One legal name. Raises ValueError that lists them."""
        if value not in self.options:
            raise ValueError(f"found {shown(value)}; accepted is one of {', '.join(self.options)}")
        return str(value)

    def parse(self, value: object) -> Any:
        """A name, or a list of names to choose from. Raises ValueError."""
        if not isinstance(value, list | tuple):
            return self.point(value)
        if not value or len({str(one) for one in value}) < len(value):
            raise ValueError(f"found {shown(value)}; accepted are different names from {', '.join(self.options)}")
        return tuple(self.point(one) for one in value)

    def axis(self, value: Any, default: Point) -> Axis:
        """The axis that a parsed value stands for."""
        chosen = self.search if value is None else value
        if isinstance(chosen, tuple):
            return Choice(chosen) if len(chosen) > 1 else Fixed(chosen[0])
        return Fixed(default if chosen is None else chosen)

    def schema(self) -> dict[str, Any]:
        """JSON Schema of what `parse` takes."""
        return {
            "anyOf": [
                self.point_schema(),
                {"type": "array", "items": self.point_schema(), "minItems": 1, "uniqueItems": True},
            ]
        }

    def point_schema(self) -> dict[str, Any]:
        """JSON Schema of one name."""
        return {"enum": list(self.options)}


@dataclass(frozen=True, slots=True)
class Flag:
    """On or off; never searched unless a job asks for [true, false]."""

    def point(self, value: object) -> bool:
        """True or false. Raises ValueError."""
        if not isinstance(value, bool):
            raise ValueError(f"found {shown(value)}; accepted is true or false")
        return value

    def parse(self, value: object) -> Any:
        """A flag, or [true, false] to try both. Raises ValueError."""
        if isinstance(value, list | tuple):
            if sorted(map(self.point, value)) != [False, True]:
                raise ValueError(f"found {shown(value)}; accepted is true, false or [true, false]")
            return (True, False)
        return self.point(value)

    def axis(self, value: Any, default: Point) -> Axis:
        """The axis that a parsed value stands for."""
        return Choice(value) if isinstance(value, tuple) else Fixed(default if value is None else value)

    def schema(self) -> dict[str, Any]:
        """JSON Schema of what `parse` takes."""
        both = {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 2, "uniqueItems": True}
        return {"anyOf": [self.point_schema(), both]}

    def point_schema(self) -> dict[str, Any]:
        """JSON Schema of one value."""
        return {"type": "boolean"}


@dataclass(frozen=True, slots=True)
class Numbers:
    """A list of numbers, given as a whole and never searched; `rising` when they are moments of the run.

    Of a `falling` one no number is above the one before it.
    """

    low: float
    high: float
    rising: bool = False
    falling: bool = False

    def point(self, value: object) -> tuple[float, ...]:
        """A legal list. Raises ValueError."""
        one = Number(self.low, self.high)
        if not isinstance(value, list | tuple) or not 1 <= len(value) <= 100:
            raise ValueError(f"found {shown(value)}; accepted is a list of 1 to 100 numbers, each {one.accepted()}")
        numbers = tuple(float(one.point(number) or 0.0) for number in value)
        if self.rising and any(a >= b for a, b in itertools.pairwise(numbers)):
            raise ValueError(f"found {shown(list(value))}; accepted is a list that rises")
        if self.falling and any(a < b for a, b in itertools.pairwise(numbers)):
            raise ValueError(f"found {shown(list(value))}; accepted is a list that never rises")
        return numbers

    parse = point

    def axis(self, value: Any, default: Point) -> Axis:
        """The axis that a parsed value stands for: always a fixed one."""
        return Fixed(default if value is None else value)

    def schema(self) -> dict[str, Any]:
        """JSON Schema of what `parse` takes."""
        return {"type": "array", "items": Number(self.low, self.high).point_schema(), "minItems": 1, "maxItems": 100}

    point_schema = schema


Knob: TypeAlias = Number | Name | Flag | Numbers


def knobs(cls: type) -> dict[str, Knob]:
    """The knobs of a family or an optimizer: its annotated fields, in order."""
    return dict(_knobs(cls))


@cache
def _knobs(cls: Any) -> dict[str, Knob]:
    hints = get_type_hints(cls, include_extras=True)
    return {name: get_args(hint)[1] for name, hint in hints.items() if get_origin(hint) is Annotated}


def knob_values(holder: object) -> dict[str, Point]:
    """The values of the knobs of a schedule or an optimizer, in order."""
    return {name: getattr(holder, name) for name in knobs(type(holder))}


def on_steps(kind: Knob, value: Any, steps: int) -> Any:
    """A knob's value in a run of `steps`: a length that is not 0 lasts whole steps, moments come after whole steps."""
    if isinstance(kind, Numbers) and kind.rising:
        return tuple(round(moment * steps) / steps for moment in value)
    if isinstance(kind, Number) and kind.length and value:
        return max(1, round(value * steps)) / steps
    return value


def kebab(cls: type) -> str:
    """What a family or an optimizer is called: OneCycle is one-cycle."""
    return _kebab(cls.__name__)


@cache
def _kebab(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "-", name).lower()


def checked(cls: type, values: Mapping[str, object]) -> dict[str, Any]:
    """Legal field values for `cls` from a plain mapping. Raises ValueError naming the knob."""
    known = knobs(cls)
    for name in values:
        if name not in known:
            raise ValueError(f"{name}: no such knob; accepted are {', '.join(known) or 'none'}")
    found = {}
    for name, value in values.items():
        try:
            found[name] = known[name].point(value)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return found


def rates(low: float, high: float, anchor: float) -> tuple[float, ...]:
    """The peak rates between two ends on the √2 grid through `anchor`; the ends themselves if none lies between."""
    first, last = (math.log(end / anchor, GRID) for end in (low, high))
    steps = range(math.ceil(first - 1e-9), math.floor(last + 1e-9) + 1)
    grid = tuple(anchor * 2.0 ** (step / 2) for step in steps)
    return grid if len(grid) > 1 else (low, high)
