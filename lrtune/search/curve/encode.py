"""A job's trials as the curve engine takes them: curves at 64 points, other knobs as numbers, values to be minimised.

Rates are effective ones in units of their optimizer's usual one, so that what trials with one optimizer or momentum say
about a curve is worth something to another. Warm-up and floor are in the curve already.
"""

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from optuna.distributions import CategoricalDistribution

from lrtune.schedules import Curve, schedule
from lrtune.search.engine.normalise import EVERYTHING
from lrtune.search.engine.types import Array, Run, State
from lrtune.search.studies.space import Coordinates, coordinates
from lrtune.search.studies.study import LARGEST
from lrtune.space import Fixed
from lrtune.wire.configuration import Configuration
from lrtune.wire.job import AdmittedJob
from lrtune.wire.results import OPEN, Trial, TrialState, report_points

POINTS = 64
MOST, FIRST, BEST = 500, 16, 40  # trials on which decisions rest, and of these the job's first, and its best
LOST = (TrialState.FAILED, TrialState.CANCELLED)
STATES: dict[TrialState, State] = {
    TrialState.WAITING: "running",
    TrialState.RUNNING: "running",
    TrialState.PAUSED: "paused",
    TrialState.COMPLETE: "complete",
    TrialState.STOPPED: "paused",
    TrialState.DIVERGED: "diverged",
    TrialState.FAILED: "paused",  # where its last stage ended
    TrialState.CANCELLED: "paused",
}


@lru_cache(maxsize=8192)
def _factors(curve: Curve, steps: int) -> Array:  # as an array, for a third of the memory
    return np.array([*map(curve.within(steps), _places(steps))])


@lru_cache(maxsize=64)
def _places(steps: int) -> tuple[int, ...]:
    return tuple(int((point + 0.5) / POINTS * steps) for point in range(POINTS))


def rates(configuration: Configuration, steps: int) -> tuple[float, ...]:
    """The effective learning rates of a run at 64 evenly spaced points of it, in units of its optimizer's usual one."""
    return tuple(points(configuration, steps).tolist())


def points(configuration: Configuration, steps: int) -> Array:
    """The same as an array, (64,)."""
    peak = configuration.optimizer.effective(configuration.learning_rate)
    return np.asarray(peak * _factors(configuration.curve, steps))


@dataclass(frozen=True, slots=True)
class StaticKnobs:
    """The knobs beside the curve that this job searches, as numbers; another optimizer's are amid their axes.

    `family` stands in for the schedule family, which the curve tells already.
    """

    space: Coordinates
    family: str
    searched: bool

    def row(self, configuration: Configuration) -> tuple[float, ...] | None:
        """One configuration's; None where it has a value that is no part of the space."""
        if not self.searched:
            return () if configuration.kind[0] in self.space.optimizers else None
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


def static_knobs(spec: AdmittedJob) -> StaticKnobs:
    """The knobs beside the curve of a job's space."""
    space, family = coordinates(spec, flat=True), spec.schedules[0].family
    static = {
        name: {knob: axis for knob, axis in axes.items() if knob != f"{name}.learning_rate"}
        for name, axes in space.optimizers.items()
    }
    clips = {knob: axis for knob, axis in space.common.items() if knob.startswith("clip")}
    first = {"optimizer": space.first["optimizer"], "schedule": Fixed(family)}
    axes = [*first.values(), *clips.values(), *(axis for own in static.values() for axis in own.values())]
    searched = not all(isinstance(axis, Fixed) for axis in axes)
    space = replace(space, first=first, optimizers=static, schedules={family: {}}, common=clips)
    return StaticKnobs(space, family, searched)


def basis(spec: AdmittedJob, past: Sequence[Trial]) -> Sequence[Trial]:
    """The trials on which a decision rests: of a usual job all, of one with more than `MOST` about as many.

    They are those that the search decided about last, its first ones, by which the average over the space is estimated,
    its best, those that are open, and those that say where the space ends.
    """
    if len(past) <= MOST:
        return past
    by_number = sorted(past, key=lambda trial: trial.number)
    ended = [trial for trial in by_number if trial.state is TrialState.COMPLETE and trial.value is not None]
    best = sorted(ended, key=lambda trial: spec.metric.sign * (trial.value or 0.0))[:BEST]
    always = [trial for trial in by_number if trial.state in OPEN or trial.role != "search"]
    kept = {trial.number for trial in (*by_number[:FIRST], *best, *always)}
    latest = sorted((trial for trial in by_number if trial.number not in kept), key=lambda trial: trial.decision)
    kept |= {trial.number for trial in latest[max(len(latest) + len(kept) - MOST, 0) :]}
    return [trial for trial in by_number if trial.number in kept]


Encoded = dict[int, tuple[object, Run | None]]  # by number: the trial, and the run that was made of it


def runs(spec: AdmittedJob, trials: Collection[Trial], known: Encoded | None = None) -> list[Run]:
    """What trials of the search teach, in the order of the search's latest decision about each; `key` is the number.

    Left out is what teaches nothing: a baseline outside the space, range tests (they only bound where the search
    begins), and trials that failed before a stage of theirs had ended. `known` keeps what was made of these trials.
    """
    knobs, known, found = static_knobs(spec), {} if known is None else known, list[tuple[int, Run]]()
    for trial in sorted(trials, key=lambda trial: trial.number):
        before, run = known.get(trial.number, (None, None))
        if before is not trial:
            run = _run(spec, knobs, trial)
        if run is not None and run.born != len(found):
            run = replace(run, born=len(found))
        known[trial.number] = trial, run
        if run is not None:
            found.append((trial.decision, run))
    for number in known.keys() - {trial.number for trial in trials}:
        del known[number]
    return [run for _, run in sorted(found, key=lambda one: one[0])]


def _run(spec: AdmittedJob, knobs: StaticKnobs, trial: Trial) -> Run | None:
    extras, reports = knobs.row(trial.configuration), _reports(spec, trial)
    outside = trial.role == "baseline" and not spec.allows(trial.configuration)
    lost = trial.state in LOST and not reports
    if extras is None or trial.role == "range-test" or outside or lost:
        return None
    ended = [stage.step for stage in trial.stages if stage.outcome in ("paused", "finished")]
    diverged = bool(reports) and math.isnan(reports[-1][1])
    return Run(
        key=trial.number,
        horizon=trial.horizon,
        curve=rates(trial.configuration, trial.horizon),
        extras=extras,
        reports=reports,
        state="diverged" if diverged else STATES[trial.state],
        until=trial.start if trial.state in LOST else trial.until or trial.horizon,
        ends=(*ended, *(step for step, _ in reports[-1:])),
        family=trial.configuration.kind[1],
        resumes_at=_goes_on_from(trial) if spec.over_http else None,
    )


def _goes_on_from(trial: Trial) -> int | None:
    """Where a trial of a loop goes on that was stopped within a stage: loops keep nothing there; else None."""
    last = trial.stages[-1] if trial.stages else None
    stopped = last is not None and trial.state is TrialState.STOPPED and last.outcome != "paused"
    return last.start if last is not None and stopped else None


def limits(spec: AdmittedJob, known: Iterable[Run]) -> tuple[float, float]:
    """What encoded values lie between: the metric's range, unless some run has left it, for then it is none."""
    low, high = sorted(spec.metric.sign * end for end in spec.metric.limits)
    return (low, high) if all(low <= run.span[0] and run.span[1] <= high for run in known) else EVERYTHING


def report_step(step: int, horizon: int) -> int:
    """The first report of a run at or after a step."""
    return next((point for point in report_points(horizon) if point >= step), horizon)


def _reports(spec: AdmittedJob, trial: Trial) -> tuple[tuple[int, float], ...]:
    """The metric at each report, lower being better, and how it ended; NaN is a divergence."""
    sign, values = spec.metric.sign, trial.values(spec.metric.name)
    seen = [(step, sign * v) for step, v in values if step > 0 and v is not None and abs(v) < LARGEST]
    if trial.state in LOST:
        return tuple((step, value) for step, value in seen if step <= trial.start)
    if trial.state is TrialState.COMPLETE and trial.value is not None:
        end = sign * trial.value if abs(trial.value) < LARGEST else math.nan
        return (*((step, value) for step, value in seen if step < trial.horizon), (trial.horizon, end))
    last = values[-1][1] if trial.state in (TrialState.PAUSED, TrialState.STOPPED) and values else None
    off_scale = last is not None and abs(last) >= LARGEST  # as good as diverged: there is no going on with it
    if trial.state is TrialState.DIVERGED or off_scale:
        return (*seen, (max(trial.step, seen[-1][0] + 1 if seen else 1), math.nan))
    return tuple(seen)
