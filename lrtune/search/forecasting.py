"""The `forecast` pruner of a job: the engine's verdict on a running trial, from what the job's other trials show."""

from collections.abc import Sequence

from lrtune.results import REPORTS, Trial
from lrtune.search.curves.forecast import Rules, judge
from lrtune.search.study import searched
from lrtune.search.told import horizon, others, run
from lrtune.spec import JobSpec
from lrtune.strategies import Forecast


def forecast(spec: JobSpec, kind: Forecast, history: Sequence[Trial], trial: Trial) -> str | None:
    """Why a running trial should stop now, or None: its end is not expected to matter, and no audit wants to see it.

    A trial's number is its name in the engine, so that the draw of the audit belongs to it for ever.
    """
    past = [other for other in searched(history) if other.number != trial.number]
    steps, knobs = horizon(spec, [*past, trial]), others(spec)
    now = run(spec, trial, knobs)
    if now is None or not now.reports:
        return None
    runs = [one for other in past if (one := run(spec, other, knobs)) and one.reports]
    sign = spec.metric.sign if spec.metric else 1.0
    rules = Rules(chance=kind.probability, audit=kind.audit, sign=sign)
    verdict = judge(runs, now, steps, spec.search.seed, rules)
    if not verdict.stop:
        return None
    place = f"{sign * now.reports[-1][1]:.4g} at report {len(trial.reports)} of {REPORTS}"
    return f"forecast pruner: {place}, {verdict.reason}"
