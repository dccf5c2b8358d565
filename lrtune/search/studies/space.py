"""A job's space in Optuna's coordinates, and the way back: configurations to parameters, draws to configurations.

Every knob has a name of its own (`adamw.learning_rate`, `wsd.decay`, `warmup`). Those of an optimizer or a family exist
only under it, and warm-up only under a family that does not rise by itself, unless a sampler needs all of them always
(`flat`). How one axis is written stands in `axes.py`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from optuna.distributions import BaseDistribution

from lrtune.optimizers import OPTIMIZERS
from lrtune.schedules import FAMILIES
from lrtune.search.studies import axes
from lrtune.search.studies.axes import Param, Suggests
from lrtune.space import Axis, Choice, Fixed, Point, Range
from lrtune.wire.configuration import Configuration, rises
from lrtune.wire.job import JobSpec

Axes: TypeAlias = Mapping[str, Axis]
COMMON = ("warmup", "floor", "clip_norm", "clip_value")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a configuration stands: its parameters, and what each was drawn from."""

    params: Mapping[str, Param]
    distributions: Mapping[str, BaseDistribution]


class _Kind:
    """What draws the knobs of an optimizer under a family, by name, and which of them are whose."""

    def __init__(self, optimizer: str, family: str, own: Axes) -> None:
        self.own = own
        self.drawers = {name: axes.drawer(name, axis) for name, axis in own.items()}
        self._optimizer, self._schedule = OPTIMIZERS[optimizer], FAMILIES[family]
        self._static, self._shape = _under(f"{optimizer}.", own), _under(f"{family}.", own)
        self._common = [knob for knob in COMMON if knob in own]

    def configuration(self, values: Mapping[str, Any]) -> Configuration:
        """The configuration of named values, which need no check: each is one of its axis."""
        static = {knob: values[name] for knob, name in self._static}
        return Configuration(
            learning_rate=static.pop("learning_rate"),
            optimizer=self._optimizer(**static),
            schedule=self._schedule(**{knob: values[name] for knob, name in self._shape}),
            **{knob: values[knob] for knob in self._common},
        )


def _under(prefix: str, names: Iterable[str]) -> list[tuple[str, str]]:
    """Each knob under a prefix, and its whole name."""
    return [(name.removeprefix(prefix), name) for name in names if name.startswith(prefix)]


@dataclass(frozen=True, slots=True)
class Coordinates:
    """The named axes of a job: those that choose, those under each choice, those that are always there."""

    first: Axes
    optimizers: Mapping[str, Axes]
    schedules: Mapping[str, Axes]
    common: Axes
    flat: bool = False
    _kinds: dict[tuple[str, str], _Kind] = field(default_factory=dict, init=False, repr=False, compare=False)

    def draw(self, trial: Suggests) -> Configuration:
        """Ask for one knob after the other."""
        name = str(axes.drawn(trial, "optimizer", self.first["optimizer"]))
        first = self._first(name)
        family = axes.drawn(trial, "schedule", (self.first if self.flat else first)["schedule"])
        kind = self._kind(name, str(getattr(first["schedule"], "value", family)))
        if self.flat:
            return kind.configuration({name: axes.drawn(trial, name, axis) for name, axis in self._all().items()})
        return kind.configuration({name: drawer(trial) for name, drawer in kind.drawers.items()})

    def place(self, configuration: Configuration) -> Place | None:
        """Where a configuration stands, clipped into the space; None where it has no place in it."""
        values = _spelled(configuration)
        if values["optimizer"] not in self.optimizers or values["schedule"] not in self.schedules:
            return None
        name, family = str(values["optimizer"]), str(values["schedule"])
        own = {**(self.first if self.flat else self._first(name)), **self._kind(name, family).own}
        asked = {**self.first, **self._all()} if self.flat else own
        searched = {name: axis for name, axis in asked.items() if not isinstance(axis, Fixed)}
        params = {n: axes.encode(axis, values[n]) if n in own else axes.middle(axis) for n, axis in searched.items()}
        if None in params.values():
            return None
        return Place(params, {name: axes.distribution(axis) for name, axis in searched.items()})

    def exactly(self, configuration: Configuration) -> Place | None:
        """Where a configuration stands; None as well where it had to be clipped."""
        values, place = _spelled(configuration), self.place(configuration)
        if place is None:
            return None
        name, family = str(values["optimizer"]), str(values["schedule"])
        own = {**self._first(name), **self._kind(name, family).own}
        same = all(axes.decode(axis, place.params.get(name)) == values[name] for name, axis in own.items())
        return place if same else None

    def at_rate(self, configuration: Configuration, rate: float) -> Configuration:
        """The same at the rate of the space that is nearest to this one."""
        name = configuration.kind[0]
        axis = self.optimizers[name][f"{name}.learning_rate"]
        if isinstance(axis, Fixed):
            return configuration
        return configuration.model_copy(update={"learning_rate": axes.decode(axis, axes.encode(axis, rate))})

    def finite(self) -> bool:
        """Whether there is an end to the space: no axis of it is continuous."""
        return not any(isinstance(axis, Range) and not axis.whole for axis in self._all().values())

    def _first(self, optimizer: str) -> Axes:
        """The axes that choose, once the optimizer is known: some go with one family alone."""
        families = OPTIMIZERS[optimizer].families
        return self.first if families is None else {**self.first, "schedule": Fixed(families[0])}

    def _kind(self, optimizer: str, family: str) -> _Kind:
        """The axes that exist under an optimizer and a family."""
        if (optimizer, family) not in self._kinds:
            common = {name: axis for name, axis in self.common.items() if not (name == "warmup" and rises(family))}
            own = {**self.optimizers[optimizer], **self.schedules[family], **common}
            self._kinds[optimizer, family] = _Kind(optimizer, family, own)
        return self._kinds[optimizer, family]

    def _all(self) -> Axes:
        groups = (*self.optimizers.values(), *self.schedules.values(), self.common)
        return {name: axis for group in groups for name, axis in group.items()}


def coordinates(spec: JobSpec, *, flat: bool = False, points: int | None = None) -> Coordinates:
    """The coordinates of a job's space; `points` cuts every range into so many."""
    space = spec.space()

    def named(prefix: str, knobs: Axes) -> Axes:
        return {prefix + name: axis if points is None else axes.cut(axis, points) for name, axis in knobs.items()}

    return Coordinates(
        first={"optimizer": _one_of(space.optimizers), "schedule": _one_of(space.schedules)},
        optimizers={name: named(f"{name}.", knobs) for name, knobs in space.optimizers.items()},
        schedules={name: named(f"{name}.", knobs) for name, knobs in space.schedules.items()},
        common=named("", {**space.common, "warmup": axes.hundredths(space.common["warmup"])}),
        flat=flat,
    )


def _one_of(names: Mapping[str, object]) -> Axis:
    return Choice(tuple(names)) if len(names) > 1 else Fixed(next(iter(names)))


def _spelled(configuration: Configuration) -> dict[str, Point]:
    """The named values of a configuration."""
    static, shape = configuration.optimizer.as_dict(), configuration.schedule.as_dict()
    name, family = static.pop("name"), shape.pop("family")
    values: dict[str, Point] = {"optimizer": name, "schedule": family}
    values[f"{name}.learning_rate"] = configuration.learning_rate
    values |= {f"{name}.{knob}": value for knob, value in static.items()}
    values |= {f"{family}.{knob}": value for knob, value in shape.items()}
    return values | {knob: getattr(configuration, knob) for knob in COMMON}
