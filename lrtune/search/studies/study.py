"""Optuna's study, rebuilt from a job's trials: how each state of ours is told.

A diverged trial is told as a value worse than any seen, never as a failure: samplers do not see failures, and would
go back to the cliff. Running and waiting trials are told as running, so that parallel workers spread out.
"""

from collections.abc import Iterable, Mapping, Sequence

import optuna
from optuna.pruners import BasePruner, NopPruner
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, create_trial
from optuna.trial import TrialState as Told

from lrtune.search.studies.space import Place
from lrtune.wire.job import JobSpec
from lrtune.wire.results import Trial, TrialState

STUDY = "lrtune"  # Hyperband hashes the study's name
NOWHERE = Place({}, {})
LARGEST = 1e300
TOLD = {
    TrialState.WAITING: Told.RUNNING,
    TrialState.RUNNING: Told.RUNNING,
    TrialState.COMPLETE: Told.COMPLETE,
    TrialState.DIVERGED: Told.COMPLETE,
    TrialState.STOPPED: Told.PRUNED,
    TrialState.FAILED: Told.FAIL,
    TrialState.CANCELLED: Told.FAIL,
}


def searched(history: Iterable[Trial]) -> list[Trial]:
    """The trials that the search learns from and pays for, in order: the baseline and its own, not the fresh seeds."""
    return sorted((trial for trial in history if trial.role != "confirm"), key=lambda trial: trial.number)


def empty(spec: JobSpec, *, sampler: BaseSampler | None = None, pruner: BasePruner | None = None) -> Study:
    """A study without trials."""
    goal = (spec.metric and spec.metric.goal) or "minimize"
    sampler, pruner = sampler or RandomSampler(seed=0), pruner or NopPruner()
    return optuna.create_study(study_name=STUDY, direction=goal, sampler=sampler, pruner=pruner)


def intermediate(spec: JobSpec, trial: Trial) -> dict[int, float]:
    """The metric at each report, counted from 1; reports where it was not finite are left out."""
    values = trial.values(spec.metric.name) if spec.metric else []
    return {place: value for place, (step, value) in enumerate(values, start=1) if step > 0 and value is not None}


def bad(spec: JobSpec, trials: Sequence[Trial]) -> float:
    """A value worse than all that these trials came to, by as much as those lie apart."""
    sign = spec.metric.sign if spec.metric else 1.0
    ends = [_end(spec, trial) for trial in trials]
    seen = [sign * value for value in ends if value is not None and abs(value) < LARGEST]
    if not seen:
        return sign
    worst, best = max(seen), min(seen)
    return sign * (worst + max(worst - best, 0.1 * abs(worst), 1e-6))


def _end(spec: JobSpec, trial: Trial) -> float | None:
    """What a trial came to: its value, or where it was stopped."""
    if trial.state is TrialState.STOPPED:
        return next(reversed(intermediate(spec, trial).values()), None)
    return trial.value if trial.state is TrialState.COMPLETE else None


def told(
    spec: JobSpec, trial: Trial, *, worst: float, place: Place = NOWHERE, rungs: Mapping[str, float] | None = None
) -> FrozenTrial:
    """One trial as Optuna takes it; `worst` is the value of one that diverged."""
    state = TOLD[trial.state]
    finished = trial.state is TrialState.COMPLETE and trial.value is not None and abs(trial.value) < LARGEST
    value = trial.value if finished else worst
    return create_trial(
        state=state,
        value=value if state is Told.COMPLETE else None,
        params=dict(place.params),
        distributions=dict(place.distributions),
        intermediate_values=intermediate(spec, trial),
        system_attrs=dict(rungs or {}),
    )


def replay(study: Study, trials: Iterable[FrozenTrial]) -> None:
    """Ask and tell a study what was asked and told before, for samplers that note something at every ask."""
    for trial in trials:
        study.enqueue_trial(trial.params)
        asked = study.ask(trial.distributions)
        _ = asked.relative_params  # drawn lazily, and never for a trial that brings its own
        if trial.state.is_finished():
            study.tell(asked, trial.value if trial.state is Told.COMPLETE else None, state=trial.state)
