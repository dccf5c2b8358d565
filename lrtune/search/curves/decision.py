"""The `curve` search: what to train next, over which horizon, up to which step.

`decide` is a pure function of the runs so far and the options. It weighs every possible next piece of training by
the improvement it may bring for its *remaining* cost: training an option to its end, or looking first at a part of
it or at a shorter whole schedule, which is worth as much as it is known, in this job, to tell about the end.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from lrtune.search.curves.model import JobModel
from lrtune.search.curves.stages import best_rates
from lrtune.search.curves.start import medoids, spread_out
from lrtune.search.curves.view import Array, Choice, Ints, Pool, Run

ENDS = np.array([-1.0, 0.0, 1.0])
MOST_LOOKS, MOST_RUNS = 16, 10  # of the designed start, whatever the number of other knobs
SHORTER_FOR = 12  # of the shortlist, for how many short schedules are weighed


@dataclass(frozen=True)
class Settings:
    """Switches of the search; all on is the product, each off is an ablation.

    `embedding` is read by who makes the pool: off, a curve is flat at its peak and its family is a knob. `sign` is -1
    where values are told negated; only the reasons read it.
    """

    embedding: bool = True
    short_horizons: bool = True
    partial_runs: bool = True
    cost: bool = True
    start: int = 6
    shortlist: int = 30
    patience: float = 1.5
    sign: float = 1.0


@dataclass(frozen=True)
class Plan:
    """Stages of training that end at the target horizon: pool rows, steps to reach, price of each stage."""

    rows: list[int]
    until: list[float]
    price: list[float]


def looks(pool: Pool, settings: Settings) -> int:
    """How many configurations the designed start takes."""
    return min(settings.start + 2 * len(pool.extras[0]), MOST_LOOKS if settings.partial_runs else MOST_RUNS)


def _padded(values: list[float] | list[int], width: int) -> list[float]:
    return [float(v) for v in values] + [float(values[-1])] * (width - len(values))


def improvement(best: float, mean: Array, std: Array) -> Array:
    """Expected amount by which a normal variable falls below `best`."""
    z = (best - mean) / std
    return np.asarray((best - mean) * ndtr(z) + std * np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi))


class Search:
    """One decision: the pool, the runs, and the model that ties them together."""

    def __init__(
        self, pool: Pool, runs: Sequence[Run], target: int, seed: int, settings: Settings, left: float = np.inf
    ) -> None:
        self.pool, self.runs, self.target, self.settings, self.left = pool, list(runs), target, settings, left
        self.random = np.random.default_rng(seed)
        self.steps = {(run.key, run.horizon): run.until if run.state == "running" else run.steps for run in runs}
        closed = ("diverged", "running") if settings.partial_runs else ("diverged", "running", "stopped")
        self.over = {(run.key, run.horizon) for run in runs if run.state in closed}
        whole = np.flatnonzero(pool.horizons == target)
        self.full = np.array([r for r in whole if self.owed(int(r), target) <= left + 1e-9], dtype=np.int64)
        self.shorter: dict[str, list[int]] = {}
        for row in np.flatnonzero(pool.horizons < target):
            self.shorter.setdefault(pool.keys[row], []).append(int(row))

    def trained(self, row: int) -> int:
        """How many steps of an option have been trained."""
        return self.steps.get((self.pool.keys[row], int(self.pool.horizons[row])), 0)

    def open(self, row: int) -> bool:
        """Whether an option has steps left to train."""
        key = self.pool.keys[row], int(self.pool.horizons[row])
        return key not in self.over and self.trained(row) < key[1]

    def price(self, row: int, until: float) -> float:
        """New steps that reaching `until` costs, in full runs; never quite nothing."""
        free = max(int(self.pool.free[row]), self.trained(row))
        return float(max(until - free, 0.02 * self.pool.every[row])) / self.target

    def owed(self, row: int, until: float) -> float:
        """What reaching `until` costs at most, in full runs: where nothing of other runs can be had after all."""
        return max(until - self.trained(row), 0.0) / self.target

    # The designed start

    def start(self) -> Choice | None:
        """First looks spread over the embedded space, from its middle outwards, where a look is cheap."""
        wanted, tried = looks(self.pool, self.settings), len({run.key for run in self.runs})
        if tried >= wanted or tried >= len(self.full) or self.left <= 1.0:
            return None
        space, runs = spread_out(self.pool, self.full, self.runs)
        middles = [m for m in medoids(space, wanted, self.random) if self.open(int(self.full[m]))]
        if not middles:
            return None
        if len(runs):  # the representative that is least represented so far
            gaps = [float(((runs - space[m]) ** 2).sum(1).min()) for m in middles]
            if max(gaps) <= 1e-12:
                return None
            return self._first_look(int(self.full[middles[int(np.argmax(gaps))]]))
        return self._first_look(int(self.full[middles[0]]))

    def _first_look(self, row: int) -> Choice:
        until = self.target if not self.settings.partial_runs else int(self.pool.every[row])
        return self.choice(row, until, f"first look {len(self.runs) + 1}: spread over the space of curves")

    def choice(self, row: int, until: float, reason: str) -> Choice:
        """An option in words."""
        return Choice(self.pool.keys[row], int(self.pool.horizons[row]), int(until), reason)

    # Expected improvement per remaining cost

    def decide(self, model: JobModel) -> Choice | None:
        """What is worth most per cost, by what the model expects; None where nothing can be brought to an end."""
        full = np.array([r for r in self.full if self.open(int(r))], dtype=np.int64)
        if not len(full):
            return self._nothing_left() if np.isinf(self.left) else None
        mean, variance, _ = model.forecast(full)
        std = np.sqrt(variance)
        forced = self._confirm(model, full, mean, std)
        if forced is not None:
            return forced
        price = np.array([self.price(int(r), self.target) for r in full])
        if self.left <= 1.0:
            return self._finish(model, full, mean, std, price)
        best = self._bar(model, full, mean)
        gain = improvement(best, mean, std)
        rate = gain / price if self.settings.cost else gain
        short = full[np.argsort(-rate, kind="stable")[: self.settings.shortlist]]
        move = self._best_move(model, short, best)
        if move.until == self.target == move.horizon or self.left - self._cost(move) >= self._reserve(full, mean):
            return move
        return self._finish(model, full, mean, std, price)

    def _cost(self, move: Choice) -> float:
        rows = zip(self.pool.keys, self.pool.horizons, strict=True)
        return self.owed(next(i for i, row in enumerate(rows) if row == (move.key, move.horizon)), move.until)

    def _reserve(self, full: Ints, mean: Array) -> float:
        """What it takes to bring the leader of those looked at to its end."""
        touched = {run.key for run in self.runs}
        known = [i for i, r in enumerate(full) if self.pool.keys[r] in touched]
        return self.owed(int(full[min(known, key=lambda i: mean[i])]), self.target) if known else 0.0

    def _finish(self, model: JobModel, full: Ints, mean: Array, std: Array, price: Array) -> Choice:
        """With little left looks are no use: the run whose end is worth most for its cost is trained to it."""
        done = self._scores(model)
        gain = improvement(float(done.min()) if len(done) else model.mean, mean, std)
        pick = int(np.argmax(gain / price if self.settings.cost else gain))
        return self._explain(model, Plan([int(full[pick])], [self.target], []), mean[pick], std[pick], 1.0)

    def _nothing_left(self) -> Choice:
        row = int(self.full[self.random.integers(len(self.full))])
        return self.choice(row, self.target, "every configuration is known: a new seed")

    def completed(self) -> list[Run]:
        """The runs that reached the target."""
        return [r for r in self.runs if r.horizon == self.target and r.steps == self.target and r.state != "diverged"]

    def _scores(self, model: JobModel) -> Array:
        """Standing of the completed runs."""
        finals = np.array([run.reports[-1][1] for run in self.completed()])
        return model.levels.score(np.full(len(finals), self.target), finals)

    def _bar(self, model: JobModel, full: Ints, mean: Array) -> float:
        """What has to be beaten: the best that is known or expected of what has been looked at."""
        scores = self._scores(model)
        touched = {run.key for run in self.runs}
        looked = [m for r, m in zip(full, mean, strict=True) if self.pool.keys[r] in touched]
        return float(min([*scores, *looked], default=model.mean))

    def _confirm(self, model: JobModel, full: Ints, mean: Array, std: Array) -> Choice | None:
        """Looks alone are no answer: after a while the leader is trained to its end."""
        spent = self._unconfirmed()
        if spent < self.settings.patience:
            return None
        touched = {run.key for run in self.runs}
        known = [i for i, r in enumerate(full) if self.pool.keys[r] in touched]
        if not known:
            return None
        lead = min(known, key=lambda i: mean[i])
        done = self._scores(model)
        if len(done) and mean[lead] > done.min() - 0.2 * std[lead]:
            return None  # nothing looked at is expected to beat what is confirmed
        return self.choice(int(full[lead]), self.target, "full-horizon confirmation of the leader")

    def _unconfirmed(self) -> float:
        """Full runs spent since a run last reached the target horizon."""
        spent = 0.0
        for run in reversed(self.runs):
            if run.horizon == self.target and run.steps == self.target:
                break
            spent += run.steps / self.target
        return spent

    def _best_move(self, model: JobModel, short: Ints, best: float) -> Choice:
        """The candidate whose training in stages brings most per cost; its first stage is done now."""
        plans = [plan for i, row in enumerate(short) for plan in self._plans(int(row), shorter=i < SHORTER_FOR)]
        width = max(len(plan.rows) for plan in plans)
        rows, until, price = (
            np.array([_padded(column, width) for column in columns])
            for columns in zip(*((p.rows, p.until, p.price) for p in plans), strict=True)
        )
        final = np.array([p.rows[-1] for p in plans], dtype=np.int64)
        informs = model.informs(rows.astype(np.int64).ravel(), until.ravel(), np.repeat(final, width))
        informs = informs.reshape(len(plans), width)
        informs[until >= self.target] = 1.0
        mean, variance, _ = model.forecast(final)
        price = np.where(np.arange(width) < np.array([len(p.rows) for p in plans])[:, None], price, 0.0)
        rates = best_rates(best, mean, np.sqrt(variance), informs, price if self.settings.cost else np.sign(price))
        pick = int(np.argmax(rates))
        return self._explain(model, plans[pick], float(mean[pick]), float(np.sqrt(variance[pick])), informs[pick, 0])

    def _explain(self, model: JobModel, plan: Plan, mean: float, std: float, informs: float) -> Choice:
        row, until = plan.rows[0], plan.until[0]
        low, value, high = (self.settings.sign * v for v in model.levels.value(self.target, mean + std * ENDS))
        text = f"forecast {value:.4g} ± {abs(high - low) / 2:.2g}"
        if done := self.completed():
            text += f", best so far {self.settings.sign * min(run.reports[-1][1] for run in done):.4g}"
        if self.pool.horizons[row] < self.target or until < self.target:
            text = f"look that resolves {informs:.0%} of the doubt: {text}"
        return self.choice(row, until, text)

    def _plans(self, full: int, shorter: bool) -> list[Plan]:
        """Ways of training one configuration to the target: in stages, or after a short whole schedule."""
        until = [*(self._checkpoints(full) if self.settings.partial_runs else ()), float(self.target)]
        totals = [self.price(full, u) for u in until]
        price = [totals[0], *np.diff(totals)]
        plans = [Plan([full] * len(until), until, price)]
        if self.settings.short_horizons and shorter:
            for row in self._shorter(full):
                end = float(self.pool.horizons[row])
                plans.append(Plan([row, *plans[0].rows], [end, *until], [self.price(row, end), *price]))
        return plans

    def _checkpoints(self, row: int) -> list[float]:
        """Where a run may be looked at next: the next report, then ever further."""
        every, trained = int(self.pool.every[row]), max(self.trained(row), int(self.pool.free[row]))
        trained = trained // every * every
        stops, step = [], max(every, trained + every, int(trained * 1.5) // every * every)
        while step < 0.9 * self.target:
            stops.append(float(step))
            step = max(step + every, int(step * 1.6) // every * every)
        return stops

    def _shorter(self, full: int) -> list[int]:
        """The shorter whole schedules of a configuration that are not trained yet."""
        return [row for row in self.shorter.get(self.pool.keys[full], []) if self.open(row)]


def decide(
    pool: Pool,
    runs: Sequence[Run],
    target: int,
    seed: int = 0,
    settings: Settings | None = None,
    theta: Array | None = None,
    left: float = np.inf,
) -> tuple[Choice | None, Array | None]:
    """What to train next, and the hyper-parameters, which the next call may reuse.

    `left` is what may still be spent, in full runs; None where no run can be brought to its end for it.
    """
    search = Search(pool, runs, target, seed, settings or Settings(), left)
    first = search.start()
    if first is not None:
        return first, theta
    model = JobModel(pool, runs, target, theta)
    return search.decide(model), model.theta
