"""The `curve` sampler of a job: candidates of its space as curves, its trials as runs, and the engine's decision.

A few of the candidates are drawn anew for every decision (`draws.py`). Once there is something to go by, some more are
drawn around those whose end is expected to be best: other rates, and other families at the same mean rate. Where a
job's trials can be paused they are trained in stages: a decision about a configuration whose trial is paused, or was
stopped, resumes that trial.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from statistics import fmean
from typing import NamedTuple

import numpy as np

from lrtune.search.curve.beginnings import Beginnings, shared
from lrtune.search.curve.designed import designed
from lrtune.search.curve.draws import Candidate, Encoding, draws
from lrtune.search.curve.encode import LOST, Encoded, basis, limits, rates, report_step, runs
from lrtune.search.engine.costs import Options, Settings, design_size
from lrtune.search.engine.decide import decide_several
from lrtune.search.engine.types import Decision, Ints, Pool, Run
from lrtune.search.engine.weighing import WeighedModel
from lrtune.search.range_test import range_test, too_high
from lrtune.search.studies.draw import RandomTrial
from lrtune.search.studies.samplers import seeded
from lrtune.search.studies.space import Coordinates
from lrtune.space import GRID
from lrtune.wire.charts import Expected
from lrtune.wire.configuration import Configuration
from lrtune.wire.external import ended_by_loop
from lrtune.wire.job import AdmittedJob, JobSpec
from lrtune.wire.results import REPORTS, RESUMABLE, Proposal, RunId, Trial, TrialState
from lrtune.wire.strategies import CurveSearch, Forecast, NoPruner

LEADERS = 4  # around whom more candidates are drawn
VARIED = 12  # candidates around each leader that keep every knob of it with the chance KEPT
KEPT = 0.7
NEAR = (-2, -1, 1, 2)  # steps of the grid of rates
ENOUGH = 4  # options for each member of the initial design, or a range test rules out none
SHORTER = (2, 4)  # the horizon over these
LATE, TRUSTED = 1 / 3, 0.8  # of the budget left, and share of the law, from which on it designs shapes


def staged(spec: JobSpec) -> bool:
    """Whether a job's trials are trained in stages: where a worker of ours can go on with them.

    A loop of the user's own says whether it goes on with them; a budget in trials counts complete runs.
    """
    return isinstance(spec.search.sampler, CurveSearch) and spec.budget.trials is None


def propose(
    spec: AdmittedJob,
    kind: CurveSearch,
    past: Sequence[Trial],
    warm_start: Sequence[Trial] = (),
    *,
    steps: int,
    numbers: Sequence[int],
    left: float = np.inf,
    stages: bool = True,
    beginnings: Beginnings | None = None,
) -> list[Proposal]:
    """What to train next and why; nothing where no candidate is left, or none that `left` full runs bring to its end.

    `steps` is the job's horizon, `numbers` those of the decisions that are asked for. `warm_start` are trials of other
    jobs: something to learn from, no runs of this one. `beginnings` are what there is to begin at; None: every end of a
    stage, and wherever a rate stood still.
    """
    seeds = [seeded(spec.search.seed, number) for number in numbers]
    search = _Search(
        spec, kind, past, warm_start, steps, np.random.default_rng(seeds[0]), stages, beginnings, numbers[0]
    )
    if not search.open():
        return []
    if stages and search.designing() and (first := range_test(spec, past, steps=steps, left=left)):
        return [first]
    return [_proposal(spec, past, *found, beginnings) for found in search.decide(seeds, left)]


def _proposal(
    spec: AdmittedJob,
    past: Sequence[Trial],
    configuration: Configuration,
    decision: Decision,
    beginnings: Beginnings | None,
) -> Proposal:
    run = RunId(configuration, spec.search.seed, decision.horizon)
    until = report_step(decision.until, decision.horizon)
    resumed = next((trial for trial in past if trial.run == run and trial.state in RESUMABLE), None)
    return Proposal(
        configuration=configuration,
        role="search",
        seed=run.seed,
        horizon=run.horizon,
        resume=None if resumed is None else resumed.number,
        start=None if resumed is None or beginnings is None else beginnings.start(resumed),
        until=until if until < run.horizon else None,
        reason=decision.reason,
    )


def forecasts(
    spec: AdmittedJob, kind: CurveSearch, past: Sequence[Trial], warm_start: Sequence[Trial] = (), *, steps: int
) -> dict[int, float]:
    """What each paused trial of a search in stages is expected to end at, in the metric's own unit, by its number."""
    search = _Search(spec, kind, past, warm_start, steps, np.random.default_rng(spec.search.seed), stages=True)
    pool, known = search.start
    model = WeighedModel(pool, known, steps, search.settings)
    rows = {(search.candidates[key], h): row for row, (key, h) in enumerate(zip(pool.keys, pool.horizons, strict=True))}
    paused = {
        t.number: rows[t.configuration, t.horizon]
        for t in past
        if t.state is TrialState.PAUSED and (t.configuration, t.horizon) in rows
    }
    found, ends = model.forecast(np.array(list(paused.values()), dtype=np.int64)), limits(spec, known)
    return {
        number: spec.metric.sign * float(model.normaliser.quantiles(pool.horizons[row], mean, std, ends)[0]) + 0.0
        for (number, row), mean, std in zip(paused.items(), found.mean, found.std, strict=True)
    }


def weighed(spec: AdmittedJob, past: Sequence[Trial], *, steps: int) -> WeighedModel | None:
    """What a job's runs say by both models, whatever sampler it has; None where nothing has been reported."""
    kind = spec.search.sampler if isinstance(spec.search.sampler, CurveSearch) else CurveSearch()
    search = _Search(spec, kind, past, (), steps, np.random.default_rng(spec.search.seed), stages=True)
    if not search.options():
        return None
    pool, known = search.start
    return WeighedModel(pool, known, steps, search.settings) if any(run.reports for run in known) else None


def expected(
    spec: AdmittedJob, past: Sequence[Trial], wanted: Iterable[Configuration], *, steps: int
) -> dict[Configuration, Expected]:
    """What configurations are expected to end at after `steps`, in the metric's own unit, whatever sampler a job has.

    All of it lies inside the metric's range. Nothing where nothing has been reported; left out are configurations that
    failed, and those outside the space.
    """
    found = dict[Configuration, Expected]()
    if (asked := _asked(spec, past, wanted, steps)) is not None:
        model, rows, limited = asked
        forecast = model.forecast(_places(rows))
        for one, mean, std in zip(rows, forecast.mean, forecast.std, strict=True):
            middle, *ends = spec.metric.sign * model.normaliser.quantiles(steps, mean, std, limited) + 0.0
            found[one] = Expected(value=middle, low=min(ends), high=max(ends))
    return found


def over_fresh_seeds(
    spec: AdmittedJob, past: Sequence[Trial], wanted: Iterable[Configuration], *, steps: int
) -> dict[Configuration, float]:
    """The same over seeds that nobody has run: what is due to the luck of single runs is no part of it."""
    asked = _asked(spec, past, wanted, steps)
    if asked is None:
        return {}
    model, rows, _ = asked
    forecast = model.forecast(_places(rows), fresh=True)
    values = spec.metric.sign * model.normaliser.value(steps, forecast.mean)
    return dict(zip(rows, values.tolist(), strict=True))


def _asked(
    spec: AdmittedJob, past: Sequence[Trial], wanted: Iterable[Configuration], steps: int
) -> tuple[WeighedModel, dict[Configuration, int], tuple[float, float]] | None:
    """The models of a job with some configurations among the options, their rows, and what values lie between."""
    kind = spec.search.sampler if isinstance(spec.search.sampler, CurveSearch) else CurveSearch()
    search = _Search(spec, kind, past, (), steps, np.random.default_rng(spec.search.seed), stages=True)
    asked = dict.fromkeys(one for one in wanted if search.draws.encoding(one, steps).extras is not None)
    search.candidates = [*dict.fromkeys([*search.candidates, *asked])]
    if not search.options():
        return None
    pool, known = search.start
    if not any(run.reports for run in known):
        return None
    places = zip(pool.keys, pool.horizons, strict=True)
    rows = {search.candidates[key]: row for row, (key, h) in enumerate(places) if h == steps}
    model = WeighedModel(pool, known, steps, search.settings)
    return model, {one: rows[one] for one in rows if one in asked}, limits(spec, known)


def _places(rows: Mapping[Configuration, int]) -> Ints:
    return np.array(list(rows.values()), dtype=np.int64)


class _Option(NamedTuple):
    """A candidate over one of its horizons: its row of the pool."""

    key: int
    horizon: int
    encoding: Encoding


def _ended_for_good(spec: AdmittedJob, trial: Trial) -> bool:
    """Whether a trial that was stopped would be stopped there again: by its own loop, or by a pruner of reports alone.

    What the forecast pruner stopped is weighed anew with all that is known since; other pruners know the trial itself.
    """
    forecasts_decide = isinstance(spec.search.pruner, NoPruner | Forecast)
    by_pruner = trial.state is TrialState.STOPPED and trial.stopped_by == "pruner"
    return ended_by_loop(trial) or (by_pruner and not forecasts_decide)


class _Search:
    """One decision of a job: its candidates, whose places in their list are the engine's keys, and its runs."""

    def __init__(
        self,
        spec: AdmittedJob,
        kind: CurveSearch,
        past: Sequence[Trial],
        warm_start: Sequence[Trial],
        steps: int,
        random: np.random.Generator,
        stages: bool,
        beginnings: Beginnings | None = None,
        number: int = 0,
    ) -> None:
        self.beginnings = beginnings
        every, past = past, basis(spec, past)
        # Of the others it is known that they were tried.
        self.passed = {t.configuration for t in every} - {t.configuration for t in past} if past is not every else set()
        self.spec, self.past, self.warm_start, self.steps, self.random = spec, past, warm_start, steps, random
        budget = np.inf if spec.budget.full_runs is None else spec.budget.full_runs
        self.settings = Settings(
            partial_runs=stages,
            short_horizons=kind.short_horizons,
            edge=max(too_high(spec, past).values(), default=None),
            sign=spec.metric.sign,
            budget=budget,
            least_stage=0 if beginnings is None else beginnings.least,
        )
        self.horizons = [steps, *(steps // part for part in SHORTER if kind.short_horizons and steps // part > 1)]
        self.draws = draws(spec)
        self.space = self.draws.space
        self.closed = {(t.configuration, t.horizon) for t in past if t.state in LOST or _ended_for_good(spec, t)}
        self.candidates: list[Configuration] = []
        self._options: list[list[_Option]] = []  # of each candidate that was encoded
        self._places: dict[Configuration, int] = {}
        self._made: Encoded = {}  # runs, of which trials
        self.candidates += dict.fromkeys(
            t.configuration for t in past if t.role == "search" and self._unclosed(t.configuration)
        )
        own = [t.configuration for t in past if t.horizon == steps and t.role != "range-test"]
        self.trained = {one.training for one in self.draws.told_apart(own, steps)}
        self._add(self.draws.candidates(number, steps))

    def open(self) -> bool:
        """Whether some candidate has training before it that nobody is at."""
        more = RESUMABLE if self.settings.partial_runs else ()
        taken = self.closed | {(t.configuration, t.horizon) for t in self.past if t.state not in more}
        return any((c, self.steps) not in taken for c in self.candidates)

    def options(self) -> bool:
        """Whether there is a candidate to forecast: all may be the baseline again, or have failed."""
        return any(map(self._unclosed, self.candidates))

    def designing(self) -> bool:
        """Whether the initial design goes on."""
        pool, known = self.start
        return len({run.key for run in known}) < design_size(pool, self.settings)

    def decide(self, seeds: Sequence[int], left: float) -> list[tuple[Configuration, Decision]]:
        """The engine's decisions, and the configurations that they are about, a decision for each seed."""
        pool, known = self.start
        if left < 1.0 - 1e-9:  # of what has begun alone, and where none of it can be ended no model is needed to say so
            options = Options(pool, known, self.steps, self.settings)
            if not any(map(options.open, options.affordable(left).tolist())):
                return []
        settings = replace(self.settings, limits=limits(self.spec, known))
        fitted, model = None, None
        if self.designing():
            pool = self._bounded(pool)
        else:
            model = WeighedModel(pool, known, self.steps, self.settings)
            leaders = self._leaders(model)
            for leader in leaders:
                self._add(self.draws.told_apart([*neighbours(self.space, leader, self.steps, self.random)], self.steps))
            if (
                leaders
                and model.law is not None
                and model.share >= TRUSTED
                and left <= LATE * self.settings.budget < np.inf
            ):
                shapes = designed(self.spec, self.space, model.law, leaders[0], self.past, self.random)
                self._add(self.draws.told_apart([*shapes], self.steps))
            pool, known = self._encoded()
            same_knobs = pool.extras.shape[1] == model.pool.extras.shape[1]
            fitted, model = model.fitted if same_knobs else None, model.over(pool, known)
        found, _ = decide_several(pool, known, self.steps, seeds, settings, fitted, left, model)
        return [(self.candidates[pool.keys[decision.row]], decision) for decision in found]

    @cached_property
    def start(self) -> tuple[Pool, list[Run]]:
        """The options and the runs before anything is drawn around leaders."""
        return self._encoded()

    def _add(self, found: Iterable[Candidate]) -> None:
        """Candidates that would be trained unlike any other: curves that are equal over the run are one."""
        for configuration, training in found:
            known = training in self.trained or (self.passed and configuration in self.passed)
            if not known and self._unclosed(configuration):
                self.trained.add(training)
                self.candidates.append(configuration)

    def _unclosed(self, configuration: Configuration) -> bool:
        return not self.closed or any((configuration, horizon) not in self.closed for horizon in self.horizons)

    def _bounded(self, pool: Pool) -> Pool:
        """The options whose rates a range test has not ruled out for the initial design, if those are enough for it."""
        limits = too_high(self.spec, self.past)
        found = (self.candidates[key] for key in pool.keys)
        rated = ((c.kind[0], c.optimizer.effective(c.learning_rate)) for c in found)
        kept = [row for row, (optimizer, effective) in enumerate(rated) if effective <= limits.get(optimizer, np.inf)]
        return pool.take(kept) if len(kept) >= ENOUGH * design_size(pool, self.settings) else pool

    def _encoded(self) -> tuple[Pool, list[Run]]:
        """Candidates and runs, without the columns in which no two candidates differ.

        A run's key is the place of its configuration among the candidates, or below zero where it is none of them.
        """
        for place, c in enumerate(self.candidates[len(self._options) :], start=len(self._options)):
            self._places[c] = place
            open_ = [h for h in self.horizons if not self.closed or (c, h) not in self.closed]
            self._options.append([_Option(place, h, self.draws.encoding(c, h)) for h in open_])
        rows = [one for options in self._options for one in options]
        extras = np.array([one.encoding.extras or () for one in rows], dtype=float).reshape(len(rows), -1)
        varied = np.flatnonzero(np.ptp(extras, axis=0) > 0)
        keys = {t.number: self._places[t.configuration] for t in self.past if t.configuration in self._places}
        known = [
            replace(run, key=keys.get(run.key, -1 - n), extras=tuple(run.extras[i] for i in varied))
            for n, run in enumerate([*self._warm, *self._runs()])
        ]
        horizons = np.array([one.horizon for one in rows], dtype=np.int64)
        pool = Pool(
            keys=tuple(one.key for one in rows),
            horizons=horizons,
            curves=np.array([one.encoding.curve for one in rows]),
            extras=extras[:, varied],
            free=np.zeros(len(rows), dtype=np.int64),
            every=np.maximum(horizons // REPORTS, 1),
            families=tuple(one.encoding.kind[1] for one in rows),
        )
        own = [run for run in known if run.key >= 0] if self.settings.partial_runs else []
        theirs = [self.candidates[run.key].curve.rise(run.horizon) for run in own]
        rises = np.array([one.encoding.rise for one in rows], dtype=np.int64), theirs
        return replace(pool, free=shared(pool, own, rises, everywhere=self.beginnings is None)), known

    @cached_property
    def _warm(self) -> list[Run]:
        return runs(self.spec, self.warm_start) if self.warm_start else []

    def _runs(self) -> list[Run]:
        """This job's runs, with the checkpoints that there are of them."""
        found = runs(self.spec, self.past, self._made)
        return found if self.beginnings is None else [self.beginnings.of(run) for run in found]

    def _leaders(self, model: WeighedModel) -> list[Configuration]:
        """Those tried whose end is known, or expected, to be best."""
        tried = {run.key for run in model.runs if run.state != "diverged"}
        full = model.pool.horizons == self.steps
        rows = np.flatnonzero(full & np.array([key in tried for key in model.pool.keys], dtype=bool))
        mean = model.forecast(rows).mean
        return [self.candidates[model.pool.keys[rows[i]]] for i in np.argsort(mean, kind="stable")[:LEADERS]]


def neighbours(
    space: Coordinates, leader: Configuration, steps: int, random: np.random.Generator
) -> Iterator[Configuration]:
    """Neighbours of a leader: its rate a little off, other families at its mean rate, some of its knobs drawn anew."""
    place = space.place(leader)
    if place is None:
        return
    for off in NEAR:
        yield space.at_rate(leader, leader.learning_rate * GRID**off)
    mean = fmean(rates(leader, steps))
    own = {knob: value for knob, value in place.params.items() if knob.partition(".")[0] not in space.schedules}
    for family in space.schedules:
        other = space.draw(RandomTrial(random, own | {"schedule": family}))
        yield space.at_rate(other, other.learning_rate * mean / max(fmean(rates(other, steps)), 1e-12))
    for _ in range(VARIED):
        kept = {knob: value for knob, value in place.params.items() if random.random() < KEPT}
        yield space.draw(RandomTrial(random, kept))
