"""A small Gaussian process whose kernel knows about training runs.

Inputs are features (the first is the log mean rate), the log of the steps trained, and the run that an observation
belongs to. The covariance is a sum (Rasmussen & Williams 2006, sec. 4.2.4) of
  - a shared Matern 5/2 surface over the features and the log steps (far steps are trusted as far as the data allow),
    in which the best rate may drift with the number of steps,
  - a deviation of each run's own that persists along the run (what makes resuming a good run promising, as in the
    freeze-thaw optimisation of Swersky et al. 2014),
  - a level for each number of steps, a constant, and noise.
Hyper-parameters are the maximum a posteriori under weak priors in physical units; gradients are exact.
"R&W" is Rasmussen & Williams, "Gaussian processes for machine learning", 2006.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, lapack, solve_triangular
from scipy.optimize import minimize

Array = NDArray[np.float64]
ROOT5 = 5.0**0.5
CONSTANT = 1.0  # variance of the constant
LEVEL_SCALE = 2.0  # length scale of the level, in log steps
JITTER = 1e-6
LEAST_VARIANCE = 1e-10  # of a posterior


@dataclass(frozen=True)
class Points:
    """Where something was observed or is asked about: `features` (n, d), `log_steps` (n,), and its `run` (n,).

    Log steps are relative to the target horizon, so 0 is its end.
    """

    features: Array
    log_steps: Array
    run: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.log_steps)

    def take(self, index: NDArray[np.int64]) -> "Points":
        """Some of the points."""
        return Points(self.features[index], self.log_steps[index], self.run[index])


@dataclass(frozen=True)
class Prior:
    """Independent normal priors of the hyper-parameters: means and standard deviations, ordered as in `make_prior`."""

    mean: Array
    std: Array


def make_prior(scales: Array) -> Prior:
    """Priors of a hyper-parameter vector, (d + 7,), given the typical length scales of the d features.

    In order, all logarithms but for the drift: d length scales; length scale of the log steps; drift; variance of the
    shared surface; variance and length scale of a run's own deviation; variance of the level; variance of the noise.
    """
    rest = [np.log(4.0), 0.2, np.log(1.0), np.log(0.3), np.log(3.0), np.log(0.1), np.log(0.01)]
    std = np.concatenate([np.full(len(scales), 0.7), [0.8, 0.25, 0.8, 1.0, 0.5, 1.0, 1.2]])
    return Prior(np.concatenate([np.log(scales), rest]), std)


def matern(r2: Array) -> Array:
    """Matern 5/2 of squared distances (R&W eq. 4.17)."""
    r = np.sqrt(np.maximum(r2, 0.0)) * ROOT5
    return np.asarray((1 + r + r * r / 3) * np.exp(-r))


def matern_and_slope(r2: Array) -> tuple[Array, Array]:
    """The same, and its derivative by the squared distance."""
    r = np.sqrt(np.maximum(r2, 0.0)) * ROOT5
    decay = np.exp(-r)
    return (1 + r + r * r / 3) * decay, -(5 / 6) * (1 + r) * decay


def within_runs(same: NDArray[np.bool_], squared_gaps: Array, variance: float, scale: float) -> Array:
    """Covariance of what is a run's own, which is none between two runs: of few pairs, so of these alone."""
    found = np.zeros(same.shape)
    found[same] = variance * matern(squared_gaps[same] / scale**2)
    return found


def squared_distances(a: Array, b: Array) -> Array:
    """Between the rows of `a` and of `b`, (n, m)."""
    return np.asarray(np.maximum((a * a).sum(1)[:, None] + (b * b).sum(1)[None, :] - 2 * a @ b.T, 0.0))


class Kernel:
    """The covariance function that a hyper-parameter vector stands for (its order is that of `make_prior`)."""

    def __init__(self, theta: Array) -> None:
        n = len(theta) - 7
        self.scales = np.exp(theta[:n])
        self.step_scale = float(np.exp(theta[n]))
        self.drift = float(theta[n + 1])
        self.shared, self.own, self.own_scale, self.level, self.noise = np.exp(theta[n + 2 :])

    def coordinates(self, points: Points) -> Array:
        """(n, d + 1): features in units of their length scales, the mean rate shifted by the drift; and log steps."""
        features = points.features / self.scales
        features[:, 0] += self.drift * points.log_steps / self.scales[0]
        return np.column_stack([features, points.log_steps / self.step_scale])

    def covariance(self, a: Points, b: Points) -> Array:
        """Of each point of `a` with each of `b`, (n, m), without noise."""
        gap = (a.log_steps[:, None] - b.log_steps[None, :]) ** 2
        shared = self.shared * matern(squared_distances(self.coordinates(a), self.coordinates(b)))
        once, place = np.unique(b.log_steps, return_inverse=True)  # most of what is asked for is at the target
        level = (self.level * matern((a.log_steps[:, None] - once[None, :]) ** 2 / LEVEL_SCALE**2))[:, place]
        same = a.run[:, None] == b.run[None, :]
        own = within_runs(same, gap, self.own, self.own_scale) if same.any() else 0.0
        return np.asarray(shared + level + own + CONSTANT)

    def paired(self, a: Points, b: Points) -> Array:
        """Covariance of each point of `a` with the same row of `b`, (n,), without noise."""
        gap = (a.log_steps - b.log_steps) ** 2
        far = ((self.coordinates(a) - self.coordinates(b)) ** 2).sum(1)
        own = self.own * matern(gap / self.own_scale**2) * (a.run == b.run)
        return np.asarray(self.shared * matern(far) + self.level * matern(gap / LEVEL_SCALE**2) + own + CONSTANT)

    @property
    def variance(self) -> float:
        """Of any point before anything is observed, without noise."""
        return float(self.shared + self.level + CONSTANT + self.own)


class Objective:
    """Negative log posterior of a hyper-parameter vector, and its gradient.

    That is the log marginal likelihood of `values` (R&W eq. 5.8; gradient eq. 5.9) with the log prior; `relative` is
    each observation's share of the noise variance.
    """

    def __init__(self, points: Points, values: Array, prior: Prior, relative: Array) -> None:
        self.points, self.values, self.prior, self.relative = points, values, prior, relative
        gap = (points.log_steps[:, None] - points.log_steps[None, :]) ** 2
        self.same = points.run[:, None] == points.run[None, :]
        self.gap = gap[self.same]
        self.level = matern(gap / LEVEL_SCALE**2)

    def __call__(self, theta: Array) -> tuple[float, Array]:
        """The value, and its derivatives by each entry of `theta`."""
        kernel = Kernel(theta)
        coordinates = kernel.coordinates(self.points)
        shared, shared_slope = matern_and_slope(squared_distances(coordinates, coordinates))
        own, own_slope = matern_and_slope(self.gap / kernel.own_scale**2)
        matrix = kernel.shared * shared
        matrix[self.same] += kernel.own * own
        matrix = matrix + kernel.level * self.level + CONSTANT
        matrix.flat[:: len(matrix) + 1] += kernel.noise * self.relative + JITTER
        factor, info = lapack.dpotrf(matrix, lower=1)
        if info != 0:
            return 1e10, np.zeros_like(theta)
        alpha = lapack.dpotrs(factor, self.values, lower=1)[0]
        inverse = lapack.dpotri(factor, lower=1)[0]
        inverse = np.tril(inverse) + np.tril(inverse, -1).T
        weights = 0.5 * (inverse - np.outer(alpha, alpha))  # derivative of the value by each entry of the matrix
        away = (theta - self.prior.mean) / self.prior.std
        value = 0.5 * self.values @ alpha + np.log(np.diag(factor)).sum() + 0.5 * away @ away
        by_distance = weights * kernel.shared * shared_slope
        sums = by_distance.sum(1)
        scales = [-2 * _pull(by_distance, sums, x, x) for x in coordinates.T]
        drift = 2 * _pull(by_distance, sums, coordinates[:, 0], self.points.log_steps / kernel.scales[0])
        variances = [
            kernel.shared * (weights * shared).sum(),
            kernel.own * (weights[self.same] * own).sum(),
            float((weights[self.same] * kernel.own * own_slope * self.gap).sum()) * -2 / kernel.own_scale**2,
            kernel.level * (weights * self.level).sum(),
            kernel.noise * (np.diag(weights) @ self.relative),
        ]
        return float(value), np.array([*scales, drift, *variances]) + away / self.prior.std


def _pull(weights: Array, sums: Array, x: Array, y: Array) -> float:
    """Sum over pairs of weights * (x_i - x_j) * (y_i - y_j), for symmetric weights with these sums of rows."""
    return float(2 * (sums @ (x * y) - x @ weights @ y))


def fit_theta(points: Points, values: Array, prior: Prior, relative: Array, steps: int = 25) -> Array:
    """Most probable hyper-parameters by L-BFGS-B, three prior standard deviations around; of few points the prior's."""
    if len(values) < 3:
        return prior.mean.copy()
    objective = Objective(points, values, prior, relative)
    bounds = list(zip(prior.mean - 3 * prior.std, prior.mean + 3 * prior.std, strict=True))
    found = minimize(objective, prior.mean, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": steps})
    return np.asarray(found.x) if np.isfinite(found.fun) and found.fun < 1e9 else prior.mean.copy()


class Process:
    """The process conditioned on n observations (R&W algorithm 2.1).

    `relative`, (n,), is each one's share of the noise variance; `weights`, (n,), is the inverse covariance matrix times
    the values, and `factor` that matrix's lower Cholesky factor.
    """

    def __init__(self, theta: Array, points: Points, values: Array, relative: Array) -> None:
        self.kernel, self.points = Kernel(theta), points
        matrix = self.kernel.covariance(points, points)
        matrix.flat[:: len(matrix) + 1] += self.kernel.noise * relative + JITTER
        self.factor = np.linalg.cholesky(matrix) if len(points) else np.zeros((0, 0))
        self.weights = cho_solve((self.factor, True), values) if len(points) else np.zeros(0)

    def project(self, points: Points) -> tuple[Array, Array]:
        """Posterior mean, (m,), and the whitened covariance with the observations, (n, m).

        A whitened column's square is what the observations explain of that point's variance; the product of two, of
        their covariance.
        """
        if not len(self.points):
            return np.zeros(len(points)), np.zeros((0, len(points)))
        cross = self.kernel.covariance(self.points, points)
        return cross.T @ self.weights, solve_triangular(self.factor, cross, lower=True, check_finite=False)

    def variance(self, white: Array) -> Array:
        """Posterior variance without noise, (m,), of points with this whitened covariance."""
        return np.asarray(np.maximum(self.kernel.variance - (white * white).sum(0), LEAST_VARIANCE))


@dataclass(frozen=True)
class Evidence:
    """What a process is conditioned on, for asking what it would have foretold of some of it, had it not seen that.

    Of n observations: `inverse`, (n, n), of their covariance with noise; `weights`, (n,), that times the residuals;
    the `run` and `log_steps` of each; whether it was really `seen`; `log_slope`, the log of the derivative of what the
    process works with by the value.
    """

    inverse: Array
    weights: Array
    run: NDArray[np.int64]
    log_steps: Array
    seen: NDArray[np.bool_]
    log_slope: Array

    def foretold(self, hidden: NDArray[np.bool_]) -> dict[int, tuple[float, float, float]]:
        """By run, for the last report that it has among those `hidden`, (n,): its error, variance, and log slope.

        R&W sec. 5.4.2, for a block of observations; noise is part of the variance.
        """
        block = np.flatnonzero(hidden)
        covariance = np.linalg.inv(self.inverse[np.ix_(block, block)])
        errors, found = covariance @ self.weights[block], dict[int, tuple[float, float, float]]()
        for place in np.argsort(self.log_steps[block], kind="stable"):
            row = block[place]
            if self.seen[row]:
                found[int(self.run[row])] = float(errors[place]), float(covariance[place, place]), self.log_slope[row]
        return found
