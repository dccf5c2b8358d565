"""What there is to train: how far each option has got, what going on costs, and by which stages its end is reached."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lrtune.search.engine.types import Pool, Run

AT_LEAST = 0.4  # of what a run would cost alone is its price, however much of it others have trained
MOST_LOOKS, MOST_RUNS = 16, 10  # of the designed start, whatever the number of other knobs


@dataclass(frozen=True)
class Settings:
    """Switches of the search; all on is the product, each off is an ablation.

    `embedding` is read by who makes the pool: off, a curve is flat at its peak and its family is a knob. `sign` is -1
    where values are told negated; only the reasons read it.
    """

    embedding: bool = True
    short_horizons: bool = True
    partial_runs: bool = True
    cost: bool = True
    start: int = 6
    shortlist: int = 30
    patience: float = 1.5
    sign: float = 1.0


@dataclass(frozen=True)
class Plan:
    """Stages of training that end at the target horizon: pool rows, steps to reach, price of each stage."""

    rows: list[int]
    until: list[float]
    price: list[float]


def looks(pool: Pool, settings: Settings) -> int:
    """How many configurations the designed start takes."""
    return min(settings.start + 2 * len(pool.extras[0]), MOST_LOOKS if settings.partial_runs else MOST_RUNS)


class Options:
    """The rows of a pool with what the runs so far have made of them."""

    def __init__(self, pool: Pool, runs: Sequence[Run], target: int, settings: Settings) -> None:
        self.pool, self.target, self.settings = pool, target, settings
        self.steps = {(run.key, run.horizon): run.until if run.state == "running" else run.steps for run in runs}
        closed = ("diverged", "running") if settings.partial_runs else ("diverged", "running", "stopped")
        self.over = {(run.key, run.horizon) for run in runs if run.state in closed}
        self.shorter: dict[str, list[int]] = {}
        for row in np.flatnonzero(pool.horizons < target):
            self.shorter.setdefault(pool.keys[row], []).append(int(row))

    def trained(self, row: int) -> int:
        """How many steps of an option have been trained."""
        return self.steps.get((self.pool.keys[row], int(self.pool.horizons[row])), 0)

    def open(self, row: int) -> bool:
        """Whether an option has steps left to train."""
        key = self.pool.keys[row], int(self.pool.horizons[row])
        return key not in self.over and self.trained(row) < key[1]

    def price(self, row: int, until: float) -> float:
        """New steps that reaching `until` costs, in full runs: never quite nothing, nor much less than without sharing.

        A beginning that others have trained costs nothing, but there is no end of runs that differ in their last steps
        alone: at their true price the search would try one after the other and see nothing else.
        """
        own = self.trained(row)
        alone, shared = until - own, until - max(own, int(self.pool.free[row]))
        return float(max(shared, AT_LEAST * alone, 0.02 * self.pool.every[row])) / self.target

    def owed(self, row: int, until: float) -> float:
        """What reaching `until` costs at most, in full runs: where nothing of other runs can be had after all."""
        return max(until - self.trained(row), 0.0) / self.target

    def plans(self, full: int, shorter: bool) -> list[Plan]:
        """Ways of training one configuration to the target: in stages, or after a short whole schedule."""
        until = [*(self._checkpoints(full) if self.settings.partial_runs else ()), float(self.target)]
        totals = [self.price(full, u) for u in until]
        price = [totals[0], *np.diff(totals)]
        plans = [Plan([full] * len(until), until, price)]
        if self.settings.short_horizons and shorter:
            for row in self._shorter(full):
                end = float(self.pool.horizons[row])
                plans.append(Plan([row, *plans[0].rows], [end, *until], [self.price(row, end), *price]))
        return plans

    def _checkpoints(self, row: int) -> list[float]:
        """Where a run may be looked at next: the next report, then ever further."""
        every, trained = int(self.pool.every[row]), max(self.trained(row), int(self.pool.free[row]))
        trained = trained // every * every
        stops, step = [], max(every, trained + every, int(trained * 1.5) // every * every)
        while step < 0.9 * self.target:
            stops.append(float(step))
            step = max(step + every, int(step * 1.6) // every * every)
        return stops

    def _shorter(self, full: int) -> list[int]:
        """The shorter whole schedules of a configuration that are not trained yet."""
        return [row for row in self.shorter.get(self.pool.keys[full], []) if self.open(row)]
