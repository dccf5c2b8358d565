"""A small Gaussian process whose kernel knows about training runs.

Inputs are numeric features (the first is the log mean rate), the log of the steps trained, and the run an
observation belongs to. The covariance is the sum of
  - a shared Matern 5/2 surface over the features and the log steps (far steps are trusted as far as the data allow),
    in which the best rate may drift with the number of steps,
  - a deviation of each run's own that persists along the run (what makes continuing a good run promising),
  - a level for each number of steps, a constant, and noise.
Hyper-parameters are the maximum a posteriori under weak priors in physical units; gradients are exact.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, lapack, solve_triangular
from scipy.optimize import minimize

Array = NDArray[np.float64]
ROOT5 = 5.0**0.5
CONSTANT = 1.0
LEVEL_SCALE = 2.0
JITTER = 1e-6


@dataclass(frozen=True)
class Points:
    """Where something was observed or is asked about; `run` is -1 where no run's own deviation applies."""

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
    """Normal priors of the log hyper-parameters: mean and standard deviation, in the order of `Theta`."""

    mean: Array
    std: Array


def make_prior(scales: Array, *, runs: bool, levels: bool) -> Prior:
    """Length scales of the features as given; then log-step scale, drift, variances and noise."""
    n = len(scales)
    mean = np.concatenate(
        [
            np.log(scales),
            [
                np.log(4.0),
                0.2,
                np.log(1.0),
                np.log(0.3 if runs else 1e-4),
                np.log(3.0),
                np.log(0.1 if levels else 1e-4),
                np.log(0.01),
            ],
        ]
    )
    std = np.concatenate([np.full(n, 0.7), [0.8, 0.25, 0.8, 1.0 if runs else 0.01, 0.5, 1.0 if levels else 0.01, 1.2]])
    return Prior(mean, std)


def _matern(r2: Array) -> tuple[Array, Array]:
    """Matern 5/2 of squared distances, and its derivative by the squared distance."""
    r = np.sqrt(np.maximum(r2, 0.0)) * ROOT5
    decay = np.exp(-r)
    return (1 + r + r * r / 3) * decay, -(5 / 6) * (1 + r) * decay


def _squared(a: Array, b: Array) -> Array:
    return np.asarray(np.maximum((a * a).sum(1)[:, None] + (b * b).sum(1)[None, :] - 2 * a @ b.T, 0.0))


def _square_gap(a: Array, b: Array) -> Array:
    return np.asarray((a[:, None] - b[None, :]) ** 2)


class _Theta:
    """Names for the entries of a hyper-parameter vector."""

    def __init__(self, vector: Array) -> None:
        self.n = len(vector) - 7
        self.scales = np.exp(vector[: self.n])
        self.step_scale = float(np.exp(vector[self.n]))
        self.drift = float(vector[self.n + 1])
        self.shared, self.own, self.own_scale, self.level, self.noise = np.exp(vector[self.n + 2 :])

    def coordinates(self, points: Points) -> Array:
        """Features in units of their length scales, the mean rate shifted by the drift, and the log steps."""
        features = points.features / self.scales
        features[:, 0] += self.drift * points.log_steps / self.scales[0]
        return np.column_stack([features, points.log_steps / self.step_scale])

    def covariance(self, a: Points, b: Points) -> Array:
        gap = _square_gap(a.log_steps, b.log_steps)
        shared = self.shared * _matern(_squared(self.coordinates(a), self.coordinates(b)))[0]
        level = self.level * _matern(gap / LEVEL_SCALE**2)[0]
        same = (a.run[:, None] == b.run[None, :]) & (a.run >= 0)[:, None]
        own = np.where(same, self.own * _matern(gap / self.own_scale**2)[0], 0.0) if same.any() else 0.0
        return np.asarray(shared + level + own + CONSTANT)

    def paired(self, a: Points, b: Points) -> Array:
        """Covariance of each point of `a` with the same row of `b`."""
        gap = (a.log_steps - b.log_steps) ** 2
        far = ((self.coordinates(a) - self.coordinates(b)) ** 2).sum(1)
        own = self.own * _matern(gap / self.own_scale**2)[0] * ((a.run == b.run) & (a.run >= 0))
        return np.asarray(
            self.shared * _matern(far)[0] + self.level * _matern(gap / LEVEL_SCALE**2)[0] + own + CONSTANT
        )

    def variance(self, points: Points) -> Array:
        return np.asarray(self.shared + self.level + CONSTANT + self.own * (points.run >= 0))


def _pull(weights: Array, x: Array, y: Array) -> float:
    """Sum over pairs of weights * (x_i - x_j) * (y_i - y_j), for symmetric weights."""
    return float(2 * (weights.sum(1) @ (x * y) - x @ weights @ y))


class _Objective:
    """Negative log posterior of the hyper-parameters and its gradient."""

    def __init__(self, points: Points, values: Array, prior: Prior, relative: Array) -> None:
        self.points, self.values, self.prior, self.relative = points, values, prior, relative
        self.gap = _square_gap(points.log_steps, points.log_steps)
        self.same = ((points.run[:, None] == points.run[None, :]) & (points.run >= 0)[:, None]).astype(float)
        self.level = _matern(self.gap / LEVEL_SCALE**2)[0]

    def __call__(self, vector: Array) -> tuple[float, Array]:
        theta = _Theta(vector)
        coordinates = theta.coordinates(self.points)
        shared, shared_slope = _matern(_squared(coordinates, coordinates))
        own, own_slope = _matern(self.gap / theta.own_scale**2)
        own, own_slope = own * self.same, own_slope * self.same
        noise = np.diag(theta.noise * self.relative)
        matrix = theta.shared * shared + theta.own * own + theta.level * self.level + CONSTANT + noise
        matrix[np.diag_indices_from(matrix)] += JITTER
        factor, info = lapack.dpotrf(matrix, lower=1)
        if info != 0:
            return 1e10, np.zeros_like(vector)
        alpha = cho_solve((factor, True), self.values)
        inverse = lapack.dpotri(factor, lower=1)[0]
        inverse = np.tril(inverse) + np.tril(inverse, -1).T
        weights = 0.5 * (inverse - np.outer(alpha, alpha))
        away = (vector - self.prior.mean) / self.prior.std
        value = 0.5 * self.values @ alpha + np.log(np.diag(factor)).sum() + 0.5 * away @ away
        slopes = self._slopes(theta, coordinates, weights * theta.shared * shared_slope)
        own_pull = float((weights * theta.own * own_slope * self.gap).sum()) * -2 / theta.own_scale**2
        rest = [
            theta.shared * (weights * shared).sum(),
            theta.own * (weights * own).sum(),
            own_pull,
            theta.level * (weights * self.level).sum(),
            theta.noise * (np.diag(weights) @ self.relative),
        ]
        return float(value), np.concatenate([slopes, rest]) + away / self.prior.std

    def _slopes(self, theta: _Theta, coordinates: Array, weights: Array) -> Array:
        """Derivatives by the log length scales and the drift."""
        x = coordinates
        scales = [-2 * _pull(weights, x[:, j], x[:, j]) for j in range(x.shape[1])]
        drift = 2 * _pull(weights, x[:, 0], self.points.log_steps / theta.scales[0])
        return np.array([*scales, drift])


def fit_theta(points: Points, values: Array, prior: Prior, relative: Array, steps: int = 25) -> Array:
    """Most probable hyper-parameters; too few points leave the prior's."""
    if len(values) < 3:
        return prior.mean.copy()
    objective = _Objective(points, values, prior, relative)
    bounds = list(zip(prior.mean - 3 * prior.std, prior.mean + 3 * prior.std, strict=True))
    found = minimize(objective, prior.mean, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": steps})
    return np.asarray(found.x) if np.isfinite(found.fun) and found.fun < 1e9 else prior.mean.copy()


class Process:
    """The process conditioned on observations (`relative` is each one's share of the noise variance)."""

    def __init__(self, theta: Array, points: Points, values: Array, relative: Array) -> None:
        self.theta, self.points = _Theta(theta), points
        matrix = self.theta.covariance(points, points)
        matrix[np.diag_indices_from(matrix)] += self.theta.noise * relative + JITTER
        self.factor = np.linalg.cholesky(matrix) if len(points) else np.zeros((0, 0))
        self.weights = cho_solve((self.factor, True), values) if len(points) else np.zeros(0)

    def project(self, points: Points) -> tuple[Array, Array]:
        """Posterior mean, and the whitened covariance with the observations (for variances and covariances)."""
        if not len(self.points):
            return np.zeros(len(points)), np.zeros((0, len(points)))
        cross = self.theta.covariance(self.points, points)
        return cross.T @ self.weights, solve_triangular(self.factor, cross, lower=True, check_finite=False)

    def surprises(self) -> Array:
        """How many standard deviations each observation lies above what all the others foretell, noise included."""
        if not len(self.points):
            return np.zeros(0)
        inverse = cho_solve((self.factor, True), np.eye(len(self.points)))
        return np.asarray(self.weights / np.sqrt(np.diag(inverse)))

    def predict(self, points: Points) -> tuple[Array, Array]:
        """Posterior mean and variance, without noise."""
        mean, white = self.project(points)
        return mean, np.maximum(self.theta.variance(points) - (white * white).sum(0), 1e-10)
