"""Forecasts by the loss-curve law, and how unsure they are: by its parameters, and by what a process has for the rest.

    value(x) = law(x; θ) + rest(x) + noise,   θ normal around its most probable value (the law is linearised there),
    rest ~ GP(0, s(x) s(x') (a² Matern(features, other knobs, log steps) + b² Matern(log steps) within one run))

`s(x)` is what a good law may be off by at that level of the value: little near the best, a share of the distance above
it. `a`, `b` and the noise are the most probable of a small grid, so where the law explains little the rest is large.
Values are counted from the best and in units of its size, whatever the metric; `JobModel` works in scores.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.linalg import cho_solve, solve_triangular

from lrtune.search.engine.features import embed
from lrtune.search.engine.gp import Evidence, matern, squared_distances, within_runs
from lrtune.search.engine.law import REACH, Beliefs, Law, beliefs, fit_law, histories
from lrtune.search.engine.model import DIVERGED_NOISE, EXTRA_SCALE, RATE_SCALES, observe
from lrtune.search.engine.normalise import FAR
from lrtune.search.engine.types import Array, Ints, Pool, Run, without_duplicate_prefixes

STEP_SCALE, OWN_SCALE = 2.0, 3.0  # length scales over log steps: of what all runs share, and of a run's own
EXPECTED, EXPECTED_STD = 4.0, 0.5  # of `a` beforehand, on a logarithmic scale: two per cent of the value
NEAR, ABOVE = 0.005, 0.06  # what the law may be off by: of the best value, and of the distance above it
FARTHEST = 5.0  # median distances above the best: what lies beyond has come apart, and counts as diverged
DOUBTED = 0.5  # of that distance is the most that the parameters' doubt may come to
LEAST = 0.03  # of the horizon, before which no law of training holds
ENOUGH = 3  # values, with which it begins
EDGE, EDGE_UNKNOWN, EDGE_KNOWN = 4.0, 1.0, 0.7  # expected, in typical peaks; and standard deviations of its logarithm
MOST = 100  # observations that its parameters are fitted to
JITTER = 1e-9


@dataclass(frozen=True)
class Places:
    """Where something was observed or is asked about: what the law says of n histories, and where the rest is.

    `jacobian`, (n, 11), is by the parameters in prior standard deviations; `scale`, (n,), is `s(x)`.
    """

    mean: Array
    jacobian: Array
    scale: Array
    coordinates: Array
    log_steps: Array
    run: Ints

    def take(self, index: Ints) -> "Places":
        """Some of the places."""
        return Places(**{name: mine[index] for name, mine in vars(self).items()})

    def and_then(self, more: "Places") -> "Places":
        """These places and some more."""
        return Places(**{name: np.concatenate([mine, vars(more)[name]]) for name, mine in vars(self).items()})


@dataclass(frozen=True)
class Rest:
    """The covariance of law and rest together; `a`, `b` and `noise` are in units of `s(x)`."""

    a: float
    b: float
    noise: float

    def covariance(self, one: Places, other: Places) -> Array:
        """Of each place of `one` with each of `other`, (n, m), without noise."""
        shape = self.a**2 * matern(squared_distances(one.coordinates, other.coordinates))
        same = one.run[:, None] == other.run[None, :]
        if same.any():
            gap = (one.log_steps[:, None] - other.log_steps[None, :]) / OWN_SCALE
            shape = shape + within_runs(same, gap**2, self.b**2, 1.0)
        return np.asarray(one.scale[:, None] * other.scale[None, :] * shape + one.jacobian @ other.jacobian.T)

    def paired(self, one: Places, other: Places) -> Array:
        """Of each place of `one` with the same row of `other`, (n,), without noise."""
        far = ((one.coordinates - other.coordinates) ** 2).sum(axis=1)
        gap = ((one.log_steps - other.log_steps) / OWN_SCALE) ** 2
        shape = self.a**2 * matern(far) + self.b**2 * matern(gap) * (one.run == other.run)
        return np.asarray(one.scale * other.scale * shape + (one.jacobian * other.jacobian).sum(axis=1))

    def variance(self, places: Places) -> Array:
        """Of each place, (n,), without noise."""
        return np.asarray(places.scale**2 * (self.a**2 + self.b**2) + (places.jacobian**2).sum(axis=1))


GRID = [Rest(a, b, noise) for a in (0.5, 1.5, 5.0) for b in (0.2, 0.7) for noise in (0.1, 0.4)]


@dataclass(frozen=True)
class LawFit:
    """What was fitted: the law's parameters, in which unit of the rates, and what it misses."""

    parameters: Array
    unit: float
    rest: Rest


class LawModel:
    """A job's runs by the law: forecasts of values (lower is better) for every option of its pool.

    `fit` is one of almost the same runs, to be taken over; `edge` the rate, if it is known, beyond which training makes
    no more progress. At least `ENOUGH` reports have to be finite.
    """

    def __init__(
        self, pool: Pool, runs: Sequence[Run], target: int, fit: LawFit | None = None, edge: float | None = None
    ) -> None:
        self.pool, self.runs, self.target = pool, list(runs), target
        peaks = np.maximum(np.abs(pool.curves).max(axis=1), 1e-30)
        self.unit = fit.unit if fit else float(np.exp(np.log(peaks).mean()))
        seen = observe(without_duplicate_prefixes(runs))
        late = seen.steps >= LEAST * target
        late |= (late & np.isfinite(seen.values)).sum() < ENOUGH
        self.run, self.steps, values = seen.run[late], seen.steps[late], seen.values[late]
        finite = values[np.isfinite(values)]
        self.best = float(finite.min())
        spread = float(np.median(finite)) - self.best
        apart = float(np.ptp(seen.values[np.isfinite(seen.values)]))
        self.size = max(min(abs(self.best) + spread, FAR * apart or np.inf), 1e-300)
        self.worst = FARTHEST * max(spread / self.size, NEAR)
        above = (np.where(np.isfinite(values), values, finite.max()) - self.best) / self.size
        self.finite = np.isfinite(values) & (above <= self.worst)
        self.values = np.minimum(above, self.worst)  # above the best, in units of its size; no worse than is spoken of

        self.prior, self.parameters = self._parameters(edge, fit)
        self.places = self._places_of_runs(self.run, self.steps)
        self.shift = (self.prior.mean - self.parameters) / self.prior.std  # where the linearised prior has its mean
        self.relative = np.where(self.finite, 1.0, DIVERGED_NOISE)
        self.rest = fit.rest if fit else self._most_probable_rest()
        self.fit = LawFit(self.parameters, self.unit, self.rest)
        self._condition()
        self._believe_pending()

    def forecast(self, rows: Ints, *, fresh: bool = False) -> tuple[Array, Array]:
        """Mean and standard deviation, (n,) each, of the value that each option has at the end of its horizon.

        `fresh`: over a seed that nobody has run, so that by what a run of it deviated says nothing.
        """
        places = self._places_of_options(rows, self.pool.horizons[rows].astype(float))
        if fresh:
            places = replace(places, run=len(self.runs) + rows)
        mean, white = self._project(places)
        return self.best + self.size * np.minimum(mean, self.worst), self.size * np.sqrt(self._left(places, white))

    def variance_explained(self, rows: Ints, ends: Array, targets: Ints) -> Array:
        """Share of the variance of each target's final value that training an option to a step explains, (n,), 0..1."""
        once, place = np.unique(targets, return_inverse=True)
        stage = self._places_of_options(rows, ends)
        final = self._places_of_options(once, self.pool.horizons[once].astype(float))
        white_stage, white_final = self._project(stage)[1], self._project(final)[1]
        covariance = self.rest.paired(stage, final.take(place)) - (white_stage * white_final[:, place]).sum(axis=0)
        reported = self._left(stage, white_stage) + (self.rest.noise * stage.scale) ** 2
        ended = self._left(final, white_final)[place]
        return np.asarray(np.clip(covariance**2 / (reported * ended), 0.0, 1.0))

    def evidence(self) -> Evidence:
        """What it would have foretold of what was reported: the parameters move as far as the linearised law goes."""
        n = len(self.places.run)
        seen = np.zeros(n, dtype=bool)
        seen[: len(self.finite)] = self.finite
        inverse = cho_solve((self.factor, True), np.eye(n))
        return Evidence(
            inverse, self.weights, self.places.run, self.places.log_steps, seen, np.full(n, -np.log(self.size))
        )

    def draw_parameters(self, n: int, random: np.random.Generator) -> Array:
        """Draws of the law's parameters, (n, 11), of what the reports leave of them."""
        jacobian = self.places.jacobian
        white = solve_triangular(self.factor, jacobian, lower=True, check_finite=False)
        mean = self.shift + jacobian.T @ self.weights
        left = np.eye(len(mean)) - white.T @ white
        drawn = self.parameters + self.prior.std * random.multivariate_normal(
            mean, left, n, method="eigh", check_valid="ignore"
        )
        reach = REACH * self.prior.std
        return np.asarray(np.clip(drawn, self.prior.mean - reach, self.prior.mean + reach))

    def _parameters(self, edge: float | None, fit: LawFit | None) -> tuple[Beliefs, Array]:
        """The law's prior, and its most probable parameters: those of `fit`, or from what was finite."""
        values, steps, run = self.values[self.finite], self.steps[self.finite], self.run[self.finite]
        curves = np.array([self.runs[i].curve for i in run])
        horizons = np.array([float(self.runs[i].horizon) for i in run])
        been = histories(curves, horizons, steps, self.target, self.unit)
        expected, std = (edge / self.unit, EDGE_KNOWN) if edge else (EDGE, EDGE_UNKNOWN)
        prior = beliefs(been, values, expected, std)
        if fit:
            return prior, fit.parameters
        some = _some(values, steps)
        return prior, fit_law(been.take(some), values[some], _scale(values[some]), prior)

    def _places_of_runs(self, index: Ints, steps: Array) -> Places:
        runs = [self.runs[i] for i in index]
        curves, horizons = np.array([run.curve for run in runs]), np.array([float(run.horizon) for run in runs])
        extras = np.array([run.extras for run in runs], dtype=float).reshape(len(runs), self.pool.extras.shape[1])
        return self._places(curves, extras, horizons, steps, index)

    def _places_of_options(self, rows: Ints, steps: Array) -> Places:
        """Options after so many steps; one that no run trains yet is a run of its own, numbered beyond those known."""
        pool, horizons = self.pool, self.pool.horizons[rows].astype(float)
        return self._places(pool.curves[rows], pool.extras[rows], horizons, steps, self._run_of_row[rows])

    @cached_property
    def _run_of_row(self) -> Ints:
        """For each option the run that trains it, else a number of its own."""
        known = {(run.key, run.horizon): i for i, run in enumerate(self.runs)}
        options = enumerate(zip(self.pool.keys, self.pool.horizons.tolist(), strict=True), start=len(self.runs))
        return np.array([known.get(option, own) for own, option in options], dtype=np.int64)

    def _places(self, curves: Array, extras: Array, horizons: Array, steps: Array, run: Ints) -> Places:
        law = Law(self.parameters, histories(curves, horizons, steps, self.target, self.unit))
        log_steps = np.log(np.maximum(steps, 1) / self.target)
        features = embed(curves, steps / horizons) / np.array(RATE_SCALES)
        knobs = self.pool.standardised(extras) / EXTRA_SCALE
        coordinates = np.column_stack([features, knobs, log_steps / STEP_SCALE])
        value, jacobian = np.minimum(law.value, self.worst), law.jacobian() * self.prior.std
        # Where parameters might make it anything the law is not linear in them: its doubt ends with what is spoken of.
        length = np.maximum(np.sqrt((jacobian**2).sum(axis=1)), 1e-12)
        shorter = np.minimum(1.0, DOUBTED * self.worst / length) * np.where(law.value > self.worst, 0.0, 1.0)
        return Places(value, jacobian * shorter[:, None], _scale(value), coordinates, log_steps, run)

    def _residuals(self) -> Array:
        """What the values have above the law with the prior's parameters, as far as it is linear."""
        return np.asarray(self.values - self.places.mean - self.places.jacobian @ self.shift)

    def _most_probable_rest(self) -> Rest:
        """Of the grid, by log marginal likelihood (R&W eq. 5.8) and log prior."""
        some = _some(self.values, self.steps)
        places, residuals, noisy = self.places.take(some), self._residuals()[some], self.relative[some]
        parts = np.array([Rest(1, 0, 0).covariance(places, places), Rest(0, 1, 0).covariance(places, places)])
        law = Rest(0, 0, 0).covariance(places, places)

        def evidence(rest: Rest) -> float:
            matrix = law + rest.a**2 * (parts[0] - law) + rest.b**2 * (parts[1] - law)
            factor = np.linalg.cholesky(_noisy(matrix, places, rest, noisy))
            white = solve_triangular(factor, residuals, lower=True, check_finite=False)
            away = np.log(rest.a / EXPECTED) / EXPECTED_STD
            return float(-0.5 * white @ white - np.log(np.diag(factor)).sum() - 0.5 * away * away)

        return max(GRID, key=evidence)

    def _condition(self) -> None:
        matrix = self.rest.covariance(self.places, self.places)
        self.factor = np.linalg.cholesky(_noisy(matrix, self.places, self.rest, self.relative))
        self.weights = cho_solve((self.factor, True), self._residuals())

    def _believe_pending(self) -> None:
        """Runs under way count as having reached the value that is expected of them, as in `JobModel`."""
        pending = [i for i, run in enumerate(self.runs) if run.state == "running" and run.until > run.steps]
        if pending:
            until = np.array([float(self.runs[i].until) for i in pending])
            there = self._places_of_runs(np.array(pending), until)
            self.values = np.concatenate([self.values, self._project(there)[0]])
            self.relative = np.concatenate([self.relative, np.ones(len(pending))])
            self.places = self.places.and_then(there)
            self._condition()

    def _project(self, places: Places) -> tuple[Array, Array]:
        """Posterior mean, (m,), and the whitened covariance with the observations, (n, m)."""
        cross = self.rest.covariance(self.places, places)
        mean = places.mean + places.jacobian @ self.shift + cross.T @ self.weights
        return mean, solve_triangular(self.factor, cross, lower=True, check_finite=False)

    def _left(self, places: Places, white: Array) -> Array:
        """Posterior variance without noise, (m,)."""
        left = self.rest.variance(places) - (white * white).sum(axis=0)
        return np.asarray(np.maximum(left, JITTER * NEAR**2))


def _scale(values: Array) -> Array:
    """What the law may be off by, (n,), at values above the best in units of its size."""
    return np.asarray(NEAR + ABOVE * np.maximum(values, 0.0))


def _some(values: Array, steps: Array) -> Ints:
    """Which observations are fitted to, within what time allows: the longest trained and some of all others."""
    order = np.lexsort((values, -steps))
    even = np.linspace(0, len(order) - 1, MOST // 2).astype(int)
    return np.unique(np.concatenate([order[: MOST // 2], order[even]])) if len(order) > MOST else np.sort(order)


def _noisy(matrix: Array, places: Places, rest: Rest, relative: Array) -> Array:
    """The covariance of reports: with their noise, of which each has so much."""
    noise = (rest.noise * places.scale) ** 2 * relative
    noisy = matrix.copy()
    noisy.flat[:: len(matrix) + 1] += noise + JITTER * np.diag(matrix)
    return noisy
