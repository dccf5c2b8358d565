"""A job's trials as the curve engine takes them: curves at 64 points, other knobs as numbers, values to be minimised.

Rates are told in units of their optimizer's usual one, so that what one optimizer's trials say about a curve is worth
something to another. Warm-up and floor are in the curve already.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeAlias

from optuna.distributions import CategoricalDistribution

from lrtune.analysis.answer import allowed
from lrtune.schedules import Curve, schedule
from lrtune.search.engine.types import Run
from lrtune.search.studies.space import Coordinates, coordinates
from lrtune.search.studies.study import LARGEST
from lrtune.space import Fixed
from lrtune.wire.configuration import Configuration
from lrtune.wire.job import JobSpec
from lrtune.wire.results import Trial, TrialState, report_points

POINTS = 64
Piece: TypeAlias = tuple[Configuration, int, int]
STEPS = 1000  # stands in for a horizon that nobody knows yet
STATES = {
    TrialState.WAITING: "running",
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "complete",
    TrialState.STOPPED: "stopped",
    TrialState.DIVERGED: "diverged",
}


@lru_cache(maxsize=8192)
def _factors(curve: Curve, steps: int) -> tuple[float, ...]:
    factor = curve.over(steps)
    return tuple(factor(int((point + 0.5) / POINTS * steps)) for point in range(POINTS))


def rates(configuration: Configuration, steps: int) -> tuple[float, ...]:
    """The learning rates of a run at 64 evenly spaced points of it, in units of the optimizer's usual rate."""
    peak = configuration.learning_rate / type(configuration.optimizer).usual
    return tuple(peak * factor for factor in _factors(configuration.curve, steps))


@dataclass(frozen=True, slots=True)
class Others:
    """The knobs beside the curve that this job searches, as numbers; those of another optimizer are middling."""

    space: Coordinates
    family: str

    def row(self, configuration: Configuration) -> tuple[float, ...] | None:
        """One configuration's; None where it has a value that is no part of the space."""
        place = self.space.place(configuration.model_copy(update={"schedule": schedule(self.family)}))
        if place is None:
            return None
        row: list[float] = []
        for name, value in place.params.items():
            known = place.distributions[name]
            if isinstance(known, CategoricalDistribution):
                row += [float(value == choice) for choice in known.choices[1:]]
            elif isinstance(value, float | int):
                row.append(math.log(value) if getattr(known, "log", False) else float(value))
        return tuple(row)


def others(spec: JobSpec) -> Others:
    """The knobs beside the curve of a job's space."""
    space, family = coordinates(spec, flat=True), spec.schedules[0].family
    static = {
        name: {knob: axis for knob, axis in axes.items() if knob != f"{name}.learning_rate"}
        for name, axes in space.optimizers.items()
    }
    clips = {knob: axis for knob, axis in space.common.items() if knob.startswith("clip")}
    first = {"optimizer": space.first["optimizer"], "schedule": Fixed(family)}
    return Others(replace(space, first=first, optimizers=static, schedules={family: {}}, common=clips), family)


def horizon(spec: JobSpec, trials: list[Trial]) -> int:
    """The steps of a whole run, as far as they are known."""
    asked = spec.horizon.steps if spec.horizon else None
    return asked or max((trial.horizon for trial in trials), default=STEPS)


def runs(spec: JobSpec, trials: Iterable[Trial], keys: Mapping[Configuration, str] | None = None) -> list[Run]:
    """What trials of the search teach, the latest last: pieces of one run (a look, then its continuation) are one.

    A configuration is named by `keys`, else by the number of its first trial. Left out is what teaches nothing:
    trials that failed, a baseline outside the space, and ramps, which only bound where the search begins.
    """
    knobs, found = others(spec), dict[Piece, Run]()
    for trial in trials:
        one = piece(spec, trial, knobs)
        if one is None:
            continue
        what = trial.configuration, trial.seed, trial.horizon
        before = found.pop(what, None)
        found[what] = joined(before, one) if before else replace(one, born=len(found))
    return [replace(one, key=keys[what[0]]) if keys and what[0] in keys else one for what, one in found.items()]


def piece(spec: JobSpec, trial: Trial, knobs: Others) -> Run | None:
    """One trial of the search as a run; None where it teaches nothing."""
    extras = knobs.row(trial.configuration)
    if trial.state not in STATES or extras is None or trial.role == "ramp":
        return None
    if trial.role == "baseline" and not allowed(spec, trial.configuration):
        return None
    curve, state, reports = rates(trial.configuration, trial.horizon), STATES[trial.state], _reports(spec, trial)
    until, ends = trial.until or trial.horizon, tuple(step for step, _ in reports[-1:])
    return Run(str(trial.number), trial.horizon, curve, extras, reports, state, until, ends=ends)


def joined(before: Run, after: Run) -> Run:
    """Two pieces of one run: everything that either saw, and how the later one stands (a run that ended stays so)."""
    reports = tuple(sorted((dict(before.reports) | dict(after.reports)).items()))
    state = before.state if before.state in ("complete", "diverged") else after.state
    until, ends = max(before.until, after.until), (*before.ends, *after.ends)
    return replace(before, reports=reports, state=state, until=until, ends=ends)


def report_step(step: int, horizon: int) -> int:
    """The first report of a run at or after a step."""
    return next((point for point in report_points(horizon) if point >= step), horizon)


def _reports(spec: JobSpec, trial: Trial) -> tuple[tuple[int, float], ...]:
    """The metric at each report, lower being better, and how it ended; NaN is a divergence."""
    sign = spec.metric.sign if spec.metric else 1.0
    told = trial.values(spec.metric.name) if spec.metric else []
    seen = [(step, sign * v) for step, v in told if step > 0 and v is not None and abs(v) < LARGEST]
    if trial.state is TrialState.COMPLETE and trial.value is not None:
        end = sign * trial.value if abs(trial.value) < LARGEST else math.nan
        return (*((step, value) for step, value in seen if step < trial.horizon), (trial.horizon, end))
    if trial.state is TrialState.DIVERGED:
        return (*seen, (max(trial.step, seen[-1][0] + 1 if seen else 1), math.nan))
    return tuple(seen)
