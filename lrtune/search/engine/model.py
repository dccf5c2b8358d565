"""What a job's runs say about every option: one Gaussian process over all reports of all runs.

Each report is an observation of "the loss after this learning-rate history", so partial runs, short whole schedules
and full runs all speak about each other, as far as the data of this job show that they agree.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_solve

from lrtune.search.engine.features import N_FEATURES, embed
from lrtune.search.engine.gp import Points, Process, fit_theta, make_prior
from lrtune.search.engine.normalise import Levels
from lrtune.search.engine.types import Array, Ints, Pool, Run, told_once

RATE_SCALES = (1.2, *(2.5,) * (N_FEATURES - 1))
EXTRA_SCALE = 3.0
MAX_FOR_THETA = 120
DESIGN = 16
MAX_OBSERVATIONS = 600
DIVERGED_NOISE = 3.0


@dataclass(frozen=True)
class Observations:
    """Chosen reports of the runs: which run, after how many steps, which value."""

    run: Ints
    steps: Array
    values: Array


def _chosen(run: Run, per_run: int) -> list[tuple[int, float]]:
    """The last report and those near a half, a quarter, ... of it: later ones say what these leave open."""
    if not run.reports:
        return []
    last, picked = run.reports[-1], list[tuple[int, float]]()
    bound = float(last[0])
    for step, value in reversed(run.reports):
        if step <= bound and len(picked) < per_run:
            picked.append((step, value))
            bound = step / 2
    return picked


def observe(runs: Sequence[Run]) -> Observations:
    """Observations of all runs, fewer per run the more runs there are."""
    per_run = max(1, min(5, MAX_OBSERVATIONS // max(len(runs), 1)))
    rows = [(i, step, value) for i, run in enumerate(runs) for step, value in _chosen(run, per_run)]
    run, steps, values = zip(*rows, strict=True) if rows else ((), (), ())
    return Observations(np.array(run, dtype=np.int64), np.array(steps, dtype=float), np.array(values, dtype=float))


class JobModel:
    """A job's runs, turned into forecasts for every option of its pool."""

    def __init__(
        self, pool: Pool, runs: Sequence[Run], target: int, theta: Array | None = None, straight: float = 0.0
    ) -> None:
        self.pool, self.runs, self.target = pool, list(runs), target
        once = told_once(runs)
        histories = [run.reports for run in sorted(once, key=lambda run: run.born) if run.reports]
        self.levels = Levels(histories, target, straight=straight)
        self.index = {(k, int(h)): i for i, (k, h) in enumerate(zip(pool.keys, pool.horizons, strict=True))}
        self.seen = seen = observe(once)
        points = self._observed(seen)
        scores = self.levels.score(seen.steps, seen.values)
        relative = np.where(np.isfinite(seen.values), 1.0, DIVERGED_NOISE)
        self.mean = self._middle(scores)
        self.n = len(scores)
        self.theta = self._fit(points, scores - self.mean, relative) if theta is None else theta
        points, scores, relative = self._with_pending(points, scores, relative)
        self.process = Process(self.theta, points, scores - self.mean, relative)

    def _middle(self, scores: Array) -> float:
        """The average standing over the space: of the first looks, since what came later was chosen for being good."""
        first = sorted(set(self.seen.run.tolist()), key=lambda number: self.runs[number].born)[:DESIGN]
        return float(np.mean([scores[self.seen.run == number].mean() for number in first])) if first else 0.0

    def _fit(self, points: Points, scores: Array, relative: Array) -> Array:
        """Hyper-parameters from the latest, the best and the rest, within what time allows."""
        some = np.arange(len(scores))
        if len(some) > MAX_FOR_THETA:
            order = np.lexsort((scores, -points.log_steps))
            even = np.linspace(0, len(order) - 1, MAX_FOR_THETA // 2).astype(int)
            some = np.unique(np.concatenate([order[: MAX_FOR_THETA // 2], order[even]]))
        scales = np.array([*RATE_SCALES, *(EXTRA_SCALE,) * self.pool.extras.shape[1]])
        prior = make_prior(scales, runs=True, levels=True)
        return fit_theta(points.take(some), scores[some], prior, relative[some])

    def _observed(self, seen: Observations) -> Points:
        if not len(seen.run):
            return self._points(
                np.zeros((0, N_FEATURES)),
                np.zeros((0, self.pool.extras.shape[1])),
                np.zeros(0),
                np.zeros(0, dtype=np.int64),
            )
        curves = np.array([self.runs[i].curve for i in seen.run])
        extras = np.array([self.runs[i].extras for i in seen.run]).reshape(len(curves), -1)
        horizons = np.array([self.runs[i].horizon for i in seen.run], dtype=float)
        return self._points(embed(curves, seen.steps / horizons), extras, seen.steps, seen.run)

    def _points(self, features: Array, extras: Array, steps: Array, run: Ints) -> Points:
        other = (extras - self.pool.centre) / self.pool.unit
        return Points(np.column_stack([features, other]), np.log(np.maximum(steps, 1) / self.target), run)

    def _with_pending(self, points: Points, scores: Array, relative: Array) -> tuple[Points, Array, Array]:
        """Runs still under way count as having kept what is expected of them, so that nobody repeats them."""
        pending = [i for i, run in enumerate(self.runs) if run.state == "running" and run.until > run.steps]
        if not pending:
            return points, scores, relative
        seen = Observations(np.array(pending), np.array([float(self.runs[i].until) for i in pending]), np.zeros(0))
        there = self._observed(seen)
        believed = Process(self.theta, points, scores - self.mean, relative).predict(there)[0] + self.mean
        joined = Points(
            np.vstack([points.features, there.features]),
            np.concatenate([points.log_steps, there.log_steps]),
            np.concatenate([points.run, there.run]),
        )
        return joined, np.concatenate([scores, believed]), np.concatenate([relative, np.ones(len(pending))])

    def _run_of(self, rows: Ints) -> Ints:
        """The number of the run that already trains each option, -1 where none does."""
        known = {(run.key, run.horizon): i for i, run in enumerate(self.runs)}
        pool = self.pool
        return np.array([known.get((pool.keys[r], int(pool.horizons[r])), -1) for r in rows], dtype=np.int64)

    def points_at(self, rows: Ints, steps: Array) -> Points:
        """Options after so many steps; options without a run get one of their own, beyond the known runs."""
        pool = self.pool
        run = self._run_of(rows)
        run = np.where(run >= 0, run, len(self.runs) + rows)
        whole = steps >= pool.horizons[rows]
        features = pool.whole[rows].copy()
        part = np.flatnonzero(~whole)
        if len(part):
            features[part] = embed(pool.curves[rows[part]], steps[part] / pool.horizons[rows[part]])
        return self._points(features, pool.extras[rows], steps, run)

    def forecast(self, rows: Ints) -> tuple[Array, Array, Array]:
        """Standing of each option at its end: mean, variance, whitened covariance with the data."""
        points = self.points_at(rows, self.pool.horizons[rows].astype(float))
        mean, white = self.process.project(points)
        variance = self.process.theta.variance(points) - (white * white).sum(0)
        return mean + self.mean, np.maximum(variance, 1e-10), white

    def surprises(self, step: float) -> Array:
        """How many standard deviations each completed run ended above what it and the others foretold at a step.

        Each run is forecast from its own reports up to there and everything of the other runs.
        """
        inverse = cho_solve((self.process.factor, True), np.eye(self.n))
        found = []
        for number, run in enumerate(self.runs):
            later = np.flatnonzero((self.seen.run == number) & (self.seen.steps > step))
            if len(later) and run.steps >= run.horizon and run.horizon == self.target:
                doubt = np.linalg.inv(inverse[np.ix_(later, later)])
                end = int(np.argmax(self.seen.steps[later]))
                found.append((doubt @ self.process.weights[later])[end] / np.sqrt(doubt[end, end]))
        return np.array(found)

    def informs(self, rows: Ints, ends: Array, targets: Ints) -> Array:
        """How much of the uncertainty about each target's end a look at each option would resolve (0..1)."""
        theta = self.process.theta
        looks = self.points_at(rows, ends)
        final = self.points_at(targets, self.pool.horizons[targets].astype(float))
        _, white_look = self.process.project(looks)
        _, white_final = self.process.project(final)
        cross = theta.paired(looks, final) - (white_look * white_final).sum(0)
        of_look = np.maximum(theta.variance(looks) - (white_look * white_look).sum(0), 1e-10) + theta.noise
        of_final = np.maximum(theta.variance(final) - (white_final * white_final).sum(0), 1e-10)
        return np.asarray(np.clip(cross * cross / (of_look * of_final), 0.0, 1.0))
