"""The `forecast` pruner of a job: the engine's verdict on a running trial, from what the job's other trials show."""

from collections.abc import Sequence
from dataclasses import dataclass

from lrtune.caches import idle_cache
from lrtune.search.curve.encode import limits, runs
from lrtune.search.engine.early_stop import EarlyStop, Rules, due, judge_each
from lrtune.search.engine.kept_models import KeptModels
from lrtune.search.engine.types import Run
from lrtune.search.studies.study import searched
from lrtune.wire.job import AdmittedJob
from lrtune.wire.results import REPORTS, Trial
from lrtune.wire.strategies import Forecast


@dataclass(frozen=True, slots=True)
class PruneVerdict:
    """What a pruner says of a running trial, in words: why it stops, or why one that should does not.

    `audit`: it runs on to check the forecast; `off`: the forecasts of this job have failed their check.
    """

    stop: str = ""
    audit: str = ""
    off: str = ""


@idle_cache(maxsize=64)  # jobs, a few megabytes each
def fitted(job_id: str) -> KeptModels:  # noqa: ARG001 - the cache reads it
    """What this process keeps of a job's verdicts: the next one is then a matter of milliseconds."""
    return KeptModels()


def judged(trial: Trial) -> bool:
    """Whether a running trial is judged at its newest report.

    A stage up to a planned step is never cut short: how far it goes was weighed when it was proposed. Nor is a trial
    judged by what it shares with another or has shown before it paused, nor once more where it was stopped and resumed:
    the sampler knew of that.
    """
    before, now = ([0, 0] + [report.step for report in trial.reports])[-2:]
    resumed = any(stage.outcome == "finished" for stage in trial.stages)
    if trial.until is not None or resumed or not due(before, now, trial.horizon):
        return False
    return not trial.reports[-1].reused and now > trial.start


def forecast(
    spec: AdmittedJob, kind: Forecast, history: Sequence[Trial], asked: Sequence[Trial], *, steps: int, kept: KeptModels
) -> list[PruneVerdict]:
    """Whether these running trials should stop now: their ends are not expected to matter, and no audit wants them."""
    now = {trial.number: trial for trial in asked if judged(trial)}
    if not now:
        return [PruneVerdict()] * len(asked)
    with kept.lock:
        past = [*(other for other in searched(history) if other.number not in now), *now.values()]
        known = [run for run in runs(spec, past, kept.encoded) if run.reports]
        running = [run for run in known if run.key in now]
        # Of others that run nobody knows the end, so no verdict depends on how far they happen to have got.
        ended = [run for run in known if run.state != "running"]
        rules = Rules(chance=kind.probability, audit=kind.audit, sign=spec.metric.sign, limits=limits(spec, known))
        found = judge_each(ended, running, steps, spec.search.seed, rules, fitted=kept)
    said = {run.key: _in_words(spec, now[run.key], run, one) for run, one in zip(running, found, strict=True)}
    return [said.get(trial.number, PruneVerdict()) for trial in asked]


def _in_words(spec: AdmittedJob, trial: Trial, run: Run, found: EarlyStop) -> PruneVerdict:
    place = f"{spec.metric.sign * run.reports[-1][1]:.4g} at report {len(trial.reports)} of {REPORTS}"
    words = f"forecast pruner: {place}, {found.reason}"
    return PruneVerdict(stop=words * found.stop, audit=words * found.audit, off=words * found.off)
