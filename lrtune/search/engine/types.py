"""What a search sees: the runs so far, the options it has, and the choice it makes."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrtune.search.engine.features import embed

Array = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Run:
    """One configuration trained over one horizon, as far as it got.

    `until` is the step that it was asked to reach; `state` is running, complete, stopped or diverged. `born` orders
    runs by their beginning, where they are listed by their latest piece; `ends` are the steps at which pieces ended.
    """

    key: str
    horizon: int
    curve: tuple[float, ...]
    extras: tuple[float, ...]
    reports: tuple[tuple[int, float], ...]
    state: str = "complete"
    until: int = 0
    born: int = 0
    ends: tuple[int, ...] = ()

    @property
    def steps(self) -> int:
        """How far it got."""
        return self.reports[-1][0] if self.reports else 0


def told_once(runs: Sequence[Run]) -> list[Run]:
    """The runs, each without the reports that a run born before it has too: what two runs share was trained once.

    Told again with every run that leaves it, the beginning of many would pass for the evidence of many. The last of
    them stays: how a run stands where it leaves the others says much of where it goes.
    """
    once, seen = list(runs), set[Any]()
    for number in sorted(range(len(runs)), key=lambda number: runs[number].born):
        run, found = runs[number], dict(_histories(runs[number]))
        known = max((step for step, history in found.items() if history in seen), default=0)
        once[number] = replace(run, reports=tuple(report for report in run.reports if report[0] >= known))
        seen.update(found.values())
    return once


def _histories(run: Run) -> Iterator[tuple[int, Any]]:
    """Each report's step and what the same training has in common up to it: the rates so far, and the value."""
    curve = np.array(run.curve)
    for step, value in run.reports:
        rates = curve[: math.ceil(step / run.horizon * len(curve))].tobytes()
        yield step, (run.horizon, run.extras, rates, value)


@dataclass(frozen=True)
class Pool:
    """The options: configurations at the horizons that they may be trained over, one row each.

    `free` counts the first steps that need not be paid for (own earlier training or a shared prefix); `every` is the
    distance between reports. All rows of one configuration carry the same key.
    """

    keys: tuple[str, ...]
    horizons: Ints
    curves: Array
    extras: Array
    free: Ints
    every: Ints

    def take(self, rows: Sequence[int]) -> "Pool":
        """Some of the options."""
        return Pool(
            keys=tuple(self.keys[row] for row in rows),
            horizons=self.horizons[rows],
            curves=self.curves[rows],
            extras=self.extras[rows],
            free=self.free[rows],
            every=self.every[rows],
        )

    @cached_property
    def whole(self) -> Array:
        """Embedding of each row's whole curve."""
        return embed(self.curves, np.ones(len(self.keys)))

    @cached_property
    def centre(self) -> Array:
        """Middle of the other knobs over the pool."""
        return np.asarray(self.extras.mean(axis=0))

    @cached_property
    def unit(self) -> Array:
        """Spread of the other knobs over the pool."""
        return np.asarray(np.maximum(self.extras.std(axis=0), 1e-9))

    @cached_property
    def other(self) -> Array:
        """The other knobs in units of their spread."""
        return np.asarray((self.extras - self.centre) / self.unit)


@dataclass(frozen=True)
class Choice:
    """Train this configuration over this horizon until this step, and why."""

    key: str
    horizon: int
    until: int
    reason: str
