"""What the forecasts of one job have in common, kept between them: a forecast is then a small update of a model.

Hyper-parameters, the scale of scores and how wrong forecasts have been (leave-one-out z-scores) are those of the runs
that there were when the model was fitted; it is fitted anew once there are `GROWTH` times as many. In between the
observations are updated alone: of runs that have ended since, and of the one that is asked about, by adding rows to the
Cholesky factor (Golub & Van Loan 2013, sec. 6.5.4).
"""

import math
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from threading import Lock

import numpy as np
from scipy.linalg import cho_solve, solve_triangular

from lrtune.search.engine.features import embed
from lrtune.search.engine.gp import JITTER, LEAST_VARIANCE, Points, Process
from lrtune.search.engine.model import DIVERGED_NOISE, MEAN_OF, JobModel, Observations, observe
from lrtune.search.engine.types import Array, Pool, Run

GROWTH = 1.2  # as many times the runs, before a model is fitted anew
SHARES = 20  # of a run: z-scores are kept for each
MOST_RUNS, MOST_OBSERVED = 100, 300  # the job's first and its latest, and reports of theirs, on which a verdict rests
Key = tuple[int, int]


class View:
    """A model of some runs that takes more observations without being fitted, and forecasts the end of a run."""

    def __init__(self, runs: Sequence[Run], target: int, linear_width: float, theta: Array | None) -> None:
        # The runs themselves are the options, so that extras are scaled by what the job has tried.
        pool = Pool(
            keys=tuple(run.key for run in runs),
            horizons=np.array([run.horizon for run in runs]),
            curves=np.array([run.curve for run in runs]),
            extras=np.array([run.extras for run in runs], dtype=float).reshape(len(runs), -1),
            free=np.array([run.steps for run in runs]),
            every=np.ones(len(runs), dtype=np.int64),
        )
        self.model = JobModel(pool, runs, target, theta, linear_width, most=MOST_OBSERVED)
        self.process, seen = self.model.process, self.model.seen
        self.scores = self.model.normaliser.score(seen.steps, seen.values) - self.model.mean
        self.known = {(run.key, run.horizon): run.reports for run in runs}
        self.places = {(run.key, run.horizon): int(one) for run, one in zip(runs, self.model.one_of, strict=True)}
        self.trained = {history for run in runs for _, history in run.histories}
        self._z_scores: dict[int, Array] = {}

    def update(self, runs: Sequence[Run]) -> bool:
        """Take what has ended since; False where something has become otherwise than it was, so that it is no use."""
        new = list[tuple[Run, Observations]]()
        for run in runs:
            known = self.known.get((run.key, run.horizon), ())
            if run.state == "running" or run.reports == known:
                continue
            if run.reports[: len(known)] != known:
                return False
            new.append((run, self._news(run)))
            self.places.setdefault((run.key, run.horizon), self._beyond)
            self.known[run.key, run.horizon] = run.reports
            self.trained.update(history for _, history in run.histories)
        self._observe([(run, seen) for run, seen in new if len(seen.run)])
        return True

    @property
    def outgrown(self) -> bool:
        """Whether it was given so many runs since it was fitted that it is to be fitted anew."""
        return len(self.known) > GROWTH * len(self.model.runs)

    @property
    def _beyond(self) -> int:
        """The number of a run that the model does not know, which is no other's."""
        return len(self.model.runs) + len(self.known)

    def forecast(self, asked: Sequence[Run]) -> tuple[Array, Array]:
        """Mean and variance, (k,) each, of k runs' normalised scores at their ends, given what each has reported.

        The process does not grow by what a run has reported beyond what is known of it: its few points are given those
        of them that were observed (R&W eq. A.6).
        """
        news = [self._news(run) for run in asked]
        steps = [np.append(seen.steps, run.horizon) for run, seen in zip(asked, news, strict=True)]
        kernel, points = self.process.kernel, self._points(asked, steps)
        mean, white = self.process.project(points)
        covariance, found, first = kernel.covariance(points, points) - white.T @ white, np.zeros((2, len(asked))), 0
        for place, seen in enumerate(news):
            end = first + len(seen.run)
            new, first = slice(first, end), end + 1
            scores, relative = self._scored(seen)
            noisy = covariance[new, new] + np.diag(kernel.noise * relative + JITTER)
            gain = np.linalg.solve(noisy, covariance[new, end])
            found[0, place] = mean[end] + gain @ (scores - mean[new])
            found[1, place] = covariance[end, end] - gain @ covariance[new, end]
        return found[0] + self.model.mean, np.maximum(found[1], LEAST_VARIANCE)

    def z_scores(self, running: Run) -> Array:
        """How wrong such forecasts were, (completed runs,), at about this share of their runs."""
        share = running.steps * SHARES // running.horizon
        if share not in self._z_scores:
            self._z_scores[share] = self.model.z_scores(running.steps)
        return self._z_scores[share]

    def _observe(self, new: Sequence[tuple[Run, Observations]]) -> None:
        """Let the process know what some runs have reported beyond what was known of them, all in one extension."""
        if not new:
            return
        scores, relative = zip(*(self._scored(seen) for _, seen in new), strict=True)
        points = self._points([run for run, _ in new], [seen.steps for _, seen in new])
        self.scores = np.concatenate([self.scores, *scores])
        self.process = _extended(self.process, points, self.scores, np.concatenate(relative))

    def _news(self, run: Run) -> Observations:
        """What a run has reported beyond what is known of it, and what it shares with others."""
        known = self.known.get((run.key, run.horizon), ())
        alike = {step for step, history in run.histories if history in self.trained}
        least = max([*alike, known[-1][0] + 1 if known else 0], default=0)  # what runs share was trained once
        return observe([replace(run, reports=tuple(one for one in run.reports if one[0] >= least))])

    def _scored(self, seen: Observations) -> tuple[Array, Array]:
        """The scores of observations, (n,), and each one's share of the noise variance, (n,)."""
        relative = np.where(np.isfinite(seen.values), 1.0, DIVERGED_NOISE)
        return self.model.normaliser.score(seen.steps, seen.values) - self.model.mean, relative

    def _points(self, runs: Sequence[Run], steps: Sequence[Array]) -> Points:
        """Runs, each after some steps: all of the first, then all of the next."""
        counts, after = [len(one) for one in steps], np.concatenate(steps)
        curves = np.repeat(np.array([run.curve for run in runs], dtype=float), counts, axis=0)
        extras = np.array([run.extras for run in runs], dtype=float).reshape(len(runs), -1)
        progress = after / np.repeat([run.horizon for run in runs], counts)
        columns = np.column_stack(
            [embed(curves, progress), np.repeat(self.model.pool.standardised(extras), counts, axis=0)]
        )
        places = [self.places.get((run.key, run.horizon), self._beyond) for run in runs]
        return Points(columns, np.log(np.maximum(after, 1) / self.model.target), np.repeat(places, counts))


def _extended(process: Process, points: Points, values: Array, relative: Array) -> Process:
    """A process with more observations: `values`, (n + m,), are those of all, `relative`, (m,), of the new ones."""
    kernel, n = process.kernel, len(process.points)
    low = solve_triangular(process.factor, kernel.covariance(process.points, points), lower=True, check_finite=False)
    corner = kernel.covariance(points, points) - low.T @ low
    corner.flat[:: len(corner) + 1] += kernel.noise * relative + JITTER
    factor = np.zeros((n + len(points), n + len(points)))
    factor[:n, :n], factor[n:, :n], factor[n:, n:] = process.factor, low.T, np.linalg.cholesky(corner)
    grown = copy(process)
    grown.factor, grown.weights = factor, cho_solve((factor, True), values, check_finite=False)
    grown.points = Points(
        np.vstack([process.points.features, points.features]),
        np.concatenate([process.points.log_steps, points.log_steps]),
        np.concatenate([process.points.run, points.run]),
    )
    return grown


@dataclass
class KeptModels:
    """The models of one job by the linear width of their scores, and what the audit has found of which run.

    A fresh one fits all anew. A run is replayed once, with what was known of the runs before it when it was first asked
    for, or when it was judged: what ended later does not change what the pruner would have said. `encoded` is for who
    makes the runs of something else. Whoever asks holds the `lock`, as each question may change what is kept.
    """

    views: dict[float, View] = field(default_factory=dict)
    thetas: dict[tuple[float, int], Array] = field(default_factory=dict)
    hopeless: dict[Key, bool] = field(default_factory=dict)
    encoded: dict[int, tuple[object, Run | None]] = field(default_factory=dict)
    lock: Lock = field(default_factory=Lock)

    def view(self, others: Sequence[Run], running: Run, target: int, linear_width: float) -> View:
        """A model of these runs, the one that is kept if it will do."""
        known = [*others[:MEAN_OF], *others[MEAN_OF:][MEAN_OF - MOST_RUNS :], running]
        size = linear_width, int(math.log(len(known), GROWTH))
        view = self.views.get(linear_width)
        if view is not None and view.outgrown:  # of the most runs that a model takes there are never more
            self.thetas.pop(size, None)
        fresh = size in self.thetas and view is not None and view.model.theta is self.thetas[size]
        if view is None or not fresh or not view.update(known[:-1]):
            view = self.views[linear_width] = View(known, target, linear_width, self.thetas.get(size))
            self.thetas[size] = view.model.theta
        return view

    def beside(self) -> "KeptModels":
        """One for other runs of the same job: with the same hyper-parameters."""
        return KeptModels(thetas=self.thetas)

    def replay(self, run: Run, stopped: Callable[[], bool]) -> bool:
        """Whether a run would have been stopped, asking only the first time."""
        key = run.key, run.horizon
        if key not in self.hopeless:
            self.hopeless[key] = stopped()
        return self.hopeless[key]
