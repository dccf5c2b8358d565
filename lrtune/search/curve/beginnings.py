"""Where training can begin: the checkpoints that there are, as whoever keeps them has written down.

What is gone is counted on no more: a paused run whose checkpoints made room for others begins before where it was
paused, and has that to pay for once more.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lrtune.search.engine.types import Ints, Pool, Run
from lrtune.wire.results import Trial


@dataclass(frozen=True, slots=True)
class Beginnings:
    """The `steps` of each trial, by its number, after which there is a checkpoint that trials can begin with.

    With `every` one written down there, a trial itself goes on from the last of its own; else from where it was paused.
    `least` is how many steps a stage has to be worth what it costs to keep its checkpoint.
    """

    steps: Mapping[int, Collection[int]]
    every: bool = False
    least: int = 0

    def start(self, trial: Trial) -> int | None:
        """The step from which a paused trial would go on; None: from where it was paused."""
        return self._last(trial.number, trial.step) if self.every else None

    def of(self, run: Run) -> Run:
        """A run, whose key is its trial's number, with the checkpoints that there are of it."""
        resumes_at = self._last(run.key, run.steps) if self.every and run.state == "paused" else run.resumes_at
        return replace(run, ends=tuple(self.steps.get(run.key, ())), resumes_at=resumes_at)

    def _last(self, number: int, until: int) -> int:
        return max((step for step in self.steps.get(number, ()) if step <= until), default=0)


def shared(pool: Pool, known: Sequence[Run], rises: tuple[Ints, Sequence[int]], *, everywhere: bool = True) -> Ints:
    """How many first steps each option has in common with some run, as far as its curve at 64 points tells.

    Counted are beginnings of which there is a checkpoint: at a run's `ends`, and with `everywhere` also where its rate
    stands still, and where its warm-up ends, as a worker keeps them. A warm-up ends between two points: of how many
    steps it is, for each option and for each run, stands in `rises`.
    """
    free, first = np.zeros(len(pool.keys), dtype=np.int64), pool.curves[:, 0].copy()
    for one, rise in zip(known, rises[1], strict=True):
        curve = np.array(one.curve)
        alike = (pool.horizons == one.horizon) & (first == curve[0]) & (rises[0] == rise)
        rows = np.flatnonzero(alike & (pool.extras == np.array(one.extras)).all(axis=1))
        curves = pool.curves[rows]
        equal = np.cumprod(curves == curve, axis=1).sum(axis=1)
        last, place = np.maximum(equal - 1, 1), np.arange(len(rows))
        still = everywhere & (equal > 1) & (curves[place, last] == curves[place, last - 1])
        steps = np.maximum(((equal - 0.5) / len(curve) * one.horizon).astype(np.int64), rise)
        ends = np.sort([0, *one.ends, *([rise] if everywhere and rise <= one.steps else [])])
        kept = np.where(still, np.minimum(steps, one.steps), ends[np.searchsorted(ends, steps, side="right") - 1])
        free[rows] = np.maximum(free[rows], kept)
    return free
