"""The surrogate that sees the curve: from learning-rate curves, horizons and other knobs to the final value.

    model = CurveSurrogate(seed=0).fit(curves, horizons, extras, values)
    mean, std = model.predict(curves, horizons, extras)

Lower is better; NaN or inf means that the run diverged.
"""

from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lrtune.search.engine.features import N_FEATURES, embed
from lrtune.search.engine.gp import Points, Process, fit_theta, make_prior

Array = NDArray[np.float64]

# Length scales before any data: a factor of 3 of the mean rate, a factor of 12 of the rate within a window.
RATE_SCALES = (1.2, *(2.5,) * (N_FEATURES - 1))
EXTRA_SCALE = 3.0
# Values this many robust spreads above the best are all the same garbage.
CAP = 4.0
MAX_FOR_THETA = 120
# Nine in ten of a normal variable lie within so many standard deviations. Hyper-parameters were fitted to the runs that
# are left out, so a few more must lie there; and a doubt known from n runs is stretched by sqrt(1 + UNSEEN / n).
NINE_IN_TEN, LEFT_OUT, UNSEEN = 1.645, 0.93, 2.0
STRETCH = (1.0, 2.5)


class Warp:
    """Linear near the best value, logarithmic far above it, capped: garbage must not set the scale."""

    def __init__(self, values: Array) -> None:
        good = np.sort(values[np.isfinite(values)])
        self.low = float(good[0]) if len(good) else 0.0
        middle = float(np.median(good[: max(2, (2 * len(good) + 2) // 3)])) - self.low if len(good) else 0.0
        self.spread = max(middle, 1e-9 * max(1.0, abs(self.low)))
        self.trivial = len(good) < 2 or middle <= 0

    def __call__(self, values: Array) -> Array:
        """The standing of values."""
        with np.errstate(over="ignore", invalid="ignore"):
            above = (np.where(np.isfinite(values), values, np.inf) - self.low) / self.spread
            warped = np.log1p(np.maximum(above, 0.0)) + np.minimum(above, 0.0)
        return np.asarray(np.minimum(warped, CAP))

    def back(self, warped: Array) -> Array:
        """The values that have these standings."""
        above = np.where(warped > 0, np.expm1(np.clip(warped, 0, CAP + 1)), warped)
        return np.asarray(self.low + self.spread * above)


def _honest(surprises: Array) -> float:
    """By what to stretch the standard deviation: nine in ten runs, each left out, are to lie where they should."""
    if not len(surprises):
        return 1.0
    needed = float(np.quantile(surprises, LEFT_OUT)) / NINE_IN_TEN
    return float(np.clip(needed, *STRETCH) * np.sqrt(1 + UNSEEN / len(surprises)))


def _matrix(extras: ArrayLike, n: int) -> Array:
    """The other knobs as a matrix of n rows, also where there are no rows or no knobs."""
    e = np.asarray(extras, dtype=float)
    return e.reshape(n, -1) if n else np.zeros((0, e.shape[1] if e.ndim == 2 else 0))


class CurveSurrogate:
    """A Gaussian process over embedded learning-rate curves, with the horizon as an input."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def fit(self, curves: ArrayLike, horizons: ArrayLike, extras: ArrayLike, values: ArrayLike) -> Self:
        """Learn from finished runs; any number of them, none included."""
        y = np.asarray(values, dtype=float).reshape(-1)
        e = _matrix(extras, len(y))
        self._centre = np.nan_to_num(e.mean(axis=0)) if len(y) else np.zeros(1)
        self._unit = np.maximum(np.nan_to_num(e.std(axis=0)), 1e-9) if len(y) > 1 else np.ones(1)
        self._origin = float(np.log(np.max(np.asarray(horizons, dtype=float), initial=1.0)))
        self._warp = Warp(y)
        points, warped = self._points(curves, horizons, e), self._warp(y)
        self._mean = float(warped.mean()) if len(y) else 0.0
        relative = np.where(np.isfinite(y), 1.0, 3.0)
        scales = np.array([*RATE_SCALES, *(EXTRA_SCALE,) * e.shape[1]])
        prior = make_prior(scales, runs=False, levels=True)
        some = self._subset(warped)
        theta = fit_theta(points.take(some), warped[some] - self._mean, prior, relative[some])
        self._process = Process(theta, points, warped - self._mean, relative)
        self._doubt = _honest(np.abs(self._process.surprises()[np.isfinite(y)]))
        return self

    def _subset(self, warped: Array) -> NDArray[np.int64]:
        """Observations for the hyper-parameters: all, or the best and a random part of the rest."""
        n = len(warped)
        if n <= MAX_FOR_THETA:
            return np.arange(n)
        order = np.argsort(warped, kind="stable")
        best, rest = order[: MAX_FOR_THETA // 2], order[MAX_FOR_THETA // 2 :]
        picked = np.random.default_rng(self.seed).choice(rest, MAX_FOR_THETA - len(best), replace=False)
        return np.sort(np.concatenate([best, picked]))

    def _points(self, curves: ArrayLike, horizons: ArrayLike, extras: Array) -> Points:
        n = len(extras)
        c = np.asarray(curves, dtype=float).reshape(n, -1) if n else np.zeros((0, 64))
        other = np.nan_to_num((extras - self._centre) / self._unit)
        steps = np.log(np.maximum(np.asarray(horizons, dtype=float).reshape(-1), 1.0)) - self._origin
        return Points(np.column_stack([embed(c, np.ones(n)), other]), steps, np.full(n, -1))

    def predict(self, curves: ArrayLike, horizons: ArrayLike, extras: ArrayLike) -> tuple[Array, Array]:
        """Mean and standard deviation of the final value of each run."""
        n = len(np.asarray(horizons).reshape(-1))
        points = self._points(curves, horizons, _matrix(extras, n))
        mean, variance = self._process.predict(points)
        return self._unwarp(mean + self._mean, self._doubt * np.sqrt(variance + self._process.theta.noise))

    def _unwarp(self, mean: Array, std: Array) -> tuple[Array, Array]:
        """Moments in the units of the values, over quantiles of the warped prediction."""
        if self._warp.trivial:
            flat = np.full(len(mean), self._warp.low)
            return flat, np.full(len(mean), max(0.1 * abs(self._warp.low), 1e-6))
        nodes, weights = np.polynomial.hermite_e.hermegauss(7)
        weights = weights / weights.sum()
        values = self._warp.back(mean[:, None] + std[:, None] * nodes)
        centre = self._warp.back(mean)
        spread = np.sqrt(((values - centre[:, None]) ** 2) @ weights)
        return centre, np.maximum(spread, 1e-12)
