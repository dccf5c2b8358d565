"""Optuna's study, rebuilt from a job's trials: what each state of ours is there.

A diverged trial is complete with a value worse than any seen, never failed: samplers do not see failures, and would go
back to the cliff. Running and waiting trials are running ones, so that parallel workers spread out.
"""

from collections.abc import Iterable, Mapping, Sequence

import optuna
from optuna.pruners import BasePruner, NopPruner
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, create_trial
from optuna.trial import TrialState as OptunaState

from lrtune.search.studies.space import Place
from lrtune.wire.job import AdmittedJob
from lrtune.wire.results import Trial, TrialState

STUDY = "lrtune"  # Hyperband hashes the study's name
NOWHERE = Place({}, {})
LARGEST = 1e300
MOST_RUNS = 300  # that a model is fitted to where it is fitted once for all of a job
OPTUNA_STATES = {
    TrialState.WAITING: OptunaState.RUNNING,
    TrialState.RUNNING: OptunaState.RUNNING,
    TrialState.COMPLETE: OptunaState.COMPLETE,
    TrialState.DIVERGED: OptunaState.COMPLETE,
    TrialState.PAUSED: OptunaState.PRUNED,
    TrialState.STOPPED: OptunaState.PRUNED,
    TrialState.FAILED: OptunaState.FAIL,
    TrialState.CANCELLED: OptunaState.FAIL,
}


def searched(history: Iterable[Trial]) -> list[Trial]:
    """The trials that the search learns from and pays for, by number: the baseline and its own, not the fresh seeds.

    One that was cancelled before anybody trained it is none of them: it may be asked for again.
    """
    mine = (trial for trial in history if trial.role != "confirm")
    return sorted((t for t in mine if t.cost or t.state is not TrialState.CANCELLED), key=lambda trial: trial.number)


def telling(spec: AdmittedJob, trials: Sequence[Trial]) -> Sequence[Trial]:
    """The best runs and some of all others, in their order: fitting takes as long for a job of thousands of trials."""
    if len(trials) <= MOST_RUNS:
        return trials
    ranked = sorted(trials, key=lambda t: (t.value is None, spec.metric.sign * (t.value or 0.0)))
    kept = ranked[: MOST_RUNS // 2] + ranked[MOST_RUNS // 2 :: -(-len(ranked) // (MOST_RUNS // 2))]
    return sorted(kept, key=lambda trial: trial.number)


def empty(spec: AdmittedJob, *, sampler: BaseSampler | None = None, pruner: BasePruner | None = None) -> Study:
    """A study without trials."""
    sampler, pruner = sampler or RandomSampler(seed=0), pruner or NopPruner()
    return optuna.create_study(study_name=STUDY, direction=spec.metric.goal, sampler=sampler, pruner=pruner)


def intermediate(spec: AdmittedJob, trial: Trial) -> dict[int, float]:
    """The metric at each report, counted from 1; reports where it was not finite are left out."""
    values = trial.values(spec.metric.name)
    return {place: value for place, (step, value) in enumerate(values, start=1) if step > 0 and value is not None}


def penalty(spec: AdmittedJob, trials: Sequence[Trial]) -> float:
    """The value of a trial that diverged: worse than all that these trials came to, by as much as those lie apart."""
    seen = []
    for trial in trials:
        value = trial.value if trial.state is TrialState.COMPLETE else None
        if OPTUNA_STATES[trial.state] is OptunaState.PRUNED:
            value = next(reversed(intermediate(spec, trial).values()), None)
        if value is not None and abs(value) < LARGEST:
            seen.append(spec.metric.sign * value)
    if not seen:
        return spec.metric.sign
    worst, best = max(seen), min(seen)
    return spec.metric.sign * (worst + max(worst - best, 0.1 * abs(worst), 1e-6))


def frozen(
    spec: AdmittedJob,
    trial: Trial,
    *,
    diverged: float,
    place: Place = NOWHERE,
    rungs: Mapping[str, float] | None = None,
) -> FrozenTrial:
    """One trial as Optuna takes it; `diverged` is the value of one that diverged."""
    state = OPTUNA_STATES[trial.state]
    finished = trial.state is TrialState.COMPLETE and trial.value is not None and abs(trial.value) < LARGEST
    value = trial.value if finished else diverged
    return create_trial(
        state=state,
        value=value if state is OptunaState.COMPLETE else None,
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
            study.tell(asked, trial.value if trial.state is OptunaState.COMPLETE else None, state=trial.state)
