"""The rising ramp that a search in stages begins with: a tenth of a run, from the lowest rate to the highest.

It bounds from above where the first looks go, and chooses nothing: a short run flatters the rates that go fast, and
first looks at poor low rates teach the search how far apart runs lie.
After L. N. Smith, "Cyclical learning rates for training neural networks", arXiv:1506.01186, section 3.3.
"""

from collections.abc import Sequence

from lrtune.results import ENDED, Proposal, Trial
from lrtune.schedules import ExponentialGrowth
from lrtune.search.untuned import usual
from lrtune.space import Choice
from lrtune.spec import JobSpec

SHARE = 0.1  # of a full run, which is what it costs
LEAST = 20  # steps: a shorter one shows nothing
AFFORDED = 20  # times its cost has to be left
WIDE = 100.0  # between the ends of a range: of a narrower one there is little to rule out
KEPT = 0.9  # of the best gain on the way is still there at a rate that is not too high,
SLACK = 2.0  # times which is left: more steps before it, or a warm-up, bear more


def ramp(spec: JobSpec, past: Sequence[Trial], steps: int, *, left: float) -> Proposal | None:
    """The ramp of the first optimizer that has had none; None where none is worth its cost."""
    if left < SHARE * AFFORDED or steps * SHARE < LEAST:
        return None
    had = {trial.configuration for trial in past if trial.role == "ramp"}
    for optimizer in spec.optimizers:
        ends = _ends(spec, optimizer.name)
        if ends is None:
            continue
        rising = ExponentialGrowth(start=ends[0] / ends[1])
        changes = {"learning_rate": ends[1], "schedule": rising, "warmup": 0.0, "floor": 0.0}
        configuration = usual(spec, optimizer.name).model_copy(update=changes)
        if configuration not in had:
            reason = f"rising ramp: the rate climbs from {ends[0]:.3g} to {ends[1]:.3g}, to see how high it may be"
            return Proposal(
                configuration=configuration, role="ramp", seed=spec.search.seed, fraction=SHARE, reason=reason
            )
    return None


def edges(spec: JobSpec, past: Sequence[Trial]) -> dict[str, float]:
    """The highest rate that each optimizer's ramp has left for the first looks; nothing of one that saw no report."""
    found = {}
    for trial in past:
        if trial.role == "ramp" and trial.state in ENDED and spec.metric:
            seen = [(one.learning_rate, one.metrics.get(spec.metric.name)) for one in trial.reports]
            known = [(rate, spec.metric.sign * value) for rate, value in seen if value is not None]
            if known:
                found[str(trial.configuration.optimizer.as_dict()["name"])] = _edge(known)
    return found


def _edge(known: Sequence[tuple[float, float]]) -> float:
    """The highest rate at which most of the gain was there: beyond it training comes apart."""
    first, best = known[0][1], min(value for _, value in known)
    return SLACK * max(rate for rate, value in known if value <= first - KEPT * (first - best))


def _ends(spec: JobSpec, name: str) -> tuple[float, float] | None:
    """The lowest and the highest rate of an optimizer; None where they lie close together."""
    axis = spec.space().optimizers[name]["learning_rate"]
    rates = [rate for rate in axis.options if isinstance(rate, float)] if isinstance(axis, Choice) else []
    return (min(rates), max(rates)) if rates and max(rates) >= WIDE * min(rates) else None
