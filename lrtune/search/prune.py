"""Whether a running trial should stop early: the verdict of the job's pruner, in words.

Steps are counted in reports, from 1, so trials of any horizon compare at the same share of their run, and no untrained
step 0 is among them. To add a pruner of Optuna's, add a case to `pruner` and one to `_words`.
"""

import math
import warnings
import zlib
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

import numpy as np
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import (
    BasePruner,
    MedianPruner,
    NopPruner,
    PatientPruner,
    PercentilePruner,
    SuccessiveHalvingPruner,
    ThresholdPruner,
)
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from lrtune.search.curve.pruner import PruneVerdict, forecast, judged
from lrtune.search.engine.kept_models import KeptModels
from lrtune.search.studies.study import STUDY, empty, frozen, intermediate, penalty, searched
from lrtune.wire.job import AdmittedJob
from lrtune.wire.results import REPORTS, Trial
from lrtune.wire.strategies import (
    Forecast,
    Hyperband,
    Median,
    NoPruner,
    Patient,
    Percentile,
    Pruners,
    SuccessiveHalving,
    Threshold,
)


def may_act(spec: AdmittedJob, trial: Trial) -> bool:
    """Whether the job's pruner could stop a running trial at its newest report, by what the trial itself shows.

    Only trials of the search are ever stopped, never a baseline or a confirming run, and none where its stage ends
    anyway or before the pruner's warm-up. A verdict needs the job's other trials, so it is asked for only where it may.
    """
    return trial.start < trial.step < (trial.until or trial.horizon) and _asked(spec, trial)


def compares_running(spec: AdmittedJob) -> bool:
    """Whether a verdict depends on how far other trials that run have got: rungs are counted over all that came there.

    All other pruners compare with trials that have ended, or with nothing but the trial itself.
    """
    return isinstance(spec.search.pruner, SuccessiveHalving | Hyperband)


def counts_reports(spec: AdmittedJob) -> bool:
    """Whether it takes more than a trial's last two reports to say if the pruner may act."""
    return not isinstance(spec.search.pruner, NoPruner | Forecast)


def _asked(spec: AdmittedJob, trial: Trial) -> bool:
    """Whether the pruner has something to say of a trial's newest report, wherever its stage may end."""
    kind, seen, place = spec.search.pruner, intermediate(spec, trial), len(trial.reports)
    if trial.role != "search" or place not in seen:
        return False
    match kind:
        case NoPruner():
            return False
        case Forecast():
            return judged(trial)
        case Median(n_warmup_reports=warmup) | Percentile(n_warmup_reports=warmup) | Threshold(n_warmup_reports=warmup):
            return place > warmup
        case SuccessiveHalving() | Hyperband():
            return len(_rungs(spec, trial, asking=False)) > len(_rungs(spec, trial, asking=True))
        case Patient(patience=patience):
            return len(seen) > patience + 1


def verdict(
    spec: AdmittedJob, history: Sequence[Trial], trial: Trial, *, steps: int, kept: KeptModels | None = None
) -> PruneVerdict:
    """The verdict of `verdicts` on one running trial."""
    return verdicts(spec, history, [trial], steps=steps, kept=kept)[0]


def verdicts(
    spec: AdmittedJob, history: Sequence[Trial], asked: Sequence[Trial], *, steps: int, kept: KeptModels | None = None
) -> list[PruneVerdict]:
    """What the job's pruner says of each of these running trials of a job with a horizon of `steps`.

    Only whole runs of the search are ever stopped, never a baseline, a confirming run or one over a shorter horizon,
    which is there for what it says of its own. `kept` is what earlier verdicts of the job have fitted; without it all
    is fitted anew.
    """
    kind = spec.search.pruner
    open_ = [trial for trial in asked if trial.horizon >= steps and _asked(spec, trial)]
    if isinstance(kind, Forecast):
        found = forecast(spec, kind, history, open_, steps=steps, kept=kept or KeptModels())
    else:
        found = [_by_optuna(spec, kind, history, trial) for trial in open_]
    said = {trial.number: one for trial, one in zip(open_, found, strict=True)}
    return [said.get(trial.number, PruneVerdict()) for trial in asked]


def _by_optuna(spec: AdmittedJob, kind: Pruners, history: Sequence[Trial], trial: Trial) -> PruneVerdict:
    seen, place = intermediate(spec, trial), len(trial.reports)
    past = _competing(kind, history, trial)
    rule = pruner(kind, trial.number)
    study = empty(spec, pruner=rule)
    study.add_trials(_frozen(spec, past, trial))
    trials = study.get_trials(deepcopy=False)
    if not rule.prune(study, trials[[one.number for one in past].index(trial.number)]):
        return PruneVerdict()
    at = f"{seen[place]:.4g} at report {place} of {REPORTS}"
    return PruneVerdict(stop=f"{kind.name} pruner: {at}, {_words(spec, kind, trials, trial)}")


def pruner(kind: Pruners, number: int) -> BasePruner:
    """The pruner of a trial of a job as Optuna's. Its steps count from 0, ours from 1: hence the `+ 1` of a warm-up."""
    match kind:
        case NoPruner() | Forecast():  # the forecast is not Optuna's, see curve/pruner.py
            return NopPruner()
        case Median(n_startup_trials=startup, n_warmup_reports=warmup):
            return MedianPruner(n_startup_trials=startup, n_warmup_steps=warmup + 1)
        case Percentile(percentile=percentile, n_startup_trials=startup, n_warmup_reports=warmup):
            return PercentilePruner(percentile, n_startup_trials=startup, n_warmup_steps=warmup + 1)
        case SuccessiveHalving(min_reports=least, reduction_factor=factor, min_early_stopping_rate=rate):
            return SuccessiveHalvingPruner(
                min_resource=least, reduction_factor=factor, min_early_stopping_rate=rate, bootstrap_count=0
            )
        case Hyperband(min_reports=least, reduction_factor=factor):  # which is this, among the trials of one bracket
            return SuccessiveHalvingPruner(
                min_resource=least, reduction_factor=factor, min_early_stopping_rate=bracket(kind, number)
            )
        case Patient(patience=patience, min_delta=delta):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                return PatientPruner(None, patience=patience, min_delta=delta)
        case Threshold(lower=lower, upper=upper, n_warmup_reports=warmup):
            return ThresholdPruner(lower=lower, upper=upper, n_warmup_steps=warmup + 1)


def _competing(kind: Pruners, history: Sequence[Trial], running: Trial) -> list[Trial]:
    """The trials of the search that a running one is compared with, itself among them: for Hyperband its bracket's."""
    past = {trial.number: trial for trial in searched(history)} | {running.number: running}
    if not isinstance(kind, Hyperband):
        return list(past.values())
    own = bracket(kind, running.number)
    return [one for number, one in past.items() if bracket(kind, number) == own]


def _frozen(spec: AdmittedJob, past: Sequence[Trial], running: Trial) -> list[FrozenTrial]:
    worst = penalty(spec, past)
    return [frozen(spec, one, diverged=worst, rungs=_rungs(spec, one, asking=one is running)) for one in past]


def _rungs(spec: AdmittedJob, trial: Trial, *, asking: bool) -> dict[str, float]:
    """What successive halving noted of a trial: its value at each rung it reached, the one it asks about not yet."""
    kind = spec.search.pruner
    if not isinstance(kind, SuccessiveHalving | Hyperband):
        return {}
    first = bracket(kind, trial.number) if isinstance(kind, Hyperband) else kind.min_early_stopping_rate
    seen = list(intermediate(spec, trial).items())
    seen = seen[:-1] if asking else seen
    rungs: dict[str, float] = {}
    while reached := [
        v for place, v in seen if place >= kind.min_reports * kind.reduction_factor ** (first + len(rungs))
    ]:
        rungs[f"completed_rung_{len(rungs)}"] = reached[0]
    return rungs


def bracket(kind: Hyperband, number: int) -> int:
    """The bracket that Optuna's Hyperband hashes a trial's number into."""
    last = math.floor(math.log(REPORTS / kind.min_reports, kind.reduction_factor))
    shares = [math.ceil((last + 1) * kind.reduction_factor**s / (s + 1)) for s in range(last, -1, -1)]
    place = zlib.crc32(f"{STUDY}_{number}".encode()) % sum(shares)
    return bisect_right(list(accumulate(shares)), place)


def _words(spec: AdmittedJob, kind: Pruners, trials: Sequence[FrozenTrial], trial: Trial) -> str:
    """What the verdict rests on."""
    match kind:
        case Median():
            return f"the median there is {_percentile(spec, 50.0, trials, trial):.4g}"
        case Percentile(percentile=percentile):
            limit = _percentile(spec, percentile, trials, trial)
            return f"the best {percentile:g} % are at {limit:.4g} or better there"
        case SuccessiveHalving(reduction_factor=factor) | Hyperband(reduction_factor=factor):
            return f"not among the best 1 in {factor} that came to this rung"
        case Patient(patience=patience):
            return f"no better in the last {patience + 1} reports than before"
        case Threshold(lower=lower, upper=upper):
            ends = (("above", lower), ("below", upper))
            return "accepted is " + " and ".join(f"{side} {end:g}" for side, end in ends if end is not None)
        case NoPruner() | Forecast():
            return ""


def _percentile(spec: AdmittedJob, percentile: float, trials: Sequence[FrozenTrial], trial: Trial) -> float:
    """The value of the complete trials at the running trial's last report, as Optuna's percentile pruner takes it."""
    place = max(intermediate(spec, trial))
    there = [
        one.intermediate_values[place]
        for one in trials
        if one.state is OptunaState.COMPLETE and place in one.intermediate_values
    ]
    return float(np.percentile(there, 100.0 - percentile if spec.metric.goal == "maximize" else percentile))
