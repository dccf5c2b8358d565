"""What a job's runs say about every option: one Gaussian process over the reports of all runs.

Each report is an observation of "the score after this learning-rate history", so partial runs, runs over shorter
horizons and full runs all speak about each other, as far as the data of this job show that they agree (freeze-thaw
Bayesian optimisation, Swersky et al. 2014, with features of the learning-rate curve in place of the configuration's).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve

from lrtune.search.engine.features import N_FEATURES, embed, nearly_equal
from lrtune.search.engine.gp import Evidence, Points, Process, fit_theta, make_prior
from lrtune.search.engine.normalise import Normaliser
from lrtune.search.engine.nothing_learned import level, scale_setting
from lrtune.search.engine.types import Array, Ints, Pool, Run, without_duplicate_prefixes

RATE_SCALES = (1.2, *(2.5,) * (N_FEATURES - 1))  # typical length scales of the features
EXTRA_SCALE = 3.0  # and of the other hyper-parameters, in their standard deviations
MAX_FOR_THETA = 120  # observations from which hyper-parameters are fitted
MAX_OBSERVATIONS, MOST_PER_RUN = 600, 5
MEAN_OF = 16  # runs of the initial design, by which the average over the space is estimated
DIVERGED_NOISE = 3.0  # of a diverged observation, as a multiple of the others' noise variance: how bad says nothing


@dataclass(frozen=True)
class Observations:
    """Some reports of the runs, (n,) each: the run's index, after how many steps, which value."""

    run: Ints
    steps: Array
    values: Array


def observe(runs: Sequence[Run], most: int | None = None) -> Observations:
    """Each run's last report and those near a half, a quarter, ... of it, fewer per run the more runs there are.

    About `most` in all, `MAX_OBSERVATIONS` by default, and one of each run at least.
    """
    per_run = max(1, min(MOST_PER_RUN, (most or MAX_OBSERVATIONS) // max(len(runs), 1)))
    rows: list[tuple[int, int, float]] = []
    for index, run in enumerate(runs):
        picked, bound = 0, float(run.steps)
        for step, value in reversed(run.reports):
            if step <= bound and picked < per_run:
                rows.append((index, step, value))
                picked, bound = picked + 1, step / 2
    of, steps, values = zip(*rows, strict=True) if rows else ((), (), ())
    return Observations(np.array(of, dtype=np.int64), np.array(steps, dtype=float), np.array(values, dtype=float))


class JobModel:
    """A job's runs, turned into forecasts of normalised scores (lower is better) for every option of its pool.

    `nothing` is the value at which runs stand that learn nothing, by default what can be seen of it; `most` is how many
    reports it observes.
    """

    def __init__(
        self,
        pool: Pool,
        runs: Sequence[Run],
        target: int,
        theta: Array | None = None,
        linear_width: float = 0.0,
        nothing: float | None = None,
        most: int | None = None,
    ) -> None:
        self.pool, self.runs, self.target = pool, list(runs), target
        once = without_duplicate_prefixes(runs)
        in_order = sorted((run for run in once if run.reports), key=lambda run: run.born)
        histories = [run.reports for run in scale_setting(in_order, level(runs) if nothing is None else nothing)]
        self.normaliser = Normaliser(histories, target, linear_width=linear_width)
        self.seen = observe(once, most)
        points = self._points_of_runs(self.seen.run, self.seen.steps)
        scores = self.normaliser.score(self.seen.steps, self.seen.values)
        relative = np.where(np.isfinite(self.seen.values), 1.0, DIVERGED_NOISE)
        self.mean = self._mean(scores)
        self.theta = self._fit(points, scores - self.mean, relative) if theta is None else theta
        points, scores, relative = self._with_pending(points, scores, relative)
        self.process = Process(self.theta, points, scores - self.mean, relative)

    def _mean(self, scores: Array) -> float:
        """The average score over the space: of the initial design, since what came later was chosen for being good."""
        first = sorted(set(self.seen.run.tolist()), key=lambda index: self.runs[index].born)[:MEAN_OF]
        return float(np.mean([scores[self.seen.run == index].mean() for index in first])) if first else 0.0

    def _fit(self, points: Points, scores: Array, relative: Array) -> Array:
        """Hyper-parameters from the longest trained and some of all others, within what time allows."""
        some = np.arange(len(scores))
        if len(some) > MAX_FOR_THETA:
            order = np.lexsort((scores, -points.log_steps))
            even = np.linspace(0, len(order) - 1, MAX_FOR_THETA // 2).astype(int)
            some = np.unique(np.concatenate([order[: MAX_FOR_THETA // 2], order[even]]))
        prior = make_prior(np.array([*RATE_SCALES, *(EXTRA_SCALE,) * self.pool.extras.shape[1]]))
        return fit_theta(points.take(some), scores[some], prior, relative[some])

    def _with_pending(self, points: Points, scores: Array, relative: Array) -> tuple[Points, Array, Array]:
        """Runs under way count as having reached the score that is expected of them, so that nobody repeats them.

        This is the "kriging believer" of Ginsbourger et al. 2010, "Kriging is well-suited to parallelize optimization".
        """
        pending = [i for i, run in enumerate(self.runs) if run.state == "running" and run.until > run.steps]
        if not pending:
            return points, scores, relative
        there = self._points_of_runs(np.array(pending), np.array([float(self.runs[i].until) for i in pending]))
        believed = Process(self.theta, points, scores - self.mean, relative).project(there)[0] + self.mean
        joined = Points(
            np.vstack([points.features, there.features]),
            np.concatenate([points.log_steps, there.log_steps]),
            np.concatenate([points.run, there.run]),
        )
        return joined, np.concatenate([scores, believed]), np.concatenate([relative, np.ones(len(pending))])

    def _points_of_runs(self, index: Ints, steps: Array) -> Points:
        """Runs by their index, each after so many steps."""
        curves = np.array([self.runs[i].curve for i in index]).reshape(len(index), self.pool.curves.shape[1])
        extras = np.array([self.runs[i].extras for i in index]).reshape(len(index), self.pool.extras.shape[1])
        horizons = np.array([self.runs[i].horizon for i in index], dtype=float)
        return self._points(embed(curves, steps / horizons), extras, steps, self.one_of[index])

    def points_of_options(self, rows: Ints, steps: Array) -> Points:
        """Options after so many steps; one that no run trains yet is a run of its own, numbered beyond those known."""
        pool = self.pool
        features = pool.features[rows].copy()
        part = np.flatnonzero(steps < pool.horizons[rows])
        if len(part):
            features[part] = embed(pool.curves[rows[part]], steps[part] / pool.horizons[rows[part]])
        return self._points(features, pool.extras[rows], steps, self._run_of_row[rows])

    @cached_property
    def one_of(self) -> Ints:
        """For each run the first one that is equal to it, or nearly so, (n,): the two differ as seeds do, by noise.

        That runs which are alike diverge is no whim of one of them, so each of these is left to speak for itself.
        """
        own = np.arange(len(self.runs))
        if not self.runs:
            return own
        order = np.array(sorted(own, key=lambda index: self.runs[index].born))
        near = (self._near(*self._ends_of_runs) & np.array([run.state != "diverged" for run in self.runs]))[:, order]
        return np.asarray(np.where(near.any(1), order[near.argmax(1)], own))

    @cached_property
    def _run_of_row(self) -> Ints:
        """For each option the run that trains it or, but for noise, has trained it; else a number of its own."""
        pool, own = self.pool, len(self.runs) + np.arange(len(self.pool.keys))
        if self.runs:
            near = self._near(pool.features, pool.extras, pool.horizons)
            own = np.where(near.any(1), self.one_of[near.argmax(1)], own)
        keys = np.array(pool.keys)
        for i, run in enumerate(self.runs):
            own[(keys == run.key) & (pool.horizons == run.horizon)] = self.one_of[i]
        return np.asarray(own, dtype=np.int64)

    @cached_property
    def _ends_of_runs(self) -> tuple[Array, Array, Ints]:
        """Of each run the features of its whole curve, its other knobs, and its horizon."""
        features = embed(np.array([run.curve for run in self.runs]), np.ones(len(self.runs)))
        extras = np.array([run.extras for run in self.runs]).reshape(len(self.runs), self.pool.extras.shape[1])
        return features, extras, np.array([run.horizon for run in self.runs], dtype=np.int64)

    def _near(self, features: Array, extras: Array, horizons: Ints) -> NDArray[np.bool_]:
        """Which of the given are nearly equal to which run, (given, runs)."""
        theirs, knobs, over = self._ends_of_runs
        ours = np.column_stack([features, self.pool.standardised(extras)])
        theirs = np.column_stack([theirs, self.pool.standardised(knobs)])
        return np.asarray((horizons[:, None] == over[None, :]) & nearly_equal(ours, theirs))

    def _points(self, features: Array, extras: Array, steps: Array, run: Ints) -> Points:
        columns = np.column_stack([features, self.pool.standardised(extras)])
        return Points(columns, np.log(np.maximum(steps, 1) / self.target), run)

    def forecast(self, rows: Ints, *, fresh: bool = False) -> tuple[Array, Array]:
        """Mean and variance, (n,) each, of the normalised score that each option has at the end of its horizon.

        `fresh`: over a seed that nobody has run, so that by what a run of it deviated says nothing.
        """
        points = self.points_of_options(rows, self.pool.horizons[rows].astype(float))
        if fresh:
            points = replace(points, run=len(self.runs) + rows)
        mean, white = self.process.project(points)
        return mean + self.mean, self.process.variance(white)

    def z_scores(self, step: float) -> Array:
        """Leave-one-out z-scores, (completed runs,): how far each ended above what was forecast for it at a step.

        Each run is forecast from its own reports up to there and everything of the other runs, by leaving out its later
        reports together (R&W sec. 5.4.2, for a block of observations in place of one).
        """
        inverse = cho_solve((self.process.factor, True), np.eye(len(self.process.points)))
        found = []
        for index, run in enumerate(self.runs):
            later = np.flatnonzero((self.seen.run == index) & (self.seen.steps > step))
            if len(later) and run.steps >= run.horizon and run.horizon == self.target:
                covariance = np.linalg.inv(inverse[np.ix_(later, later)])
                end = int(np.argmax(self.seen.steps[later]))
                residual = (covariance @ self.process.weights[later])[end]
                found.append(residual / np.sqrt(covariance[end, end]))
        return np.array(found)

    def evidence(self) -> Evidence:
        """What it would have foretold of what was reported; scores beyond which all are equal are not foretold."""
        points, n = self.process.points, len(self.seen.steps)
        seen, slope = np.zeros(len(points), dtype=bool), np.zeros(len(points))
        seen[:n] = np.isfinite(self.seen.values)
        slope[:n][seen[:n]] = self.normaliser.log_slope(self.seen.steps[seen[:n]], self.seen.values[seen[:n]])
        inverse = cho_solve((self.process.factor, True), np.eye(len(points)))
        return Evidence(inverse, self.process.weights, points.run, points.log_steps, seen, slope)

    def variance_explained(self, rows: Ints, ends: Array, targets: Ints) -> Array:
        """Share of the variance of each target's final score that training an option to a step explains, (n,), 0..1.

        The squared posterior correlation of what that stage would report, noise included, with the final score: by it
        the variance falls when the report is observed (R&W eq. 2.26). `ends` are in steps.
        """
        kernel, process = self.process.kernel, self.process
        once, place = np.unique(targets, return_inverse=True)
        stage = self.points_of_options(rows, ends)
        final = self.points_of_options(once, self.pool.horizons[once].astype(float))
        white_stage, white_final = process.project(stage)[1], process.project(final)[1]
        covariance = kernel.paired(stage, final.take(place)) - (white_stage * white_final[:, place]).sum(0)
        reported, ended = process.variance(white_stage) + kernel.noise, process.variance(white_final)[place]
        return np.asarray(np.clip(covariance * covariance / (reported * ended), 0.0, 1.0))
