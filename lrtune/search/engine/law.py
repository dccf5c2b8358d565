"""A loss-curve law: what a training loss comes to under any history of learning rates.

    loss = floor + A (S + S0)^-a  +  c ∫ r^q (1 + C (S - s))^-b ds  +  d r_now^p,      ds = r / (1 + (r / edge)²) dt

`S` is what has been trained: the integral of the *effective* rate over time. The first power is progress; the integral
is noise that each rate brings and that whatever is trained after it forgets; the last is the noise of the rate of just
now. A rate far beyond the edge of stability brings noise and no progress. This is the form of the functional
scaling laws (Li et al. 2025, arXiv:2509.19189; see also the multi-power law, Luo et al. 2025); that the effective rate
saturates, and the priors, are ours. Time is in target horizons, rates are in units that who asks chooses.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

Array = NDArray[np.float64]

NAMES = ("floor", "A", "S0", "a", "c", "q", "C", "b", "edge", "d", "p")  # logarithms but for floor, q and p
SLOWEST = 1e-12  # a rate below it is none
KNEE = 3.0  # standard deviations, beyond which an observation pulls no harder
REACH = 4.0  # prior standard deviations, within which the parameters are looked for


@dataclass(frozen=True)
class Histories:
    """Histories by even parts of a horizon: learning `rates`, (n, cells), and the `time`, (n, cells), spent in each."""

    rates: Array
    time: Array

    def __len__(self) -> int:
        return len(self.rates)

    @cached_property
    def log_rates(self) -> Array:
        """Logarithms of the rates, (n, cells)."""
        return np.asarray(np.log(self.rates))

    def take(self, index: NDArray[np.int64]) -> "Histories":
        """Some of the histories."""
        return Histories(self.rates[index], self.time[index])


def histories(curves: Array, horizons: Array, steps: Array, target: int, unit: float) -> Histories:
    """What curves, (n, cells), over their horizons, (n,), have been up to a step, (n,); rates in units of `unit`."""
    cell = horizons[:, None] / target / curves.shape[1]
    time = np.clip(steps[:, None] / target - np.arange(curves.shape[1]) * cell, 0.0, cell)
    return Histories(np.maximum(np.abs(curves) / unit, SLOWEST), time)


@dataclass(frozen=True)
class Beliefs:
    """Independent normal priors of the law's parameters: means and standard deviations, (11,) each, as in `NAMES`."""

    mean: Array
    std: Array


def beliefs(seen: Histories, values: Array, edge: float, edge_std: float = 1.0) -> Beliefs:
    """Weak priors: exponents as the literature has them, amplitudes from what was seen, the edge as it is expected."""
    low, spread = float(values.min()), max(float(np.ptp(values)), 1e-9)
    trained = max(float(np.median((seen.rates * seen.time).sum(1))), 1e-9)
    mean = np.array(
        [low - 0.3 * spread, np.log(0.7 * spread) + 0.5 * np.log(trained), np.log(0.05 * trained), np.log(0.5)]
    )
    noise = np.array([np.log(0.3 * spread / trained), 0.5, np.log(10.0 / trained), 0.0])
    now = np.array([np.log(edge), np.log(0.05 * spread), 0.7])
    std = np.array([spread, 1.5, 2.0, 0.4, 2.5, 0.5, 2.0, 0.5, edge_std, 1.5, 0.4])
    return Beliefs(np.concatenate([mean, noise, now]), std)


class Law:
    """The law at one parameter vector, (11,), for n histories: its `value`, (n,), and its exact `jacobian`."""

    def __init__(self, parameters: Array, seen: Histories) -> None:
        self.floor, q, power = parameters[0], parameters[5], parameters[10]
        amount, self.offset, self.decay, noise, self.forgetting, self.memory, edge, now = np.exp(
            parameters[[1, 2, 3, 4, 6, 7, 8, 9]]
        )
        self.beyond = (seen.rates / edge) ** 2
        self.step = seen.rates / (1 + self.beyond) * seen.time
        done = self.step.cumsum(axis=1)
        self.trained = done[:, -1]
        self.after = np.maximum(self.trained[:, None] - done + 0.5 * self.step, 0.0)  # from the middle of each cell
        self.log_rates = seen.log_rates
        self.forgotten = np.log1p(self.forgetting * self.after)
        self.kernel = noise * np.exp(q * self.log_rates - self.memory * self.forgotten)
        self.part = self.kernel * self.step
        self.progress = amount * (self.trained + self.offset) ** -self.decay
        last = np.maximum((seen.time > 0).sum(axis=1) - 1, 0)
        self.log_now = self.log_rates[np.arange(len(seen)), last]
        self.now = now * np.exp(power * self.log_now)
        self.value = self.floor + self.progress + self.part.sum(axis=1) + self.now

    def jacobian(self) -> Array:
        """Derivatives of the value by each parameter, (n, 11)."""
        total = self.trained + self.offset
        steeper = -self.memory * self.forgetting / (1 + self.forgetting * self.after)  # of log kernel, by what is after
        step = 2 * self.step * self.beyond / (1 + self.beyond)  # by the log edge, as all that follows
        trained = step.sum(axis=1)
        after = trained[:, None] - step.cumsum(axis=1) + 0.5 * step
        columns = [
            np.ones(len(total)),
            self.progress,
            -self.progress * self.decay * self.offset / total,
            -self.progress * self.decay * np.log(total),
            self.part.sum(axis=1),
            (self.part * self.log_rates).sum(axis=1),
            (self.part * steeper * self.after).sum(axis=1),
            -self.memory * (self.part * self.forgotten).sum(axis=1),
            (self.kernel * step + self.part * steeper * after).sum(axis=1)
            - self.progress * self.decay * trained / total,
            self.now,
            self.now * self.log_now,
        ]
        return np.stack(columns, axis=1)


def fit_law(seen: Histories, values: Array, sigma: Array, prior: Beliefs, most: int = 30) -> Array:
    """Most probable parameters, (11,), by least squares that an outlier pulls no harder than `KNEE` sigma does.

    `sigma`, (n,), is by how much the law may be off at each value. It starts at the prior's mean.
    """
    n, last = len(values), list[tuple[Array, Law]]()

    def at(z: Array) -> Law:
        if not last or not np.array_equal(last[0][0], z):
            last[:] = [(z.copy(), Law(prior.mean + prior.std * z, seen))]
        return last[0][1]

    def residuals(z: Array) -> Array:
        return np.concatenate([(at(z).value - values) / sigma, z])

    def slopes(z: Array) -> Array:
        return np.concatenate([at(z).jacobian() * prior.std / sigma[:, None], np.eye(len(z))])

    def huber(squares: Array) -> Array:
        """As least squares want it: the loss by each squared residual, its slope and its curvature; none for priors."""
        far = np.concatenate([squares[:n] > KNEE**2, np.zeros(len(squares) - n, dtype=bool)])
        root = np.sqrt(np.maximum(squares, 1e-12))
        loss = np.where(far, 2 * KNEE * root - KNEE**2, squares)
        return np.array([loss, np.where(far, KNEE / root, 1.0), np.where(far, -0.5 * KNEE / root**3, 0.0)])

    start = np.zeros(len(prior.mean))
    with np.errstate(over="ignore", invalid="ignore"):
        found = least_squares(residuals, start, slopes, bounds=(-REACH, REACH), loss=huber, max_nfev=most)
    return np.asarray(prior.mean + prior.std * found.x)
