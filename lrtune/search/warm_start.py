"""What earlier jobs on the same task teach a new one: a configuration to begin with, and trials to learn from.

They count for the sampler alone: they are no trials of this job, cost it nothing, and are never its answer.
"""

from collections.abc import Sequence
from statistics import fmean

import numpy as np

from lrtune.search.studies.draw import RandomTrial
from lrtune.search.studies.space import coordinates
from lrtune.wire.configuration import Configuration
from lrtune.wire.job import AdmittedJob
from lrtune.wire.results import REPORTS, Proposal, Report, Trial, TrialState, WarmStartTrial


def rerun_best(
    spec: AdmittedJob, past: Sequence[Trial], warm_start: Sequence[WarmStartTrial], *, steps: int
) -> Proposal | None:
    """The best that earlier jobs found, to run in this one; None once it did, or where this space has nothing like it.

    Runs over this job's horizon of `steps` come first, else the longest below it; configurations that were repeated
    over fresh seeds before single runs. Where a knob lies outside this job's space, its nearest value inside is taken.
    """
    space = coordinates(spec)
    done = [
        one
        for one in warm_start
        if one.trial.role != "range-test"
        and one.trial.completed(one.trial.horizon)
        and space.place(one.trial.configuration)
    ]
    if not done:
        return None
    horizons = {one.trial.horizon for one in done}
    horizon = max((each for each in horizons if each <= steps), default=min(horizons))
    best = _best(spec, [one for one in done if one.trial.horizon == horizon])
    place = space.place(best.trial.configuration)
    nearest = space.draw(RandomTrial(np.random.default_rng(0), place.params if place else {}))
    if any(trial.configuration == nearest for trial in past):
        return None
    return Proposal(
        configuration=nearest,
        role="search",
        seed=spec.search.seed,
        horizon=steps,
        reason=f"warm start: the best of earlier jobs (trial {best.trial.number} of {best.job}, {horizon} steps)"
        + _moved(best.trial.configuration, nearest),
    )


def _moved(found: Configuration, nearest: Configuration) -> str:
    """Which knobs an earlier job's best has here otherwise than it had there; nothing where there are none."""
    theirs, ours = _shown(found), _shown(nearest)
    moved = [
        f"{knob.replace('_', ' ')} {ours[knob]} for {theirs.get(knob)}"
        for knob in ours
        if ours[knob] != theirs.get(knob)
    ]
    return f", moved to what this job has: {', '.join(moved)}" if moved else ""


def _shown(one: Configuration) -> dict[str, str]:
    """All knobs of a configuration, to three digits."""
    own = {name: getattr(one, name) for name in ("learning_rate", "warmup", "floor", "clip_norm", "clip_value")}
    knobs = one.optimizer.as_dict() | one.schedule.as_dict() | own
    return {name: f"{value:.3g}" if isinstance(value, float) else str(value) for name, value in knobs.items()}


def _best(spec: AdmittedJob, done: Sequence[WarmStartTrial]) -> WarmStartTrial:
    """The first trial of the configuration that did best in the mean."""
    groups: dict[Configuration, list[WarmStartTrial]] = {}
    for one in done:
        groups.setdefault(one.trial.configuration, []).append(one)
    fresh = [group for group in groups.values() if any(one.trial.role == "confirm" for one in group)]
    return min(
        fresh or groups.values(), key=lambda group: spec.metric.sign * fmean(one.trial.value or 0.0 for one in group)
    )[0]


def as_past(warm_start: Sequence[WarmStartTrial]) -> list[Trial]:
    """What a sampler learns from, numbered below zero so that none passes for a trial of this job.

    Each job's trials come in the order in which they began. Fresh seeds and range tests are left out.
    """
    taught = [
        one.trial
        for one in sorted(warm_start, key=lambda one: (one.job, one.trial.number))
        if one.trial.role not in ("confirm", "range-test")
    ]
    below = range(-len(taught), 0)
    return [trial.model_copy(update={"number": n, "decision": n}) for n, trial in zip(below, taught, strict=True)]


def at_horizon(trials: Sequence[Trial], *, steps: int) -> list[Trial]:
    """Trials of earlier jobs for samplers that compare values and know no horizons.

    One over this job's horizon of `steps` stays as it ended. What any other showed is put at the steps at which this
    job reports, as of a trial that was stopped there: a value after other steps is no value of this job's runs.
    """
    return [trial if trial.horizon == steps else _stopped(trial, steps) for trial in trials]


def _stopped(trial: Trial, steps: int) -> Trial:
    """What a run over other steps had shown at this job's reports."""
    if trial.state is TrialState.DIVERGED:
        return trial
    points = [number * steps // REPORTS for number in range(1, REPORTS + 1)]
    seen = [_at(trial, point) for point in points if point <= trial.step]
    reports = [one.model_copy(update={"step": point}) for one, point in zip(seen, points, strict=False) if one]
    return trial.model_copy(update={"state": TrialState.STOPPED, "value": None, "reports": reports})


def _at(trial: Trial, step: int) -> Report | None:
    """The last report up to a step, or the first there is."""
    first = min(trial.reports, key=lambda one: one.step, default=None)
    return max((one for one in trial.reports if one.step <= step), key=lambda one: one.step, default=first)
