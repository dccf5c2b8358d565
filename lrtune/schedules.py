"""Every learning-rate schedule: one frozen class a family, and nothing else names it.

Fields of a class are its knobs, a field's annotation holds its legal and its searched range, `__call__` is the formula,
the docstring the sentence that users see. `@family` lists the class in `FAMILIES` by its kebab-case name; wire schema,
space, catalogue, preview, export, docs and tests read that list. One that rises and falls says where (`breakpoints`).

Conventions: a factor of the peak rate; step `i` of `n`, counted from 0, has progress `u = i / n`, as in torch's closed
forms. Warm-up and floor are not families but belong to every configuration: see `Curve`.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Self, TypeAlias, TypeVar, dataclass_transform

from lrtune.shapes import between, fall, whole
from lrtune.space import Name, Number, Numbers, at_least, checked, kebab, knob_values, knobs, on_steps

Report: TypeAlias = tuple[float, float]  # (progress from 0 to 1, metric; lower is better)

WARMUP = Number(0.0, 0.9, search=(0.0, 0.1))
FLOOR = Number(0.0, 1.0)


class Schedule:
    """A pure function from progress (0 at the first step, 1 at the end) to a factor of the peak rate."""

    __slots__ = ()

    def __call__(self, u: float) -> float:
        """The factor at progress `u`."""
        raise NotImplementedError

    def over(self, steps: int) -> Callable[[int], float]:
        """The factor at each of `steps` steps, and at the end; torch's LambdaLR takes it. Raises ValueError."""
        formula = self.on_steps(at_least(1, "steps", steps))
        return lambda step: formula(min(at_least(0, "step", step), steps) / steps)

    def on_steps(self, steps: int) -> Self:
        """The same schedule with the moments and lengths that its knobs name moved to whole steps of a run."""
        return type(self)(**{name: on_steps(k, getattr(self, name), steps) for name, k in knobs(type(self)).items()})

    def breakpoints(self) -> tuple[float, ...]:
        """The progress at which its pieces meet; within a piece the factor only rises or only falls."""
        return ()

    def after(self, reports: Sequence[Report]) -> "Schedule":
        """The schedule as these reports leave it: itself, for every family that does not look at the loss."""
        return self

    def as_dict(self) -> dict[str, Any]:
        """The wire form: the family's name and its knobs."""
        return {"family": kebab(type(self)), **knob_values(self)}


class Rising(Schedule):
    """A schedule that begins low and rises by itself: nothing warms up in front of it."""

    __slots__ = ()


S = TypeVar("S", bound=Schedule)
FAMILIES: dict[str, type[Schedule]] = {}


@dataclass_transform(frozen_default=True)
def family(cls: type[S]) -> type[S]:
    """List a family. Not `__init_subclass__`: slots make a second class, and the hook would see the first."""
    made: type[S] = dataclass(frozen=True, slots=True)(cls)
    FAMILIES[kebab(made)] = made
    return made


def schedule(name: str, /, **values: object) -> Schedule:
    """The schedule of a family's name and knob values. Raises ValueError that says what would be accepted."""
    if name not in FAMILIES:
        raise ValueError(f"found the family {name!r}; accepted is one of {', '.join(FAMILIES)}")
    return FAMILIES[name](**checked(FAMILIES[name], values))


@family
class Constant(Schedule):
    """The peak rate throughout."""

    def __call__(self, u: float) -> float:
        return 1.0


@family
class Exponential(Schedule):
    """Multiply by the same factor every step, down to `final`; in stairs of `every` of the run when that is set."""

    final: Annotated[float, Number(0.0, 1.0, search=(1e-3, 0.3), log=True, above=True)] = 0.01
    every: Annotated[float, Number(0.0, 1.0, length=True)] = 0.0

    def __call__(self, u: float) -> float:
        if self.every > 0.0:
            u = self.every * whole(u / self.every)
        return math.pow(self.final, u)


@family
class ExponentialGrowth(Rising):
    """Rise from `start` to the peak by the same factor every step, as in a learning-rate range test."""

    start: Annotated[float, Number(0.0, 1.0, search=(1e-3, 0.3), log=True, above=True)] = 0.01

    def __call__(self, u: float) -> float:
        return math.pow(self.start, 1.0 - u)


@family
class Step(Schedule):
    """Multiply by `gamma` each time another `every` of the run is over."""

    gamma: Annotated[float, Number(0.0, 1.0, search=(0.1, 0.7), log=True, above=True)] = 0.1
    every: Annotated[float, Number(0.0, 1.0, search=(0.1, 0.5), above=True, length=True)] = 0.3

    def __call__(self, u: float) -> float:
        return math.pow(self.gamma, whole(u / self.every))


@family
class Multistep(Schedule):
    """Multiply by `gamma` at each of the `milestones` (fractions of the run)."""

    gamma: Annotated[float, Number(0.0, 1.0, search=(0.1, 0.7), log=True, above=True)] = 0.1
    milestones: Annotated[tuple[float, ...], Numbers(0.0, 1.0, rising=True)] = (0.5, 0.75)

    def __call__(self, u: float) -> float:
        return math.pow(self.gamma, sum(1 for milestone in self.milestones if milestone <= u + 1e-9))

    def breakpoints(self) -> tuple[float, ...]:
        return self.milestones


@family
class Piecewise(Schedule):
    """Stages, each with its own factor: `factors[k]` from `boundaries[k - 1]` on (fractions of the run)."""

    boundaries: Annotated[tuple[float, ...], Numbers(0.0, 1.0, rising=True)] = (0.5, 0.75)
    factors: Annotated[tuple[float, ...], Numbers(0.0, 1.0)] = (1.0, 0.1, 0.01)

    def __post_init__(self) -> None:
        if len(self.factors) != len(self.boundaries) + 1:
            raise ValueError(f"factors: found {len(self.factors)}; accepted is one more than there are boundaries")

    def __call__(self, u: float) -> float:
        return self.factors[sum(1 for boundary in self.boundaries if boundary <= u + 1e-9)]

    def breakpoints(self) -> tuple[float, ...]:
        return self.boundaries


@family
class Points(Schedule):
    """Straight lines between points, never rising: `factors[k]` at progress `at[k]`, level before and after them."""

    at: Annotated[tuple[float, ...], Numbers(0.0, 1.0, rising=True)] = (0.0, 0.5, 0.8, 1.0)
    factors: Annotated[tuple[float, ...], Numbers(0.0, 1.0, falling=True)] = (1.0, 0.8, 0.4, 0.0)

    def __post_init__(self) -> None:
        if len(self.factors) != len(self.at):
            raise ValueError(f"factors: found {len(self.factors)}; accepted are as many as there are moments in `at`")

    def __call__(self, u: float) -> float:
        return between(self.at, self.factors, u)

    def breakpoints(self) -> tuple[float, ...]:
        return self.at


@family
class Linear(Schedule):
    """Fall in a straight line to `final`."""

    final: Annotated[float, Number(0.0, 1.0, search=(0.0, 0.1))] = 0.0

    def __call__(self, u: float) -> float:
        return 1.0 - u * (1.0 - self.final)


@family
class LinearGrowth(Rising):
    """Rise in a straight line from `start` to the peak."""

    start: Annotated[float, Number(0.0, 1.0, search=(0.0, 0.5))] = 0.1

    def __call__(self, u: float) -> float:
        return self.start + u * (1.0 - self.start)


@family
class Polynomial(Schedule):
    """Fall to `final` along (1 - u) to the `power`."""

    power: Annotated[float, Number(0.0, 10.0, search=(0.5, 3.0), log=True, above=True)] = 2.0
    final: Annotated[float, Number(0.0, 1.0, search=(0.0, 0.1))] = 0.0

    def __call__(self, u: float) -> float:
        return self.final + (1.0 - self.final) * math.pow(1.0 - u, self.power)


@family
class InverseTime(Schedule):
    """Divide by one plus `decay` times the progress."""

    decay: Annotated[float, Number(0.0, 1e6, search=(1.0, 100.0), log=True)] = 10.0

    def __call__(self, u: float) -> float:
        return 1.0 / (1.0 + self.decay * u)


@family
class Cosine(Schedule):
    """Fall to `final` along half a cosine wave; `arc` below 1 stops part of the way down."""

    final: Annotated[float, Number(0.0, 1.0, search=(0.0, 0.1))] = 0.0
    arc: Annotated[float, Number(0.0, 1.0, above=True)] = 1.0

    def __call__(self, u: float) -> float:
        return self.final + (1.0 - self.final) * (1.0 + math.cos(math.pi * self.arc * u)) / 2.0


@family
class CosineGrowth(Rising):
    """Rise from zero to the peak along `arc` of half a cosine wave."""

    arc: Annotated[float, Number(0.0, 1.0, above=True)] = 0.5

    def __call__(self, u: float) -> float:
        # 1 - cos(x) is 2 sin²(x / 2), which does not vanish for a tiny arc
        return (math.sin(math.pi * self.arc * u / 2.0) / math.sin(math.pi * self.arc / 2.0)) ** 2


@family
class Restarts(Schedule):
    """`cycles` cycles of one `shape` down to `final`, cycle k starting at `gamma`^k, `mult` times longer each."""

    cycles: Annotated[int, Number(1, 50, search=(2, 4), whole=True)] = 3
    mult: Annotated[float, Number(1.0, 10.0)] = 1.0
    gamma: Annotated[float, Number(0.0, 1.0, search=(0.5, 1.0), above=True)] = 1.0
    shape: Annotated[str, Name(("cosine", "linear", "exponential", "constant"))] = "cosine"
    final: Annotated[float, Number(0.0, 1.0)] = 0.0

    def __call__(self, u: float) -> float:
        lengths = [self.mult**k for k in range(self.cycles)]
        place = u * sum(lengths)
        cycle = 0
        while cycle < self.cycles - 1 and place >= lengths[cycle] * (1.0 - 1e-9):
            place -= lengths[cycle]
            cycle += 1
        top = self.gamma**cycle
        final = self.final / top if top > self.final else 1.0
        return top * fall(self.shape, max(0.0, place / lengths[cycle]), final)

    def breakpoints(self) -> tuple[float, ...]:
        lengths = [self.mult**k for k in range(self.cycles)]
        return tuple(sum(lengths[:k]) / sum(lengths) for k in range(1, self.cycles))


@family
class Cyclic(Rising):
    """Triangles between `base` and the peak; their heights stay, halve each cycle, or fall as `gamma`^progress."""

    base: Annotated[float, Number(0.0, 1.0, search=(0.01, 0.5), log=True)] = 0.1
    cycles: Annotated[int, Number(1, 100, search=(2, 8), whole=True)] = 4
    mode: Annotated[str, Name(("triangular", "triangular2", "exp-range"))] = "triangular"
    gamma: Annotated[float, Number(0.0, 1.0, above=True)] = 0.1

    def __call__(self, u: float) -> float:
        cycle = whole(u * self.cycles)
        height = 1.0 - abs(2.0 * max(0.0, u * self.cycles - cycle) - 1.0)
        if self.mode == "triangular2":
            height = height / 2.0**cycle
        if self.mode == "exp-range":
            height = height * math.pow(self.gamma, u)
        return self.base + (1.0 - self.base) * height

    def breakpoints(self) -> tuple[float, ...]:
        top = 0.5  # of a cycle
        if self.mode == "exp-range" and self.gamma < 1.0:
            top = min(0.5, -self.cycles / math.log(self.gamma))  # where t * gamma^t has its peak
        return tuple((cycle + turn) / self.cycles for cycle in range(self.cycles) for turn in (0.0, top, 0.5))


@family
class Plateau(Schedule):
    """Multiply by `factor` when more than `patience` reports in a row have not improved by `threshold` (relative)."""

    factor: Annotated[float, Number(0.0, 1.0, search=(0.1, 0.7), log=True, above=True)] = 0.1
    patience: Annotated[int, Number(0, 1000, search=(1, 5), whole=True)] = 2
    threshold: Annotated[float, Number(0.0, 1.0)] = 1e-4
    final: Annotated[float, Number(0.0, 1.0)] = 0.0

    def __call__(self, u: float) -> float:
        return 1.0

    def after(self, reports: Sequence[Report]) -> Schedule:
        """The stages that these reports have made; torch's ReduceLROnPlateau, as a function of the past."""
        best, waited, factors, boundaries = math.inf, 0, [1.0], list[float]()
        for progress, value in reports:
            better = value < best if math.isinf(best) else value < best - self.threshold * abs(best)
            best, waited = (value, 0) if better else (best, waited + 1)
            if waited > self.patience:
                waited = 0
                reduced = max(factors[-1] * self.factor, self.final)
                if reduced < factors[-1]:
                    factors.append(reduced)
                    boundaries.append(progress)
        return Piecewise(boundaries=tuple(boundaries), factors=tuple(factors)) if boundaries else self


@family
class OneCycle(Rising):
    """Rise from `start` to the peak over the first `rise`, then fall to `final`; torch's OneCycleLR over steps + 1."""

    rise: Annotated[float, Number(0.0, 0.99, search=(0.1, 0.5))] = 0.3
    start: Annotated[float, Number(0.0, 1.0)] = 0.04
    final: Annotated[float, Number(0.0, 1.0)] = 0.0
    shape: Annotated[str, Name(("cosine", "linear"), search=("cosine", "linear"))] = "cosine"

    def __call__(self, u: float) -> float:
        if u < self.rise:
            return 1.0 + self.start - fall(self.shape, u / self.rise, self.start)
        return fall(self.shape, (u - self.rise) / (1.0 - self.rise), self.final)

    def breakpoints(self) -> tuple[float, ...]:
        return (self.rise,)


@family
class Wsd(Schedule):
    """Hold the peak until the last `decay`, then fall to `final`, late where `power` is above 1: the trapezoid."""

    decay: Annotated[float, Number(0.0, 1.0, search=(0.1, 0.8), above=True, length=True)] = 0.2
    shape: Annotated[str, Name(("linear", "cosine", "sqrt", "exponential"), search=("linear", "sqrt"))] = "linear"
    final: Annotated[float, Number(0.0, 1.0)] = 0.0
    power: Annotated[float, Number(0.0, 10.0, log=True, above=True)] = 1.0

    def __call__(self, u: float) -> float:
        return fall(self.shape, math.pow(max(0.0, u - (1.0 - self.decay)) / self.decay, self.power), self.final)


@family
class InverseSqrt(Schedule):
    """Divide by the square root of one plus `decay` times the progress: the Transformer's tail after its warm-up."""

    decay: Annotated[float, Number(0.0, 1e6, search=(1.0, 1000.0), log=True)] = 10.0

    def __call__(self, u: float) -> float:
        return 1.0 / math.sqrt(1.0 + self.decay * u)


@dataclass(frozen=True, slots=True)
class Curve:
    """What the rate of one configuration follows: a linear warm-up, then a family, never below `floor` of the peak.

    A warm-up rises to what the family begins with; a family that rises by itself has none. It lasts as many steps as
    Transformers makes of its `warmup_ratio`.
    """

    family: Schedule
    warmup: float = 0.0
    floor: float = 0.0
    old_warmup: bool = False  # of older databases: to the peak, over the nearest number of steps

    def rise(self, steps: int) -> int:
        """How many steps of a run of `steps` warm up; at least one is left for the family."""
        if self.old_warmup:
            return min(round(self.warmup * steps), steps - 1)
        return 0 if isinstance(self.family, Rising) else min(math.ceil(self.warmup * steps), steps - 1)

    def over(self, steps: int) -> Callable[[int], float]:
        """The factor at each of `steps` steps, and at the end, warm-up and clips included. Raises ValueError."""
        factor = self.within(at_least(1, "steps", steps))
        return lambda step: factor(min(at_least(0, "step", step), steps))

    def within(self, steps: int) -> Callable[[int], float]:
        """As `over`, of steps inside the run alone: nothing is checked."""
        rise, floor = self.rise(steps), self.floor
        after, span = self.family.on_steps(steps - rise).__call__, steps - rise
        top = 1.0 if self.old_warmup else after(0.0)
        return lambda n: min(1.0, max(floor, (n + 1) / rise * top if n < rise else after((n - rise) / span)))

    def breakpoints(self, steps: int) -> list[int]:
        """Steps that part a run of `steps`, first and last among them: between two the rate only rises or falls."""
        rise = self.rise(steps)
        span = steps - rise
        turns = [rise + math.floor(progress * span) for progress in self.family.on_steps(span).breakpoints()]
        around = {turn + near for turn in turns for near in (-1, 0, 1, 2)}  # so that no rounding leaves one in a part
        found = around | {0, rise - 1, rise, steps - 1}
        return sorted(step for step in found if 0 <= step < steps)

    def after(self, reports: Iterable[tuple[int, float | None]], steps: int) -> "Curve":
        """The curve as reports of (step, metric; lower is better) leave it; skipped: in the warm-up, or not finite."""
        rise, known = self.rise(steps), sorted((step, v) for step, v in reports if v is not None and math.isfinite(v))
        seen = [((step - rise) / (steps - rise), value) for step, value in known if rise < step < steps]
        return dataclasses.replace(self, family=self.family.after(seen))
