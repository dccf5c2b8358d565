"""The `forecast` pruner of a job: the engine's verdict on a running trial, from what the job's other trials show."""

from collections.abc import Sequence
from dataclasses import dataclass

from lrtune.search.curve.encode import horizon, others, piece, runs
from lrtune.search.engine.early_stop import Rules, due, judge
from lrtune.search.studies.study import searched
from lrtune.wire.job import JobSpec
from lrtune.wire.results import REPORTS, Trial, TrialState
from lrtune.wire.strategies import Forecast


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a pruner says of a running trial, in words: why it stops, or why one that should does not.

    `audit`: it runs on to check the forecast; `off`: the forecasts of this job have failed their check.
    """

    stop: str = ""
    audit: str = ""
    off: str = ""


def forecast(spec: JobSpec, kind: Forecast, history: Sequence[Trial], trial: Trial) -> Verdict:
    """Whether a running trial should stop now: its end is not expected to matter, and no audit wants to see it.

    A look is never stopped: how far it goes was weighed when it was proposed. Nor is a run at a report that it shares
    with another, nor one that was stopped before: the sampler knew that when it went on with it.
    """
    past = [other for other in searched(history) if other.number != trial.number]
    before, now = ([0, 0] + [report.step for report in trial.reports])[-2:]
    if trial.until is not None or not due(before, now, trial.horizon):
        return Verdict()
    if trial.reports[-1].credited or _resumed(past, trial):
        return Verdict()
    steps = horizon(spec, [*past, trial])
    if piece(spec, trial, others(spec)) is None:
        return Verdict()
    *known, running = runs(spec, [*past, trial])
    sign = spec.metric.sign if spec.metric else 1.0
    rules = Rules(chance=kind.probability, audit=kind.audit, sign=sign)
    verdict = judge([one for one in known if one.reports], running, steps, spec.search.seed, rules)
    if not (verdict.stop or verdict.audit or verdict.off):
        return Verdict()
    place = f"{sign * running.reports[-1][1]:.4g} at report {len(trial.reports)} of {REPORTS}"
    words = f"forecast pruner: {place}, {verdict.reason}"
    return Verdict(stop=words * verdict.stop, audit=words * verdict.audit, off=words * verdict.off)


def _resumed(past: Sequence[Trial], trial: Trial) -> bool:
    """Whether a pruner has stopped this run before."""
    run = trial.configuration, trial.seed, trial.horizon
    stopped = (one for one in past if one.state is TrialState.STOPPED and one.until is None)
    return any((one.configuration, one.seed, one.horizon) == run for one in stopped)
