"""What the engine is given and what it answers: the runs so far, the pool of options, and a decision."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import blake2b
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lrtune.search.engine.features import embed

Array = NDArray[np.float64]
Ints = NDArray[np.int64]
State = Literal["running", "complete", "paused", "diverged"]
History: TypeAlias = tuple[int, tuple[float, ...], bytes, float]


@dataclass(frozen=True)
class Run:
    """One configuration trained over one horizon, as far as it got.

    `key` is the configuration's, the same at all horizons; `curve` its learning rates at evenly spaced points of the
    horizon; `extras` its other hyper-parameters as numbers; `reports` pairs of step and value, lower being better, NaN
    where it diverged. `state` is running, complete, diverged, or paused: trained so far, and may go on. `until` is the
    step that it was asked to reach; a paused run that did not reach it was stopped by a pruner. `born` orders runs by
    their beginning, where they are listed by their latest stage; `ends` are the steps at which stages ended;
    `resumes_at` is where a paused one goes on, if not where it stands; `family` names its schedule's, which the model
    does not see.
    """

    key: int
    horizon: int
    curve: tuple[float, ...]
    extras: tuple[float, ...]
    reports: tuple[tuple[int, float], ...]
    state: State = "complete"
    until: int = 0
    born: int = 0
    ends: tuple[int, ...] = ()
    family: str = ""
    resumes_at: int | None = None

    @property
    def steps(self) -> int:
        """How far it got."""
        return self.reports[-1][0] if self.reports else 0

    @cached_property
    def so_far(self) -> "Run":
        """The run as far as it got: what it is expected to come to would pass for knowledge of its end."""
        return self if self.until == self.steps else replace(self, until=self.steps)

    @cached_property
    def span(self) -> tuple[float, float]:
        """The least and the greatest value that it has reported, but for NaN; of none, infinite the other way round."""
        seen = [value for _, value in self.reports if not math.isnan(value)]
        return min(seen, default=math.inf), max(seen, default=-math.inf)

    @property
    def ready(self) -> int:
        """How many of its steps need not be trained once more to go on."""
        return self.steps if self.resumes_at is None else self.resumes_at

    @property
    def best(self) -> float:
        """The lowest value that it has reported."""
        return min((value for _, value in self.reports if math.isfinite(value)), default=math.inf)

    def completed(self, horizon: int) -> bool:
        """Whether it was trained to the end of this horizon."""
        return self.horizon == horizon and self.steps >= horizon and self.state != "diverged"

    @cached_property
    def histories(self) -> list[tuple[int, History]]:
        """Each report's step and what the same training has in common up to it: the rates so far, and the value."""
        rates, points = np.array(self.curve).tobytes(), len(self.curve)
        size, found = len(rates) // max(points, 1), list[tuple[int, History]]()
        for step, value in self.reports:
            so_far = blake2b(rates[: size * math.ceil(step / self.horizon * points)], digest_size=16).digest()
            found.append((step, (self.horizon, self.extras, so_far, value)))
        return found


def without_duplicate_prefixes(runs: Sequence[Run]) -> list[Run]:
    """The runs, each without the reports that a run born before it has too: what two runs share was trained once.

    Given once for every run that leaves it, the beginning of many would pass for the evidence of many. The last of its
    reports stays: how a run compares where it leaves the others says much of where it goes.
    """
    once, seen = list(runs), set[Any]()
    for number in sorted(range(len(runs)), key=lambda number: runs[number].born):
        run, found = runs[number], dict(runs[number].histories)
        known = max((step for step, history in found.items() if history in seen), default=0)
        once[number] = replace(run, reports=tuple(report for report in run.reports if report[0] >= known))
        seen.update(found.values())
    return once


@dataclass(frozen=True)
class Pool:
    """The options: configurations at the horizons that they may be trained over, one row each.

    Of n rows: `keys` names the configuration, the same at each of its horizons; `horizons`, (n,), is in steps;
    `curves`, (n, samples), and `extras`, (n, knobs), are as in `Run`. `free`, (n,), counts the first steps that need
    not be paid for (own earlier training or a shared prefix); `every`, (n,), is the steps between reports. `families`
    has the name of each row's, or nothing where these do not matter.
    """

    keys: tuple[int, ...]
    horizons: Ints
    curves: Array
    extras: Array
    free: Ints
    every: Ints
    families: tuple[str, ...] = ()

    def take(self, rows: Sequence[int]) -> "Pool":
        """Some of the options."""
        return Pool(
            keys=tuple(self.keys[row] for row in rows),
            horizons=self.horizons[rows],
            curves=self.curves[rows],
            extras=self.extras[rows],
            free=self.free[rows],
            every=self.every[rows],
            families=tuple(self.families[row] for row in rows) if self.families else (),
        )

    @cached_property
    def features(self) -> Array:
        """Features of each row's curve up to its horizon, (n, `N_FEATURES`)."""
        return embed(self.curves, np.ones(len(self.keys)))

    @cached_property
    def centre(self) -> Array:
        """Mean of the extras over the pool, (knobs,)."""
        return np.asarray(self.extras.mean(axis=0))

    @cached_property
    def unit(self) -> Array:
        """Standard deviation of the extras over the pool, (knobs,)."""
        return np.asarray(np.maximum(self.extras.std(axis=0), 1e-9))

    def standardised(self, extras: Array) -> Array:
        """Extras in standard deviations of the pool's from their mean, (n, knobs)."""
        return np.asarray((extras - self.centre) / self.unit)


@dataclass(frozen=True)
class Decision:
    """Train this row of the given pool, which has this horizon, until this step, and why."""

    row: int
    horizon: int
    until: int
    reason: str


def under_way(pool: Pool, runs: Sequence[Run], decision: Decision) -> tuple[list[Run], int]:
    """The runs once a decision is carried out but not ended, and how many steps it costs at most."""
    key, row = pool.keys[decision.row], decision.row
    begun = next((run for run in runs if (run.key, run.horizon) == (key, decision.horizon)), None)
    family = pool.families[row] if pool.families else ""
    new = Run(
        key, decision.horizon, tuple(pool.curves[row]), tuple(pool.extras[row]), (), born=len(runs), family=family
    )
    asked = replace(begun or new, state="running", until=decision.until)
    return [*(run for run in runs if run is not begun), asked], decision.until - asked.ready
