"""The `curve` sampler of a job: candidates of its space as curves, its trials as runs, and the engine's choice.

The candidates are drawn anew for every trial; once there is something to go by, some more around those whose end is
expected to be best: other rates, and other families at the same mean rate. Where a job's runs can be continued they
are trained in stages: a proposal that names a configuration known already goes on with its run.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache, cached_property
from statistics import fmean

import numpy as np

from lrtune.analysis.plateaus import kind
from lrtune.search.curve.encode import horizon, others, rates, report_step, runs
from lrtune.search.engine.costs import Settings, looks
from lrtune.search.engine.decide import decide
from lrtune.search.engine.model import JobModel
from lrtune.search.engine.types import Choice, Ints, Pool, Run
from lrtune.search.range_test import ramp, too_high
from lrtune.search.studies import axes
from lrtune.search.studies.draw import Lots
from lrtune.search.studies.samplers import seeded
from lrtune.search.studies.space import Coordinates, coordinates
from lrtune.space import GRID, Fixed
from lrtune.wire.configuration import Configuration
from lrtune.wire.job import JobSpec
from lrtune.wire.results import Proposal, Trial, TrialState
from lrtune.wire.strategies import Curve

DRAWN = 250
LEADERS = 4  # around whom more candidates are drawn
VARIED = 12  # of each leader's, every knob kept with this chance:
KEPT = 0.7
NEAR = (-2, -1, 1, 2)  # steps of the grid of rates
ENOUGH = 4  # options for each first look, or a ramp rules out none
SHORTER = (2, 4)  # the horizon over these
LOST = (TrialState.FAILED, TrialState.CANCELLED)


def staged(spec: JobSpec) -> bool:
    """Whether a job's runs are trained in stages: where a worker of ours can go on with them.

    Nobody keeps the states of a loop of the user's own, or of several devices; a budget in trials counts whole runs.
    """
    ours = not spec.external and spec.training.devices == 1
    return ours and isinstance(spec.search.sampler, Curve) and spec.budget.trials is None


def propose(
    spec: JobSpec,
    kind: Curve,
    past: Sequence[Trial],
    earlier: Sequence[Trial] = (),
    *,
    number: int,
    left: float = np.inf,
    stages: bool = True,
) -> Proposal | None:
    """The next trial and why; None where no candidate is left, or none that `left` full runs could bring to its end.

    `earlier` are trials of other jobs: something to learn from, no runs of this one.
    """
    steps, seed = horizon(spec, list(past)), seeded(spec.search.seed, number)
    job = _Job(spec, kind, past, earlier, steps, np.random.default_rng(seed), stages)
    if not job.open():
        return None
    if stages and job.begins() and (first := ramp(spec, past, steps, left=left)):
        return first
    choice = job.choice(seed, left)
    if choice is None:
        return None
    until = report_step(choice.until, choice.horizon)
    return Proposal(
        configuration=job.candidates[int(choice.key[1:])],
        role="search",
        seed=spec.search.seed,
        fraction=choice.horizon / steps,
        until=until if until < choice.horizon else None,
        reason=choice.reason,
    )


class _Job:
    """One decision of a job: its candidates, numbered, and its runs."""

    def __init__(
        self,
        spec: JobSpec,
        kind: Curve,
        past: Sequence[Trial],
        earlier: Sequence[Trial],
        steps: int,
        random: np.random.Generator,
        stages: bool,
    ) -> None:
        self.spec, self.past, self.earlier, self.steps, self.random = spec, past, earlier, steps, random
        self.settings = Settings(
            partial_runs=stages,
            short_horizons=kind.short_horizons,
            sign=spec.metric.sign if spec.metric else 1.0,
        )
        self.horizons = [steps, *(steps // part for part in SHORTER if kind.short_horizons and steps // part > 1)]
        self.space, self.knobs = coordinates(spec), others(spec)
        self.closed = {(t.configuration, t.horizon) for t in past if t.state in LOST}
        self.candidates: list[Configuration] = []
        self._others = cache(lambda configuration: self.knobs.row(configuration) or ())
        opened = (t.configuration for t in past if t.role == "search")
        self._add([*opened, *(self.space.draw(Lots(random)) for _ in range(DRAWN))])

    def open(self) -> bool:
        """Whether some candidate has training before it that nobody is at."""
        more = (TrialState.STOPPED,) if self.settings.partial_runs else ()
        taken = {(t.configuration, t.horizon) for t in self.past if t.state not in more}
        return any((c, self.steps) not in taken for c in self.candidates)

    def _add(self, found: Iterable[Configuration]) -> None:
        new = dict.fromkeys(c for c in found if any((c, h) not in self.closed for h in self.horizons))
        known = set(self.candidates)
        self.candidates += [c for c in new if c not in known]

    def choice(self, seed: int, left: float) -> Choice | None:
        """The engine's."""
        pool, known = self._first
        if self.begins():
            return decide(self._within(pool), known, self.steps, seed, self.settings, left=left)[0]
        model = JobModel(pool, known, self.steps)
        for lead in self._leaders(model):
            self._add(_around(self.space, lead, self.steps, self.random))
        pool, known = self._told()
        theta = model.theta if pool.extras.shape == (len(pool.keys), model.pool.extras.shape[1]) else None
        return decide(pool, known, self.steps, seed, self.settings, theta, left)[0]

    @cached_property
    def _first(self) -> tuple[Pool, list[Run]]:
        """What there is before anything is drawn around leaders."""
        return self._told()

    def begins(self) -> bool:
        """Whether the designed start goes on."""
        pool, known = self._first
        return len({run.key for run in known}) < looks(pool, self.settings)

    def _within(self, pool: Pool) -> Pool:
        """The options whose rates a ramp has not ruled out for the start, if those are enough for it."""
        limits = too_high(self.spec, self.past)
        found = (self.candidates[int(key[1:])] for key in pool.keys)
        kept = [row for row, c in enumerate(found) if c.learning_rate <= limits.get(kind(c)[0], np.inf)]
        return pool.take(kept) if len(kept) >= ENOUGH * looks(pool, self.settings) else pool

    def _told(self) -> tuple[Pool, list[Run]]:
        """Candidates and runs, without the columns in which no two candidates differ."""
        rows = [
            (f"c{i}", c, h) for i, c in enumerate(self.candidates) for h in self.horizons if (c, h) not in self.closed
        ]
        extras = np.array([self._others(c) for _, c, _ in rows], dtype=float).reshape(len(rows), -1)
        varied = np.flatnonzero(np.ptp(extras, axis=0) > 0)
        known = [*runs(self.spec, self.earlier), *runs(self.spec, self.past, {c: key for key, c, _ in rows})]
        known = [replace(one, extras=tuple(one.extras[i] for i in varied)) for one in known]
        pool = Pool(
            keys=tuple(key for key, _, _ in rows),
            horizons=np.array([h for _, _, h in rows], dtype=np.int64),
            curves=np.array([rates(c, h) for _, c, h in rows]),
            extras=extras[:, varied],
            free=np.zeros(len(rows), dtype=np.int64),
            every=np.array([max(h // 20, 1) for _, _, h in rows], dtype=np.int64),
        )
        own = [one for one in known if one.key in set(pool.keys)] if self.settings.partial_runs else []
        return replace(pool, free=shared(pool, own)), known

    def _leaders(self, model: JobModel) -> list[Configuration]:
        """Those tried whose end is known, or expected, to be best."""
        keys = {run.key for run in model.runs if run.state != "diverged"}
        whole = model.pool.horizons == self.steps
        tried = np.flatnonzero(whole & np.array([key in keys for key in model.pool.keys], dtype=bool))
        mean = model.forecast(tried)[0]
        return [self.candidates[int(model.pool.keys[tried[i]][1:])] for i in np.argsort(mean, kind="stable")[:LEADERS]]


def shared(pool: Pool, known: Sequence[Run]) -> Ints:
    """How many first steps each option has in common with some run, as far as its curve at 64 points tells.

    Counted are beginnings that a worker has kept a state of: where a piece of the run ended, or the rate stands still.
    """
    free = np.zeros(len(pool.keys), dtype=np.int64)
    for one in known:
        curve = np.array(one.curve)
        alike = (pool.horizons == one.horizon) & (pool.curves[:, 0] == curve[0])
        rows = np.flatnonzero(alike & (pool.extras == np.array(one.extras)).all(axis=1))
        curves = pool.curves[rows]
        equal = np.cumprod(curves == curve, axis=1).sum(axis=1)
        last, place = np.maximum(equal - 1, 1), np.arange(len(rows))
        still = (equal > 1) & (curves[place, last] == curves[place, last - 1])
        steps = ((equal - 0.5) / len(curve) * one.horizon).astype(np.int64)
        ends = np.sort([0, *one.ends])
        kept = np.where(still, np.minimum(steps, one.steps), ends[np.searchsorted(ends, steps, side="right") - 1])
        free[rows] = np.maximum(free[rows], kept)
    return free


def _around(
    space: Coordinates, lead: Configuration, steps: int, random: np.random.Generator
) -> Iterator[Configuration]:
    """Neighbours of a leader: its rate a little off, other families at its mean rate, some of its knobs drawn anew."""
    place = space.place(lead)
    if place is None:
        return
    for off in NEAR:
        yield _at(space, lead, lead.learning_rate * GRID**off)
    mean = fmean(rates(lead, steps))
    own = {knob: value for knob, value in place.params.items() if knob.partition(".")[0] not in space.schedules}
    for family in space.schedules:
        other = space.draw(Lots(random, own | {"schedule": family}))
        yield _at(space, other, other.learning_rate * mean / max(fmean(rates(other, steps)), 1e-12))
    for _ in range(VARIED):
        kept = {knob: value for knob, value in place.params.items() if random.random() < KEPT}
        yield space.draw(Lots(random, kept))


def _at(space: Coordinates, configuration: Configuration, rate: float) -> Configuration:
    """The same at the rate of the space that is nearest to this one."""
    name = configuration.optimizer.as_dict()["name"]
    axis = space.optimizers[name][f"{name}.learning_rate"]
    if isinstance(axis, Fixed):
        return configuration
    return configuration.model_copy(update={"learning_rate": axes.outward(axis, axes.inward(axis, rate))})
