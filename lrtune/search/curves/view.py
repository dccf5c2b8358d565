"""What a search sees: the runs so far, the options it has, and the choice it makes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lrtune.search.curves.embed import embed

Array = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Run:
    """One configuration trained over one horizon, as far as it got.

    `until` is the step that it was asked to reach; `state` is running, complete, stopped or diverged. `born` orders
    runs by their beginning, where they are listed by their latest piece.
    """

    key: str
    horizon: int
    curve: tuple[float, ...]
    extras: tuple[float, ...]
    reports: tuple[tuple[int, float], ...]
    state: str = "complete"
    until: int = 0
    born: int = 0

    @property
    def steps(self) -> int:
        """How far it got."""
        return self.reports[-1][0] if self.reports else 0


def told_once(runs: Sequence[Run]) -> list[Run]:
    """The runs, each without the reports that a run born before it has too: what two runs share was trained once.

    Told again with every run that leaves it, the beginning of many would pass for the evidence of many. The last of
    them stays: how a run stands where it leaves the others says much of where it goes.
    """
    once, before = list(runs), dict[tuple[int, tuple[float, ...]], list[Run]]()
    for number in sorted(range(len(runs)), key=lambda number: runs[number].born):
        run = runs[number]
        others = before.setdefault((run.horizon, run.extras), [])
        if known := max((_in_common(run, other) for other in others), default=0):
            once[number] = replace(run, reports=tuple(report for report in run.reports if report[0] >= known))
        others.append(run)
    return once


def _in_common(run: Run, other: Run) -> int:
    """The last step at which two runs of equal rates have reported the same, to the last bit."""
    same = int(np.cumprod(np.equal(run.curve, other.curve)).sum()) / len(run.curve) * run.horizon
    values = dict(other.reports)
    return max((step for step, value in run.reports if step <= same and values.get(step) == value), default=0)


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
