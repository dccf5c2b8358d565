"""The `curve` sampler of a job: candidates of its space as curves, its trials as runs, and the engine's choice.

The candidates are drawn anew for every trial, and some more around the best ones: other rates, and other families at
the same mean rate. Whole runs only, over the job's horizon or, where a job asks for it, also over shorter ones: a run
that was stopped cannot be continued before training states are kept.
"""

from collections.abc import Iterator, Sequence
from statistics import fmean

import numpy as np

from lrtune.choices import Configuration
from lrtune.results import Proposal, Trial, TrialState
from lrtune.search import axes
from lrtune.search.coordinates import Coordinates, coordinates
from lrtune.search.curves.decision import Settings, decide
from lrtune.search.curves.view import Pool, Run
from lrtune.search.drawing import Lots
from lrtune.search.samplers import seeded
from lrtune.search.told import Others, horizon, others, rates, run
from lrtune.space import GRID, Fixed
from lrtune.spec import JobSpec
from lrtune.strategies import Curve

DRAWN = 250
LEADERS = 4  # around whom more candidates are drawn
VARIED = 12  # of each leader's, every knob kept with this chance:
KEPT = 0.7
NEAR = (-2, -1, 1, 2)  # steps of the grid of rates
SHORTER = (2, 4)  # the horizon over these
Option = tuple[str, Configuration, int]


def propose(spec: JobSpec, kind: Curve, past: Sequence[Trial], *, number: int) -> Proposal | None:
    """The next trial and why; None where no candidate is left that was not tried."""
    steps, seed = horizon(spec, list(past)), seeded(spec.search.seed, number)
    candidates = _candidates(spec, past, steps, np.random.default_rng(seed))
    shorter = [steps // part for part in SHORTER if steps // part > 1] if kind.short_horizons else []
    known = {(trial.configuration, trial.horizon) for trial in past}
    keys = {c: str(i) for i, c in enumerate(candidates) if (c, steps) not in known}
    rows = [(key, c, h) for c, key in keys.items() for h in (steps, *shorter) if (c, h) not in known]
    knobs = others(spec)
    runs = [one for trial in past if (one := run(spec, trial, knobs, key=keys.get(trial.configuration, "")))]
    if not rows:
        return None
    pool, runs = _told(rows, runs, knobs)
    sign = spec.metric.sign if spec.metric else 1.0
    settings = Settings(partial_runs=False, short_horizons=kind.short_horizons, sign=sign)
    choice, _ = decide(pool, runs, steps, seed, settings)
    return Proposal(
        configuration=candidates[int(choice.key)],
        role="search",
        seed=spec.search.seed,
        fraction=choice.horizon / steps,
        reason=choice.reason,
    )


def _told(rows: Sequence[Option], runs: Sequence[Run], knobs: Others) -> tuple[Pool, list[Run]]:
    """Candidates and runs, without the columns in which no two candidates differ."""
    extras = np.array([knobs.row(c) or () for _, c, _ in rows], dtype=float).reshape(len(rows), -1)
    varied = np.flatnonzero(np.ptp(extras, axis=0) > 0)
    pool = Pool(
        keys=tuple(key for key, _, _ in rows),
        horizons=np.array([h for _, _, h in rows], dtype=np.int64),
        curves=np.array([rates(c, h) for _, c, h in rows]),
        extras=extras[:, varied],
        free=np.zeros(len(rows), dtype=np.int64),
        every=np.array([max(h // 20, 1) for _, _, h in rows], dtype=np.int64),
    )
    return pool, [_fewer(one, varied.tolist()) for one in runs]


def _fewer(one: Run, varied: Sequence[int]) -> Run:
    return Run(one.key, one.horizon, one.curve, tuple(one.extras[i] for i in varied), one.reports, one.state, one.until)


def _candidates(spec: JobSpec, past: Sequence[Trial], steps: int, random: np.random.Generator) -> list[Configuration]:
    """What may be tried next: some drawn from the whole space, some around the leaders, and what only ran short."""
    space = coordinates(spec)
    found = [trial.configuration for trial in past if trial.horizon < steps and trial.role == "search"]
    found += [near for lead in _leaders(spec, past) for near in _around(space, lead, steps, random)]
    found += [space.draw(Lots(random)) for _ in range(DRAWN)]
    return list(dict.fromkeys(found))


def _leaders(spec: JobSpec, past: Sequence[Trial]) -> list[Configuration]:
    """The best so far."""
    sign = spec.metric.sign if spec.metric else 1.0
    done = [(sign * t.value, t) for t in past if t.state is TrialState.COMPLETE and t.value is not None]
    return [t.configuration for _, t in sorted(done, key=lambda pair: (pair[0], pair[1].number))[:LEADERS]]


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
