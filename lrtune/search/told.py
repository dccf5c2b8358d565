"""A job's trials as the curve engine takes them: curves at 64 points, other knobs as numbers, values to be minimised.

Rates are told in units of their optimizer's usual one, so that what one optimizer's trials say about a curve is worth
something to another. Warm-up and floor are in the curve already.
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache

from optuna.distributions import CategoricalDistribution

from lrtune.answer import allowed
from lrtune.choices import Configuration
from lrtune.results import Trial, TrialState
from lrtune.schedules import Curve, schedule
from lrtune.search.coordinates import Coordinates, coordinates
from lrtune.search.curves.view import Run
from lrtune.search.study import LARGEST
from lrtune.space import Fixed
from lrtune.spec import JobSpec

POINTS = 64
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


def run(spec: JobSpec, trial: Trial, knobs: Others, *, key: str = "") -> Run | None:
    """One trial of the search; None where it teaches nothing: it failed, or is a baseline outside the space."""
    extras = knobs.row(trial.configuration)
    if trial.state not in STATES or extras is None:
        return None
    if trial.role == "baseline" and not allowed(spec, trial.configuration):
        return None
    curve = rates(trial.configuration, trial.horizon)
    state = STATES[trial.state]
    return Run(key or str(trial.number), trial.horizon, curve, extras, _reports(spec, trial), state, trial.horizon)


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
