"""The rising ramp that a search in stages begins with: a tenth of a run, from the lowest rate to the highest.

It bounds from above where the first looks go, and chooses nothing: a short run flatters the rates that go fast, and
first looks at poor low rates teach the search how far apart runs lie.
After L. N. Smith, "Cyclical learning rates for training neural networks", arXiv:1506.01186, section 3.3.
"""

from collections.abc import Sequence

from lrtune.analysis.plateaus import kind
from lrtune.schedules import ExponentialGrowth
from lrtune.search.baseline import usual
from lrtune.wire.job import JobSpec
from lrtune.wire.results import Proposal, Trial, TrialState

SHARE = 0.1  # of a full run, which is what it costs
LEAST = 20  # steps: a shorter one shows nothing
AFFORDED = 20  # times its cost has to be left
WIDE = 100.0  # between the ends of a range: of a narrower one there is little to rule out
KEPT = 0.9  # of the best gain on the way is still there at a rate that is not too high,
SLACK = 2.0  # times which is left: more steps before it, or a warm-up, bear more
OVER = (TrialState.COMPLETE, TrialState.DIVERGED)


def ramp(spec: JobSpec, past: Sequence[Trial], steps: int, *, left: float) -> Proposal | None:
    """The ramp of the first optimizer that has had none; None where none is worth its cost."""
    if left < SHARE * AFFORDED or steps * SHARE < LEAST:
        return None
    had, space = {trial.configuration for trial in past if trial.role == "ramp"}, spec.space()
    for optimizer in spec.optimizers:
        low, high = space.rates(optimizer.name) or (1.0, 1.0)
        changes = {"learning_rate": high, "schedule": ExponentialGrowth(start=low / high), "warmup": 0.0, "floor": 0.0}
        rising = usual(spec, optimizer.name).model_copy(update=changes)
        if high >= WIDE * low and rising not in had:
            reason = f"rising ramp: the rate climbs from {low:.3g} to {high:.3g}, to see how high it may be"
            return Proposal(configuration=rising, role="ramp", seed=spec.search.seed, fraction=SHARE, reason=reason)
    return None


def too_high(spec: JobSpec, past: Sequence[Trial]) -> dict[str, float]:
    """The rate above which first looks are wasted, by optimizer; nothing of one whose ramp did not come to its end."""
    found = {}
    for trial in past:
        if trial.role == "ramp" and trial.state in OVER and spec.metric:
            seen = [(one.learning_rate, one.metrics.get(spec.metric.name)) for one in trial.reports]
            if known := [(rate, spec.metric.sign * value) for rate, value in seen if value is not None]:
                found[kind(trial.configuration)[0]] = _edge(known)
    return found


def _edge(known: Sequence[tuple[float, float]]) -> float:
    """Some way above the highest rate at which most of the gain was there: beyond it training comes apart."""
    first, best = known[0][1], min(value for _, value in known)
    return SLACK * max(rate for rate, value in known if value <= first - KEPT * (first - best))
