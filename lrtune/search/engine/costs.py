"""What there is to train: how far each option has got, what its next steps cost, by which stages its end is reached.

Costs are in full runs: as many steps as the target horizon.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lrtune.search.engine.features import NEAR_EQUAL, embed, nearly_equal
from lrtune.search.engine.normalise import EVERYTHING
from lrtune.search.engine.types import Array, Ints, Pool, Run

AT_LEAST = 0.4  # of what a run would cost alone is its price, however much of it others have trained
MOST_OF_A_RUN = 4  # a first stage is no longer than the run over this
WITNESSES = 2  # runs that diverged, at rates all above which nothing is trained any more
MOST_PARTIAL, MOST_FULL = 16, 10  # runs of the initial design, whatever the number of other hyper-parameters


@dataclass(frozen=True)
class Settings:
    """Switches of the search; all on is the product, each off is an ablation.

    `embedding` is read by who makes the pool: off, a curve is flat at its peak and its family is one of the extras.
    `start` configurations and two for each of the extras are the initial design, `trunks` of them hold their rate;
    `shortlist` candidates are weighed in stages; `patience` is in full runs that others may have come to since one
    reached the target; `budget` is what the whole search may cost, in full runs. `law_share` is how far the law is
    believed where that is not to be weighed (0: not at all); `idle`: runs that learn nothing are known for it; `edge`
    is the rate, where one was found, beyond which training makes no more progress. `sign` is -1 where values are
    encoded negated, `limits` are what encoded values lie between; only the reasons read them. No stage of a run over
    the target horizon is shorter than `least_stage` steps.
    """

    embedding: bool = True
    short_horizons: bool = True
    partial_runs: bool = True
    cost: bool = True
    law_share: float | None = None
    idle: bool = True
    edge: float | None = None
    start: int = 6
    trunks: int = 3
    shortlist: int = 30
    patience: float = 1.5
    budget: float = np.inf
    sign: float = 1.0
    limits: tuple[float, float] = EVERYTHING
    least_stage: int = 0


@dataclass(frozen=True)
class Way:
    """A way to train an option to the target horizon: for each stage its pool row, the step to reach and the price."""

    rows: list[int]
    until: list[float]
    price: list[float]


def design_size(pool: Pool, settings: Settings) -> int:
    """How many configurations the initial design takes."""
    return min(settings.start + 2 * len(pool.extras[0]), MOST_PARTIAL if settings.partial_runs else MOST_FULL)


class Options:
    """The rows of a pool with what the runs so far have made of them."""

    def __init__(self, pool: Pool, runs: Sequence[Run], target: int, settings: Settings) -> None:
        self.pool, self.target, self.settings = pool, target, settings
        self.steps = {(run.key, run.horizon): run.until if run.state == "running" else run.ready for run in runs}
        self.seen = {(run.key, run.horizon): run.steps for run in runs}
        closed = ("diverged", "running") if settings.partial_runs else ("diverged", "running", "paused")
        self.closed = {(run.key, run.horizon) for run in runs if run.state in closed}
        diverged, held = ([run for run in runs if (run.state == "diverged") is which] for which in (True, False))
        self.ruled_out = self._beside(diverged) | self._above(diverged, held)
        self.runs = runs
        self.shorter: dict[int, list[int]] = {}
        for row in np.flatnonzero(pool.horizons < target):
            self.shorter.setdefault(pool.keys[row], []).append(int(row))

    def trained(self, row: int) -> int:
        """How many steps of an option have been trained, and need not be trained once more."""
        return self.steps.get((self.pool.keys[row], int(self.pool.horizons[row])), 0)

    def open(self, row: int) -> bool:
        """Whether an option has steps left that may be trained now."""
        run = self.pool.keys[row], int(self.pool.horizons[row])
        return run not in self.closed and self.trained(row) < run[1] and not self.ruled_out[row]

    def _beside(self, diverged: Sequence[Run]) -> NDArray[np.bool_]:
        """Which options are nearly a run that diverged, (rows,): they would do the same."""
        if not diverged:
            return np.zeros(len(self.pool.keys), dtype=bool)
        features = embed(np.array([run.curve for run in diverged]), np.ones(len(diverged)))
        extras = np.array([run.extras for run in diverged]).reshape(len(diverged), self.pool.extras.shape[1])
        theirs = np.column_stack([features, self.pool.standardised(extras)])
        near = nearly_equal(np.column_stack([self.pool.features, self.pool.standardised(self.pool.extras)]), theirs)
        over = self.pool.horizons[:, None] == np.array([run.horizon for run in diverged])[None, :]
        return np.asarray((near & over).any(axis=1))

    def _above(self, diverged: Sequence[Run], held: Sequence[Run]) -> NDArray[np.bool_]:
        """Which options have rates no lower than those at which runs diverged, all the way there, (rows,).

        It takes two such runs, with the option's other knobs, as one may have been unlucky; and none of those that
        held may have been above them for as long.
        """
        pool, found = self.pool, np.zeros(len(self.pool.keys), dtype=np.int64)
        if len(diverged) < WITNESSES:
            return found > 0
        theirs = np.array([run.curve for run in held]).reshape(len(held), pool.curves.shape[1])
        steps, kinds = np.array([run.steps for run in held]), [(run.extras, run.horizon) for run in held]
        for run in diverged:
            until = math.ceil(run.steps / run.horizon * len(run.curve))
            rates, kind = np.array(run.curve)[:until], (run.extras, run.horizon)
            above = (theirs[:, :until] >= rates).all(axis=1) & (steps >= run.steps)
            if not (above & np.array([one == kind for one in kinds], dtype=bool)).any():
                alike = (pool.extras == np.array(run.extras)).all(axis=1) & (pool.horizons == run.horizon)
                found += alike & (pool.curves[:, :until] >= rates).all(axis=1)
        return np.asarray(found >= WITNESSES)

    def likely_to_diverge(self, rows: Ints) -> NDArray[np.bool_]:
        """Which options, (n,), peak where two runs with their other knobs diverged, and above all that came to an end.

        Another family might bear such a rate, but of one that nobody has seen it is not the rate to begin with.
        """
        peaks, found = self.pool.curves[rows].max(axis=1), np.zeros(len(rows), dtype=bool)
        whole = [run for run in self.runs if run.horizon == self.target]
        for knobs in {run.extras for run in whole if run.state == "diverged"}:
            alike = [run for run in whole if run.extras == knobs]
            diverged = sorted(max(run.curve) for run in alike if run.state == "diverged")
            held = max((max(run.curve) for run in alike if run.completed(self.target)), default=np.inf)
            if len(diverged) >= WITNESSES:
                same = (self.pool.extras[rows] == np.array(knobs)).all(axis=1)
                found |= same & (peaks >= diverged[WITNESSES - 1]) & (peaks > held)
        return found

    def price(self, row: int, until: float) -> float:
        """New steps that reaching `until` costs, in full runs: never quite nothing, nor much less than without sharing.

        A beginning that others have trained costs nothing, but there is no end of runs that differ in their last steps
        alone: at their true price the search would try one after the other and see nothing else.
        """
        return float(self.prices(np.array([row]), until)[0])

    def prices(self, rows: Ints, until: float) -> Array:
        """The same of several options, (n,)."""
        own = np.array([self.trained(row) for row in rows.tolist()], dtype=float)
        alone, shared = until - own, until - np.maximum(own, self.pool.free[rows])
        return np.asarray(np.maximum(np.maximum(shared, AT_LEAST * alone), 0.02 * self.pool.every[rows]) / self.target)

    def worst_cost(self, row: int, until: float) -> float:
        """What reaching `until` costs at most, in full runs: where nothing of other runs can be had after all."""
        return max(until - self.trained(row), 0.0) / self.target

    def affordable(self, left: float) -> Ints:
        """The options over the target horizon that can be brought to their ends for what is left, (n,)."""
        over_target = np.flatnonzero(self.pool.horizons == self.target).tolist()
        return np.array([r for r in over_target if self.worst_cost(r, self.target) <= left + 1e-9], dtype=np.int64)

    def ways(self, full: int, shorter: bool) -> list[Way]:
        """Ways of training row `full` to the target: in stages, also after a run over each shorter horizon."""
        until = [*(self._checkpoints(full) if self.settings.partial_runs else ()), float(self.target)]
        totals = [self.price(full, step) for step in until]
        price = [totals[0], *np.diff(totals)]
        ways = [Way([full] * len(until), until, price)]
        shorter_runs = self.shorter.get(self.pool.keys[full], []) if self.settings.short_horizons and shorter else []
        for row in filter(self.open, shorter_runs):
            end = float(self.pool.horizons[row])
            ways.append(Way([row, *ways[0].rows], [end, *until], [self.price(row, end), *price]))
        return ways

    def least_stage(self, row: int) -> int:
        """How many steps a stage of an option has at least: as many as its reports are apart, or some times as many."""
        every = int(self.pool.every[row])
        return -(-min(self.settings.least_stage, self.target // MOST_OF_A_RUN) // every) * every or every

    def _checkpoints(self, row: int) -> list[float]:
        """Steps at which a stage may end: the next report that is worth a stage, then ever further."""
        every, least = int(self.pool.every[row]), self.least_stage(row)
        begin = max(self.trained(row), int(self.pool.free[row]))
        # What was seen of a run whose checkpoint is gone, or of another that began alike, is no news.
        own = self.seen.get((self.pool.keys[row], int(self.pool.horizons[row])), 0)
        trained = max(begin, own, self._seen_of_others(row)) // every * every
        steps, step = (
            [],
            max(every, trained + every, int(trained * 1.5) // every * every, begin // every * every + least),
        )
        while step < 0.9 * self.target:
            steps.append(float(step))
            step = max(step + every, int(step * 1.6) // every * every)
        return steps

    def _seen_of_others(self, row: int) -> int:
        """The last step at which another run reported that had nearly the same rates so far, and other knobs; else 0.

        That is asked where trials share nothing, as in loops that keep theirs apart: equal beginnings are trained again
        there, but a stage that ends within one would tell what is known. Where they are shared nobody pays for them.
        """
        once, place, theirs = self._shown
        if self.pool.free.any() or self.pool.horizons[row] != self.target or not len(place):
            return 0
        ours = self._coordinates(self.pool.curves[[row]], self.pool.extras[[row]], once)[place]
        return int(once[place[(abs(ours - theirs) <= NEAR_EQUAL).all(axis=1)]].max(initial=0))

    @cached_property
    def _shown(self) -> tuple[Ints, Ints, Array]:
        """The steps of reports over the target horizon, each once; which of them each report is of; its history.

        They are (steps,), (n,) and (n, columns): what led to each report, and what was searched beside the rates.
        """
        runs = [run for run in self.runs if run.horizon == self.target and run.state != "diverged"]
        steps = np.array([step for run in runs for step, _ in run.reports], dtype=np.int64)
        place = np.repeat(np.arange(len(runs)), [len(run.reports) for run in runs])
        once, of_report = np.unique(steps, return_inverse=True)
        if not len(steps):
            return once, of_report, np.zeros((0, 0))
        curves, extras = np.array([run.curve for run in runs]), np.array([run.extras for run in runs])
        return once, of_report, self._coordinates(curves[place], extras.reshape(len(runs), -1)[place], steps)

    def _coordinates(self, curves: Array, extras: Array, steps: Ints) -> Array:
        """Features of histories after so many steps, and other knobs: (steps, columns)."""
        curves = np.broadcast_to(curves, (len(steps), curves.shape[1]))
        knobs = np.broadcast_to(self.pool.standardised(extras), (len(steps), extras.shape[1]))
        return np.column_stack([embed(curves, steps / self.target), knobs])
