"""Two models of a job's runs, each believed as far as it foretells reports that it has not seen.

`JobModel` is a process over scores and assumes little; `LawModel` knows how training losses behave, if this one does.
Each forecasts the last report of every run from the other runs alone. The law's share in the mixture of both is the
mean of its posterior distribution, given what densities the two gave to what was then reported: stacking of predictive
distributions (Yao et al. 2018, "Using stacking to average Bayesian predictive distributions"), averaged over the share
and not maximised, so that nothing switches.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
from scipy.special import expit, gammaln, ndtr

from lrtune.search.engine.costs import Settings
from lrtune.search.engine.gp import Evidence
from lrtune.search.engine.law_model import ENOUGH, LawFit, LawModel
from lrtune.search.engine.model import JobModel
from lrtune.search.engine.types import Array, Ints, Pool, Run

Model = TypeVar("Model", JobModel, LawModel, "WeighedModel")
FREEDOM = 4.0  # degrees of freedom of the t distribution that a forecast counts as: one surprise does not decide
SHARES = np.linspace(0.0, 1.0, 101)  # of the law
ALLOWED = 4.0  # by which the sum of the law's log densities may lie behind
LEAST_VARIANCE = 1e-10  # of a score
NARROWEST, HALVINGS = 1e-3, 30  # of a standard deviation, the least that is looked at; and how finely


def improvement(best: float, mean: Array, std: Array) -> Array:
    """Expected amount by which normal variables fall below `best` (expected improvement, Jones et al. 1998)."""
    z = (best - mean) / std
    return np.asarray((best - mean) * ndtr(z) + std * np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi))


@dataclass(frozen=True)
class Fitted:
    """What a job's models were fitted to, for others of almost the same runs; without a `share` it is weighed."""

    theta: Array
    law: LawFit | None
    share: float | None = None


def log_density(error: Array, variance: Array) -> Array:
    """Log density, (n,), of what lay this far off its forecast, as of a t distribution of this squared scale."""
    shape = gammaln((FREEDOM + 1) / 2) - gammaln(FREEDOM / 2) - 0.5 * np.log(FREEDOM * np.pi * variance)
    return np.asarray(shape - (FREEDOM + 1) / 2 * np.log1p(error * error / variance / FREEDOM))


def expected_share(one: Array, other: Array, silent: int = 0) -> float:
    """The expected share of the first of two models in their mixture, given the log densities, (n,), of each.

    Beforehand all shares are as likely; of each hyper-parameter of which the first is `silent`, and that may matter as
    much as all it speaks of, the other has one more claim (a beta distribution of 1 and 1 + silent).

    A few runs in a hundred may be like a model that is wrong. Where all together speak against it, it is not believed
    even as far as that: the share is multiplied by the chance that it is not behind. That is the logistic function of
    the sum of what it is ahead by, averaged over how far that sum might go if each run were as likely to go either way.
    """
    highest, better = np.maximum(one, other), one - other
    first, second = np.exp(one - highest), np.exp(other - highest)
    mixed = SHARES[:, None] * first + (1 - SHARES)[:, None] * second
    log = np.log(np.maximum(mixed, 1e-300)).sum(axis=1) + silent * np.log(np.maximum(1 - SHARES, 1e-300))
    weight = np.exp(log - log.max())
    chance = expit(ALLOWED + better.sum() / np.sqrt(1 + np.pi / 8 * (better**2).sum()))
    return float((weight * SHARES).sum() / weight.sum() * chance)


def law_share(law: Evidence, process: Evidence, knobs: int = 0) -> float:
    """How far the law is to be believed, by the last report of each run, foretold from the others; as values.

    `knobs` are the hyper-parameters besides the rates, of which the law says nothing.
    """
    both = []
    for run in np.unique(law.run[law.seen]):
        by_law, by_process = law.foretold(law.run == run), process.foretold(process.run == run)
        if run in by_law and run in by_process:
            both.append((*by_law[run], *by_process[run]))
    columns = np.array(both).reshape(len(both), 6).T
    return expected_share(log_density(*columns[:2]) + columns[2], log_density(*columns[3:5]) + columns[5], knobs)


@dataclass(frozen=True)
class Forecast:
    """What k models, each with the chance in `weights`, (k,), to be right, say of n scores: `means`, `stds`, (k, n)."""

    weights: Array
    means: Array
    stds: Array

    @cached_property
    def mean(self) -> Array:
        """Of their mixture, (n,)."""
        return np.asarray(self.weights @ self.means)

    @cached_property
    def std(self) -> Array:
        """Of their mixture, (n,): how far the models lie apart is part of it."""
        return np.asarray(np.sqrt(self.weights @ (self.stds**2 + (self.means - self.mean) ** 2)))

    def take(self, index: Ints | list[int]) -> "Forecast":
        """Of some of the scores."""
        return Forecast(self.weights, self.means[:, index], self.stds[:, index])

    def improvement(self, best: float) -> Array:
        """Expected improvement on the `best`, (n,), by a normal variable like the mixture, where it promises that too.

        Where one model says that a run ends badly and the other that it ends worse, the two lie far apart, and a normal
        variable as wide as that has a tail that neither believes in. So how far they lie apart widens it no more than
        the mixture's own expected improvement bears out.
        """
        itself = self.weights @ improvement(best, self.means, self.stds)
        together, apart = np.sqrt(self.weights @ self.stds**2), self.std
        return np.clip(itself, improvement(best, self.mean, together), improvement(best, self.mean, apart))

    def hoped(self, best: float) -> Array:
        """Standard deviations, (n,), of normal variables around the mixture's mean that promise that `improvement`."""
        wanted = self.improvement(best)
        low, high = np.full(len(wanted), np.log(NARROWEST)), np.zeros(len(wanted))
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            less = improvement(best, self.mean, self.std * np.exp(middle)) < wanted
            low, high = np.where(less, middle, low), np.where(less, high, middle)
        return np.asarray(self.std * np.exp(high))


class WeighedModel:
    """Forecasts of normalised scores (lower is better) by both models' mixture."""

    def __init__(
        self, pool: Pool, runs: Sequence[Run], target: int, settings: Settings, fitted: Fitted | None = None
    ) -> None:
        self.pool, self.runs, self.target = pool, list(runs), target
        nothing = None if settings.idle else np.inf
        self.process = JobModel(pool, runs, target, fitted.theta if fitted else None, nothing=nothing)
        self.normaliser, self.mean = self.process.normaliser, self.process.mean
        self.law: LawModel | None = None
        self.share = 0.0
        if settings.law_share != 0.0 and np.isfinite(self.process.seen.values).sum() >= ENOUGH:
            self.law = LawModel(pool, runs, target, fitted.law if fitted else None, settings.edge)
            knobs = int((np.ptp(pool.extras, axis=0) > 0).sum())
            known = settings.law_share or (fitted.share if fitted else None)
            self.share = law_share(self.law.evidence(), self.process.evidence(), knobs) if known is None else known
        self.fitted = Fitted(self.process.theta, self.law.fit if self.law else None, self.share)

    def over(self, pool: Pool, runs: Sequence[Run]) -> "WeighedModel | None":
        """The same model asked about other options; None where it would not be the same: of other runs or other units.

        It is what would come of making one anew from what was `fitted`, and saves that.
        """
        was, scaled = self.pool, pool.extras.shape[1] == self.pool.extras.shape[1]
        scaled = scaled and np.array_equal(pool.centre, was.centre) and np.array_equal(pool.unit, was.unit)
        if not scaled or self.runs != list(runs):
            return None
        same = _asked_about(self, pool)
        same.process, same.law = _asked_about(self.process, pool), self.law and _asked_about(self.law, pool)
        return same

    def forecast(self, rows: Ints, *, fresh: bool = False) -> Forecast:
        """The normalised score that each option has at the end of its horizon, by the process and, if any, the law.

        `fresh`: over a seed that nobody has run.
        """
        mean, variance = self.process.forecast(rows, fresh=fresh)
        if self.law is None:
            return Forecast(np.ones(1), mean[None], np.sqrt(variance)[None])
        by_law, law_variance = self._scores(self.law, rows, fresh=fresh)
        return Forecast(
            np.array([1 - self.share, self.share]),
            np.array([mean, by_law]),
            np.sqrt(np.array([variance, law_variance])),
        )

    def variance_explained(self, rows: Ints, ends: Array, targets: Ints) -> Array:
        """Share of the variance of each target's final score that training an option to a step explains, (n,), 0..1.

        Each model's own, by the variance that each has to explain.
        """
        explained = self.process.variance_explained(rows, ends, targets)
        if self.law is None:
            return explained
        once, place = np.unique(targets, return_inverse=True)
        variance, law_variance = self.process.forecast(once)[1][place], self._scores(self.law, once)[1][place]
        by_law = self.law.variance_explained(rows, ends, targets) * law_variance
        return np.asarray(self._mixed(by_law, explained * variance) / self._mixed(law_variance, variance))

    def _mixed(self, by_law: Array, by_process: Array) -> Array:
        return np.asarray(self.share * by_law + (1 - self.share) * by_process)

    def _scores(self, law: LawModel, rows: Ints, *, fresh: bool = False) -> tuple[Array, Array]:
        """The law's forecasts as scores: mean, and by what lies a standard deviation to both sides, variance; (n,)."""
        (mean, std), ends = law.forecast(rows, fresh=fresh), self.pool.horizons[rows].astype(float)
        low, middle, high = (self.normaliser.score(ends, mean + off * std) for off in (-1.0, 0.0, 1.0))
        return middle, np.maximum(((high - low) / 2) ** 2, LEAST_VARIANCE)


def _asked_about(model: Model, pool: Pool) -> Model:
    """The same model of other options, whose other hyper-parameters have the same mean and deviation."""
    same = copy(model)
    same.pool = pool
    vars(same).pop("_run_of_row", None)  # which was cached for the others
    return same
