"""The `curve` search: what to train next, over which horizon, up to which step.

`decide` is a pure function of the runs so far and the options. It weighs every possible next piece of training by
the improvement it may bring for its *remaining* cost: training an option to its end, or looking first at a part of
it or at a shorter whole schedule, which is worth as much as it is known, in this job, to tell about the end.
"""

from collections.abc import Sequence

import numpy as np
from scipy.special import ndtr

from lrtune.search.engine.costs import Options, Plan, Settings, looks
from lrtune.search.engine.gittins import best_rates
from lrtune.search.engine.initial_design import medoids, spread_out
from lrtune.search.engine.model import JobModel
from lrtune.search.engine.types import Array, Choice, Ints, Pool, Run

ENDS = np.array([-1.0, 0.0, 1.0])
SHORTER_FOR = 12  # of the shortlist, for how many short schedules are weighed


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
        self.options = Options(pool, runs, target, settings)
        whole = np.flatnonzero(pool.horizons == target)
        self.full = np.array([r for r in whole if self.options.owed(int(r), target) <= left + 1e-9], dtype=np.int64)

    # The designed start

    def start(self) -> Choice | None:
        """First looks spread over the embedded space, from its middle outwards, where a look is cheap."""
        wanted, tried = looks(self.pool, self.settings), len({run.key for run in self.runs})
        if tried >= wanted or tried >= len(self.full) or self.left <= 1.0:
            return None
        space, runs = spread_out(self.pool, self.full, self.runs)
        middles = [m for m in medoids(space, wanted, self.random) if self.options.open(int(self.full[m]))]
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
        full = np.array([r for r in self.full if self.options.open(int(r))], dtype=np.int64)
        if not len(full):
            return self._nothing_left() if np.isinf(self.left) else None
        mean, variance, _ = model.forecast(full)
        std = np.sqrt(variance)
        forced = self._confirm(model, full, mean, std)
        if forced is not None:
            return forced
        price = np.array([self.options.price(int(r), self.target) for r in full])
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
        return self.options.owed(next(i for i, row in enumerate(rows) if row == (move.key, move.horizon)), move.until)

    def _reserve(self, full: Ints, mean: Array) -> float:
        """What it takes to bring the leader of those looked at to its end."""
        touched = {run.key for run in self.runs}
        known = [i for i, r in enumerate(full) if self.pool.keys[r] in touched]
        return self.options.owed(int(full[min(known, key=lambda i: mean[i])]), self.target) if known else 0.0

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
        plans = [plan for i, row in enumerate(short) for plan in self.options.plans(int(row), shorter=i < SHORTER_FOR)]
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
