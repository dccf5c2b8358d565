"""The learning-rate range test that a search in stages begins with: a short run from the lowest rate to the highest.

It bounds from above where the initial design goes, and chooses nothing: a short run flatters the rates that go fast,
and poor low rates in the design teach the search how far apart runs lie.
After L. N. Smith, "Cyclical learning rates for training neural networks", arXiv:1506.01186, section 3.3.
"""

from collections.abc import Iterable, Sequence

from lrtune.analysis.words import rate
from lrtune.optimizers import OPTIMIZERS
from lrtune.schedules import ExponentialGrowth
from lrtune.search.baseline import usual
from lrtune.wire.job import AdmittedJob
from lrtune.wire.results import Proposal, Trial, TrialState

SHARE = 0.1  # of a full run, which is what it costs
LEAST = 20  # steps: a shorter one shows nothing
AFFORDED = 20  # times its cost has to be left
WIDE = 100.0  # between the ends of a range: of a narrower one there is little to rule out
MOST_OF = 0.9  # a rate is not too high where this share of the best gain on the way is still there
SLACK = 2.0  # times that rate is still allowed: with more steps before it, or a warm-up, training bears more
OVER = (TrialState.COMPLETE, TrialState.DIVERGED)


def range_test(spec: AdmittedJob, past: Sequence[Trial], *, steps: int, left: float) -> Proposal | None:
    """The test of the first optimizer that has had none; None where none is worth its cost.

    `steps` is the job's horizon, `left` the full runs that may still be spent.
    """
    if left < SHARE * AFFORDED or steps * SHARE < LEAST:
        return None
    had, space = {trial.configuration for trial in past if trial.role == "range-test"}, spec.space()
    for optimizer in spec.optimizers:
        low, high = space.rates(optimizer.name) or (1.0, 1.0)
        changes = {"learning_rate": high, "schedule": ExponentialGrowth(start=low / high), "warmup": 0.0, "floor": 0.0}
        rising = usual(spec, optimizer.name).model_copy(update=changes)
        tells = OPTIMIZERS[optimizer.name].families is None  # one that goes with a constant rate alone takes no rise
        if tells and high >= WIDE * low and rising not in had:
            climbs = f"the rate climbs from {rate(low)} to {rate(high)}, to see how high it may be"
            return Proposal(
                configuration=rising,
                role="range-test",
                seed=spec.search.seed,
                horizon=max(2, round(SHARE * steps)),
                reason=f"learning-rate range test: {climbs}",
            )
    return None


def too_high(spec: AdmittedJob, past: Sequence[Trial]) -> dict[str, float]:
    """The effective rate above which an initial design is wasted, by optimizer: some way above where it came apart."""
    tests = (trial.configuration for trial in past if trial.role == "range-test")
    tested = {configuration.kind[0]: configuration.optimizer for configuration in tests}
    return {name: tested[name].effective(SLACK * edge) for name, edge in edges(spec, past).items()}


def edges(spec: AdmittedJob, past: Iterable[Trial]) -> dict[str, float]:
    """The highest rate at which a range test still had most of its gain, by optimizer: beyond, training comes apart.

    An optimizer whose test did not come to its end is left out.
    """
    found = {}
    for trial in past:
        if trial.role != "range-test" or trial.state not in OVER:
            continue
        seen = [(report.learning_rate, report.metrics.get(spec.metric.name)) for report in trial.reports]
        if known := [(rate, spec.metric.sign * value) for rate, value in seen if value is not None]:
            first, best = known[0][1], min(value for _, value in known)
            good = [rate for rate, value in known if value <= first - MOST_OF * (first - best)]
            found[trial.configuration.kind[0]] = max(good)
    return found
