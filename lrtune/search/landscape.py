"""What a map of rates shows beside the runs themselves: where each is expected to end, and each family at other rates.

It fits the model of the curve search, whatever sampler a job has, which takes a few tenths of a second: ask where no
transaction is open.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lrtune.search.curve.sampler import expected
from lrtune.search.studies.study import searched
from lrtune.wire.charts import Expected, FamilyCurve
from lrtune.wire.configuration import Configuration
from lrtune.wire.job import AdmittedJob
from lrtune.wire.results import Trial, TrialState

RATES = 33  # at which a family's curve is drawn
NARROW = 1.05  # between the ends of the rates that were tried: there is no curve to draw
Kind = tuple[str, str]  # optimizer, family


@dataclass(frozen=True)
class Forecasts:
    """What runs that are not complete are expected to end at, by number, and the curves of families."""

    runs: Mapping[int, Expected]
    families: Mapping[Kind, FamilyCurve]


def forecasts(spec: AdmittedJob, trials: Sequence[Trial], *, steps: int) -> Forecasts:
    """Of these trials, with their reports; `steps` is the job's horizon."""
    past = searched(trials)
    runs = [trial for trial in trials if not trial.short and (trial.reports or trial.completed(steps))]
    leaders = _leaders(spec, runs, steps)
    grids = {kind: _grid(trial, runs) for kind, trial in leaders.items()}
    wanted = [trial.configuration for trial in runs] + [one for grid in grids.values() for one in grid]
    found = expected(spec, past, wanted, steps=steps)
    open_ = [t for t in runs if not t.completed(steps) and t.state is not TrialState.DIVERGED]
    known = {t.number: found[t.configuration] for t in open_ if t.configuration in found}
    curves = {kind: _curve(leaders[kind], [c for c in grid if c in found], found) for kind, grid in grids.items()}
    return Forecasts(known, {kind: curve for kind, curve in curves.items() if curve.rates})


def _curve(leader: Trial, grid: Sequence[Configuration], known: Mapping[Configuration, Expected]) -> FamilyCurve:
    return FamilyCurve(
        trial=leader.number,
        rates=[one.learning_rate for one in grid],
        values=[known[one].value for one in grid],
        low=[known[one].low for one in grid],
        high=[known[one].high for one in grid],
    )


def _leaders(spec: AdmittedJob, runs: Iterable[Trial], steps: int) -> dict[Kind, Trial]:
    """The trial of each kind that ended best; where none is complete that which stands best."""
    found: dict[Kind, tuple[bool, float, Trial]] = {}
    for trial in runs:
        values = [value for _, value in trial.values(spec.metric.name) if value is not None]
        last = trial.value if trial.value is not None else next(reversed(values), None)
        if trial.state is TrialState.DIVERGED or last is None or trial.role == "confirm":
            continue
        rank = not trial.completed(steps), spec.metric.sign * last
        there = found.get(trial.configuration.kind)
        if there is None or rank < there[:2]:
            found[trial.configuration.kind] = *rank, trial
    return {kind: trial for kind, (*_, trial) in found.items()}


def _grid(leader: Trial, runs: Iterable[Trial]) -> list[Configuration]:
    """The leader at rates between the lowest and the highest that its optimizer was tried at, its own among them."""
    chosen = leader.configuration
    tried = [t.configuration.learning_rate for t in runs if t.configuration.kind[0] == chosen.kind[0]]
    low, high = min(tried), max(tried)
    if high < NARROW * low:
        return []
    rates = {*np.geomspace(low, high, RATES).tolist(), chosen.learning_rate}
    return [chosen.model_copy(update={"learning_rate": rate}) for rate in sorted(rates)]
