"""What earlier jobs on the same task teach a new one: a configuration to begin with, and trials to learn from.

They count for the sampler alone: they are no trials of this job, cost it nothing, and are never its answer.
"""

from collections.abc import Sequence
from statistics import fmean

import numpy as np

from lrtune.search.studies.draw import Lots
from lrtune.search.studies.space import coordinates
from lrtune.wire.configuration import Configuration
from lrtune.wire.job import JobSpec
from lrtune.wire.results import REPORTS, Earlier, Proposal, Report, Trial, TrialState


def again(spec: JobSpec, past: Sequence[Trial], prior: Sequence[Earlier], *, steps: int) -> Proposal | None:
    """The best that earlier jobs found, to run in this one; None once it did, or where this space has nothing like it.

    Runs over this job's horizon come first, else the longest below it; configurations that were repeated over fresh
    seeds before single runs. Where a knob lies outside this job's space, its nearest value inside is taken.
    """
    space = coordinates(spec)
    ended = [one for one in prior if one.trial.state is TrialState.COMPLETE and one.trial.value is not None]
    done = [one for one in ended if one.trial.role != "ramp"]
    lengths = {one.trial.horizon for one in done if space.place(one.trial.configuration)}
    if not lengths:
        return None
    length = max((each for each in lengths if each <= steps), default=min(lengths))
    best = _best(spec, [one for one in done if one.trial.horizon == length and space.place(one.trial.configuration)])
    place = space.place(best.trial.configuration)
    nearest = space.draw(Lots(np.random.default_rng(0), place.params if place else {}))
    if any(trial.configuration == nearest for trial in past):
        return None
    where = f"trial {best.trial.number} of {best.job}, {length} steps"
    reason = f"the best of earlier jobs ({where}), again in this one"
    return Proposal(configuration=nearest, role="search", seed=spec.search.seed, reason=reason)


def _best(spec: JobSpec, done: Sequence[Earlier]) -> Earlier:
    """The first trial of the configuration that did best in the mean."""
    sign = spec.metric.sign if spec.metric else 1.0
    groups: dict[Configuration, list[Earlier]] = {}
    for one in done:
        groups.setdefault(one.trial.configuration, []).append(one)
    fresh = [runs for runs in groups.values() if any(one.trial.role == "confirm" for one in runs)]
    return min(fresh or groups.values(), key=lambda runs: sign * fmean(one.trial.value or 0.0 for one in runs))[0]


def runs(prior: Sequence[Earlier]) -> list[Trial]:
    """Earlier trials as a sampler's past, numbered below zero, so that none passes for a new one.

    Fresh seeds and ramps are left out. Of a run that went on after a look, only the furthest piece.
    """
    furthest: dict[tuple[object, ...], Trial] = {}
    for one in sorted(prior, key=lambda one: (one.job, one.trial.step, one.trial.number)):
        if (trial := one.trial).role not in ("confirm", "ramp"):
            furthest[one.job, trial.configuration, trial.seed, trial.horizon] = trial
    return [trial.model_copy(update={"number": place - len(furthest)}) for place, trial in enumerate(furthest.values())]


def compared(earlier: Sequence[Trial], *, steps: int) -> list[Trial]:
    """Earlier trials for samplers that compare values and know no horizons.

    One over this job's horizon is told as it ended. What any other showed is told at the steps at which this job
    reports, as of a trial that was stopped there: a value after other steps is no value of this job's runs.
    """
    return [trial if trial.horizon == steps else _stopped(trial, steps) for trial in earlier]


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
    return max((one for one in trial.reports if one.step <= step), key=lambda one: one.step, default=_first(trial))


def _first(trial: Trial) -> Report | None:
    return min(trial.reports, key=lambda one: one.step, default=None)
