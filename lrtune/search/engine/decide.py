"""The `curve` search: what to train next, over which horizon, up to which step.

`decide` is a pure function of the runs so far and the options. It weighs every possible next stage of training by
the improvement it may bring for its *remaining* cost: training an option to its end, or first a part of it or a run
over a shorter horizon, which is worth as much as, in this job, it is known to explain of the end.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lrtune.search.engine.costs import WITNESSES, Options, Settings, design_size
from lrtune.search.engine.early_stop import LIKE, Past, decay_ahead
from lrtune.search.engine.features import nearly_equal
from lrtune.search.engine.gittins import gittins_index
from lrtune.search.engine.initial_design import TRUNK, luby, next_of_design
from lrtune.search.engine.normalise import in_words
from lrtune.search.engine.nothing_learned import learned, level, moved, standstill, waking
from lrtune.search.engine.types import Array, Decision, Ints, Pool, Run, under_way
from lrtune.search.engine.weighing import Fitted, Forecast, WeighedModel

SHORTER_FOR = 12  # of the shortlist, for how many runs over shorter horizons are weighed
ANNEALS = 0.5  # of its highest rate, by which the rate of a run must still fall to promise more than it shows
LEAST_COMPLETED = 3  # runs that had as much decay ahead, from which on the model knows how such runs end
FAMILIES_FROM, FAMILIES_LEAVE = 0.5, 0.25  # of the budget: with so much left families are tried, which leaves so much
FAMILIES_EARLIEST = 0.75  # of the budget that may be left when many families are to be tried
FAMILIES_MANY = 6.0  # full runs of a budget from which on that is so: a smaller one has no runs for guesses
FEW = 4  # decisions asked for at once, up to which a model is made for each
ONE_RUN = 1.0 + 1e-6  # full run left, and what rounding makes of it
ORDERS = 10.0  # times the best whole run, or more, is what runs begin at where losses fall by orders of magnitude
CLEARLY = 0.2  # standard deviations below the best, by which a forecast must lie to be worth a confirmation


def decide(
    pool: Pool,
    runs: Sequence[Run],
    target: int,
    seed: int = 0,
    settings: Settings | None = None,
    fitted: Fitted | None = None,
    left: float = np.inf,
) -> tuple[Decision | None, Fitted | None]:
    """What to train next, and the model's hyper-parameters, which the next call may reuse.

    `runs` have the one trained last at the end; `left` is what may still be spent, in full runs. The decision is None
    where no run can be brought to its end for it.
    """
    found, fitted = decide_several(pool, runs, target, [seed], settings or Settings(), fitted, left)
    return (found[0] if found else None), fitted


def decide_several(
    pool: Pool,
    runs: Sequence[Run],
    target: int,
    seeds: Sequence[int],
    settings: Settings,
    fitted: Fitted | None = None,
    left: float = np.inf,
    model: WeighedModel | None = None,
) -> tuple[list[Decision], Fitted | None]:
    """A decision for each seed, as long as there are any, and the hyper-parameters; the first is that of `decide`.

    `model` is one of just these runs and options, where whoever asks has one.

    Each takes those before it for under way. Where more than a few are asked for one model is asked for all of them,
    since it takes longer to make than to ask; what is fitted for the first is good enough for all.
    """
    found, known = list[Decision](), list(runs)
    at_once = 1 if len(seeds) <= FEW else len(seeds)
    while len(found) < len(seeds):
        search = Search(pool, known, target, seeds[len(found)], settings, left)
        first = search.initial_design() or search.until_something_learns()
        if first is not None:
            more = [first]
        else:
            model = model if model and not found else WeighedModel(pool, known, target, settings, fitted)
            fitted = model.fitted
            more = search.several(model, min(at_once, len(seeds) - len(found)))
        if not more:
            break
        for decision in more:
            known, steps = under_way(pool, known, decision)
            left -= steps / target
        found += more
    return found, fitted


class Search:
    """One decision's options and runs. A full run is one over the target horizon, to its end."""

    def __init__(
        self, pool: Pool, runs: Sequence[Run], target: int, seed: int, settings: Settings, left: float
    ) -> None:
        self.pool, self.runs, self.target, self.settings, self.left = pool, list(runs), target, settings, left
        self.random = np.random.default_rng(seed)
        self.options = Options(pool, runs, target, settings)
        self.full = self.options.affordable(left)
        self.completed = [run for run in self.runs if run.completed(target)]
        self.nothing = level(runs) if settings.idle else np.inf
        self.fruitful = any(learned(run, self.nothing) for run in runs)
        # Who stands still learns nothing, be it below where others begin. As long as all do and half of what there is
        # to spend is left, none of them is trained to its end.
        low, spent = standstill(runs) if settings.idle else np.inf, sum(run.steps for run in runs) / target
        known = np.isfinite(low) and (any(learned(run, low) for run in runs) or left > max(spent, 1.0))
        self.waking = waking(runs, low) if known else {}
        self.idle = {run.key for run in runs if known and run.reports and not learned(run, low)}

    def initial_design(self) -> Decision | None:
        """The first configurations, spread over the space, up to their first report where runs may be partial.

        None where one has been trained to its end and one more is all that there is room for: that is to be good, not
        far from others, and what the law expects beforehand says more than nothing. The only run there is room for, of
        which nobody knows anything, goes to its end: a stage would leave too little for any.
        """
        last = self.left <= ONE_RUN
        if (last and any(run.reports for run in self.runs)) or (self.completed and self.left < 1.0 + TRUNK):
            return None
        found = next_of_design(self.options, self.full, self.runs, self.random)
        if found is None:
            return None
        row, until = found[0], self.target if last else found[1]
        reason = f"initial design {len(self.runs) + 1}: spread over the space of curves"
        return Decision(row, self.target, until, reason)

    def until_something_learns(self) -> Decision | None:
        """Another configuration, as long as those tried learn nothing and half of what there is to spend is left.

        How long a run must be to show that it learns nobody knows, so the lengths are, in reports, those of Luby's
        sequence: 1, 1, 2, 1, 1, 2, 4, ... (Luby et al. 1993, "Optimal speedup of Las Vegas algorithms").
        """
        spent = sum(run.steps for run in self.runs) / self.target
        if self.fruitful or not self.settings.partial_runs or self.left <= max(spent, 1.0):
            return None
        stands = f"{len(self.runs)} runs are no better than {self.settings.sign * self.nothing:.4g}"
        if (moving := self._moving()) is not None:
            row, steps = moving
            return Decision(row, self.target, min(2 * steps, self.target // 2), f"has begun to move, where {stands}")
        found = next_of_design(self.options, self.full, self.runs, self.random, beyond=True)
        if found is None:
            return None
        row = found[0]
        looks = len({run.key for run in self.runs}) - design_size(self.pool, self.settings) + 1
        until = min(luby(max(looks, 1)) * self.options.least_stage(row), self.target // 2)
        return Decision(row, self.target, until, f"nothing has learned anything yet: {stands}")

    def _moving(self) -> tuple[int, int] | None:
        """The row of the best of the runs that have left the level of nothing, and its steps; half of all are for them.

        None where all still stand there. What they lack to have learned something may be no more than time.
        """
        moving = [run for run in self.runs if run.state == "paused" and moved(run, self.nothing)]
        place = {self.pool.keys[row]: int(row) for row in self.full if self.options.open(int(row))}
        open_ = [run for run in moving if run.key in place and run.steps < self.target // 2]
        if not open_ or 2 * sum(run.steps for run in moving) > sum(run.steps for run in self.runs):
            return None
        best = min(open_, key=lambda run: run.reports[-1][1])
        return place[best.key], best.steps

    def most_valuable(self, model: WeighedModel) -> Decision | None:
        """The stage that is worth most for its cost, by what the model expects."""
        full = self._open()
        if not len(full):
            if self.left < np.inf:
                return None
            row = int(self.full[self.random.integers(len(self.full))])
            return Decision(row, self.target, self.target, "every configuration is known: a new seed")
        ends = self._forecast(model, full)
        whole = min(self._scores(model), default=model.mean)

        # Partial runs alone are no answer: after a while one of them is trained to its end.
        idle = self._idle(full)
        tried = self._tried(full)
        if (confirmed := self._overdue(full[tried], ends.take(tried), whole)) is not None:
            return Decision(confirmed, self.target, self.target, "full-horizon confirmation of the incumbent")
        if (other := self._untried_family(full, np.where(idle, np.inf, ends.mean))) is not None:
            reason = f"no whole run of {self.pool.families[other]} yet: the best forecast of it"
            return Decision(other, self.target, self.target, reason)

        if self.left > 1.0:
            decision = next(self._ranked(model, full, ends, self.settings.shortlist))
            whole_run = decision.until == self.target == decision.horizon
            if whole_run or self.left - self._cost(decision) >= self._reserve(full, ends.mean):
                return decision
        # With little left a partial run is no use: what is ahead of all whole runs, or is worth most, is trained to its
        # end. Where many learn nothing that is something that is known to learn.
        if (ahead := self._ahead(full)) is not None:
            return Decision(ahead, self.target, self.target, "stands better already than any whole run came to")
        if tried and np.isfinite(self.nothing):
            idle[np.setdiff1d(np.arange(len(full)), tried)] = True
        if idle.all() and self.completed and self.left < np.inf:
            return None
        pick = int(np.argmax(np.where(idle, -1.0, self._worth(full, ends.improvement(whole)))))
        return self._with_reason(model, int(full[pick]), self.target, ends.mean[pick], ends.std[pick], 1.0)

    def several(self, model: WeighedModel, wanted: int) -> list[Decision]:
        """The most valuable stage, and up to `wanted` in all: those with the next highest Gittins indices.

        The model knows nothing of one when the next is chosen, so none is of a configuration nearly equal to another.
        """
        first = self.most_valuable(model)
        full = self._open()
        if first is None or wanted == 1 or not len(full):
            return [] if first is None else [first]
        ends = self._forecast(model, full)
        found, left, reserve = [first], self.left - self._cost(first), self._reserve(full, ends.mean)
        for decision in self._ranked(model, full, ends, self.settings.shortlist + 2 * wanted):
            if len(found) == wanted or left <= 1.0:
                break
            enough = left - self._cost(decision) >= reserve
            if enough and not any(self._alike(decision.row, other.row) for other in found):
                found.append(decision)
                left -= self._cost(decision)
        return found

    def _alike(self, row: int, other: int) -> bool:
        """Whether two options are one configuration, or nearly so."""
        pool, two = self.pool, [row, other]
        both = np.column_stack([pool.features[two], pool.standardised(pool.extras[two])])
        return self.pool.keys[row] == self.pool.keys[other] or bool(nearly_equal(both[:1], both[1:])[0, 0])

    def _open(self) -> Ints:
        """The affordable options that may be trained now, (n,)."""
        return np.array([row for row in self.full if self.options.open(int(row))], dtype=np.int64)

    def _scores(self, model: WeighedModel) -> list[float]:
        """The normalised scores that whole runs have ended at."""
        finals = np.array([run.reports[-1][1] for run in self.completed])
        return [float(score) for score in model.normaliser.score(np.full(len(finals), self.target), finals)]

    def _tried(self, full: Ints) -> list[int]:
        """The places of the options of which something is known, and not that they learn nothing."""
        keys = {run.key for run in self.runs} - self.idle
        return [i for i, row in enumerate(full) if self.pool.keys[row] in keys]

    def _reserve(self, full: Ints, mean: Array) -> float:
        """What it costs at most to train the best that was tried to its end."""
        incumbent = min(self._tried(full), key=lambda i: mean[i], default=None)
        return 0.0 if incumbent is None else self.options.worst_cost(int(full[incumbent]), self.target)

    def _cost(self, decision: Decision) -> float:
        return self.options.worst_cost(decision.row, decision.until)

    def _overdue(self, tried: Ints, ends: Forecast, best: float) -> int | None:
        """The tried option to be trained to its end, after so many steps without a whole run; None if none is due.

        That the best forecast is clearly better than the `best` whole run makes one due; it is the one that promises
        most for its price, since of two that promise alike a run that is almost done shows sooner how runs end. One
        that is expected to end worse is no incumbent, however unsure that is: long shots are for stages to follow.
        """
        if not len(tried) or self._unconfirmed() < self.settings.patience:
            return None
        leader = int(np.argmin(ends.mean))
        if self.completed and ends.mean[leader] > best - CLEARLY * ends.std[leader]:
            return None
        if (ahead := self._ahead(tried)) is not None:
            return ahead
        worth = self._worth(tried, ends.improvement(best))
        return int(tried[np.argmax(np.where(ends.mean <= max(best, ends.mean[leader]), worth, -1.0))])

    def _ahead(self, rows: Ints) -> int | None:
        """The option that stands best of the paused ones that are ahead of all whole runs; None without.

        Only where losses fall by orders of magnitude: scores are of where runs begin there, on that scale what one is
        ahead by at the end is nothing, and long shots promise more. Elsewhere the model knows better who ends best.
        """
        past, begun = Past(self.runs), [run.reports[0][1] for run in self.runs if run.reports]
        if not begun or not 0 <= past.best(self.target) < float(np.median(begun)) / ORDERS:
            return None
        paused = [run for run in self.runs if run.state == "paused" and run.horizon == self.target]
        stands = {run.key: run.reports[-1][1] for run in paused if past.ahead(run)}
        ahead = [row for row in rows.tolist() if self.pool.keys[row] in stands]
        return min(ahead, key=lambda row: stands[self.pool.keys[row]], default=None)

    def _worth(self, rows: Ints, gain: Array) -> Array:
        """What training options to their ends gains, (n,), for what it costs."""
        price = self.options.prices(rows, self.target)
        gain = gain * self._chance(rows)
        return np.asarray(gain / price if self.settings.cost else gain)

    def _chance(self, rows: Ints) -> Array:
        """The chance of each option, (n,), to learn anything: that it does not stand still for good."""
        return np.array([self.waking.get(self.pool.keys[row], 1.0) for row in rows])

    def _untried_family(self, full: Ints, mean: Array) -> int | None:
        """The best option of the families of which no run was to go to its end, from half of the budget on.

        What is forecast of a family that the model has seen no end of is a guess. Of a large budget it begins earlier
        where there are more of them than there would be runs; a quarter is left to follow what they show. One whose run
        diverged gets a second one.
        """
        budget = self.settings.budget
        if not self.pool.families or budget == np.inf:
            return None
        whole = [run for run in self.runs if run.horizon == self.target and run.until >= self.target]
        diverged = Counter(run.family for run in whole if run.state == "diverged")
        ran = {run.family for run in whole if run.state != "diverged" or diverged[run.family] >= WITNESSES}
        untried = np.array([np.inf if self.pool.families[row] in ran else 0.0 for row in full]) + mean
        if np.isfinite(safer := np.where(self.options.likely_to_diverge(full), np.inf, untried)).any():
            untried = safer
        missing = {self.pool.families[row] for row in full[np.isfinite(untried)]}
        least, most = FAMILIES_LEAVE * budget, FAMILIES_FROM * budget
        if budget >= FAMILIES_MANY:
            most = min(max(most, least + 1.0 + len(missing)), FAMILIES_EARLIEST * budget)
        return int(full[np.argmin(untried)]) if missing and least + 1.0 <= self.left <= most else None

    def _idle(self, rows: Ints) -> NDArray[np.bool_]:
        """Which options have learned nothing so far, (n,), unlike others: they may go on, but not to their end."""
        return np.array([self.pool.keys[row] in self.idle for row in rows], dtype=bool)

    def _forecast(self, model: WeighedModel, rows: Ints) -> Forecast:
        """The options' scores at the target horizon.

        What stands better than all that was ever seen, whole runs among it, with its decay still ahead, is not expected
        to end worse than it stands, until runs that had as much decay ahead have shown how they end.
        """
        ends = model.forecast(rows)
        leader = min((run for run in self.runs if run.reports), key=lambda run: run.best, default=None)
        if leader is not None and leader.horizon == self.target and leader.reports[-1][1] == leader.best:
            share = leader.steps / self.target
            ahead = decay_ahead(leader.curve, share)
            learned_of = [run for run in self.completed if learned(run, self.nothing)]
            like = sum(decay_ahead(run.curve, share) >= LIKE * ahead for run in learned_of)
            if self.completed and ahead >= ANNEALS and like < LEAST_COMPLETED:
                own = np.array([self.pool.keys[row] == leader.key for row in rows], dtype=bool)
                stands = model.normaliser.score(np.array([float(self.target)]), np.array([leader.best]))[0]
                ends = replace(ends, means=np.where(own, np.minimum(ends.means, stands), ends.means))
        return ends

    def _unconfirmed(self) -> float:
        """Full runs that those decided about since a run last reached the target horizon have come to in all."""
        spent = 0.0
        for run in reversed(self.runs):
            if run.horizon == self.target and run.steps == self.target:
                break
            spent += run.steps / self.target
        return spent

    def _ranked(self, model: WeighedModel, full: Ints, ends: Forecast, most: int) -> Iterator[Decision]:
        """First stages of training, of all ways to train up to `most` options: the highest Gittins index first."""
        best = min([*self._scores(model), *(float(ends.mean[i]) for i in self._tried(full))], default=model.mean)
        worth = self._worth(full, ends.improvement(best))
        shortlist = full[np.argsort(-worth, kind="stable")[:most]]
        ways = [way for i, row in enumerate(shortlist) for way in self.options.ways(int(row), i < SHORTER_FOR)]
        # As arrays of ways by stages; where a way has fewer of them, its last one is repeated, for nothing.
        width = max(len(way.rows) for way in ways)
        rows = np.array([way.rows + way.rows[-1:] * (width - len(way.rows)) for way in ways])
        until = np.array([way.until + way.until[-1:] * (width - len(way.rows)) for way in ways])
        price = np.array([way.price + [0.0] * (width - len(way.rows)) for way in ways])
        final = rows[:, -1]

        explained = model.variance_explained(rows.ravel(), until.ravel(), np.repeat(final, width))
        explained = np.where(until >= self.target, 1.0, explained.reshape(rows.shape))
        known = self._forecast(model, final)
        paid = price if self.settings.cost else np.sign(price)
        index = gittins_index(best, known.mean, known.hoped(best), explained, paid)
        index = index * self._chance(final)
        ending = (until[:, 0] >= self.target) & self._idle(final)
        for pick in np.argsort(-np.where(ending, -1.0, index), kind="stable"):
            row, end = int(rows[pick, 0]), int(until[pick, 0])
            yield self._with_reason(model, row, end, known.mean[pick], known.std[pick], explained[pick, 0])

    def _with_reason(
        self, model: WeighedModel, row: int, until: int, mean: float, std: float, share: float
    ) -> Decision:
        """A decision whose reason is the forecast of the value at the target, and how far it may be off."""
        horizon, sign = int(self.pool.horizons[row]), self.settings.sign
        ends = model.normaliser.quantiles(self.target, mean, std, self.settings.limits)
        reason = f"forecast {in_words(sign * ends)}"
        if self.completed:
            reason += f", best so far {sign * min(run.reports[-1][1] for run in self.completed):.4g}"
        if horizon < self.target or until < self.target:
            reason = f"stage that explains {share:.0%} of the variance: {reason}"
        return Decision(row, horizon, until, reason)
