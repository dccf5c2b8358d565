"""Runs over the shorter horizons that a job lists: which are trained, and how they show the best peak to move.

Once half of the budget is spent, the best configuration so far is trained over each of them at peaks a factor of two
apart, around where the square-root rule has the best one, until the best of these lies between two others.
"""

import math
from collections.abc import Iterable, Iterator, Sequence

from lrtune.search.engine.peaks import EXPONENT, Move
from lrtune.search.studies.space import coordinates
from lrtune.wire.configuration import Configuration
from lrtune.wire.job import AdmittedJob
from lrtune.wire.results import ENDED, Proposal, Trial, TrialState

APART = 2.0  # between neighbouring peaks
MOST = 6  # peaks over one horizon
BEGIN = 0.5  # of the budget spent, or
WHOLE = 6  # whole runs, where the budget is not in full runs
OWN_STD = 0.5 * math.log(APART)  # of the log of a best peak that was found among these


def next_shorter(spec: AdmittedJob, past: Sequence[Trial], *, steps: int, left: float) -> Proposal | None:
    """The next run over a shorter horizon; None where the job lists none, or none is to be trained now."""
    if not spec.horizons:
        return None
    whole = [t for t in past if t.completed(steps) and spec.allows(t.configuration)]
    # A baseline alone is no leader: what is worth finishing comes before runs that show how its rate moves.
    if not any(trial.role == "search" for trial in whole) or not _begun(spec, whole, left):
        return None
    trained = {(trial.configuration, trial.horizon) for trial in past}
    leader = _leader(spec, past, whole, steps)
    for horizon in spec.shorter(steps):
        if horizon > left * steps:
            continue
        for rate in _wanted(spec, past, leader, horizon, steps):
            found = coordinates(spec).at_rate(leader, rate)
            if (found, horizon) not in trained:
                reason = f"over {horizon} of {steps} steps, to see how the best rate moves with the horizon"
                return Proposal(
                    configuration=found, role="search", seed=spec.search.seed, horizon=horizon, reason=reason
                )
    return None


def moves(spec: AdmittedJob, trials: Iterable[Trial], *, steps: int) -> list[Move]:
    """How the best peak moved from the job's horizon of `steps` to each shorter one over which it is bracketed."""
    groups: dict[Configuration, dict[int, list[Trial]]] = {}
    for trial in trials:
        if trial.role in ("baseline", "search") and (
            trial.state is TrialState.DIVERGED or trial.completed(trial.horizon)
        ):
            groups.setdefault(_but_rate(trial.configuration), {}).setdefault(trial.horizon, []).append(trial)
    found = []
    for horizon in spec.shorter(steps):
        for over in groups.values():
            here, there = _best_rate(spec, over.get(steps, [])), _bracketed(spec, over.get(horizon, []))
            if here is not None and there is not None:
                found.append(Move(horizon, math.log(there / here), OWN_STD))
    return found


def _begun(spec: AdmittedJob, whole: Sequence[Trial], left: float) -> bool:
    budget = spec.budget.full_runs
    return len(whole) >= WHOLE if budget is None else left <= (1 - BEGIN) * budget


def _leader(spec: AdmittedJob, past: Sequence[Trial], whole: Sequence[Trial], steps: int) -> Configuration:
    """The best whole run of what has begun to be trained shorter, else of all."""
    over = spec.shorter(steps)
    begun = {_but_rate(trial.configuration) for trial in past if trial.role == "search" and trial.horizon in over}
    same = [trial for trial in whole if _but_rate(trial.configuration) in begun]
    return min(same or whole, key=lambda trial: _score(spec, trial)).configuration


def _wanted(
    spec: AdmittedJob, past: Sequence[Trial], leader: Configuration, horizon: int, steps: int
) -> Iterator[float]:
    """The peaks to train over a horizon: three at first, then beyond the best of them where that is the last."""
    middle = leader.learning_rate * (horizon / steps) ** EXPONENT
    yield from (middle, middle / APART, middle * APART)
    mine = [t for t in past if t.horizon == horizon and _but_rate(t.configuration) == _but_rate(leader)]
    if len(mine) < MOST and all(trial.state in ENDED for trial in mine):
        best, ordered = _best_rate(spec, mine), sorted(trial.configuration.learning_rate for trial in mine)
        if best == ordered[0]:
            yield best / APART
        elif best == ordered[-1]:
            yield best * APART


def _best_rate(spec: AdmittedJob, runs: Iterable[Trial]) -> float | None:
    """The peak of the best complete run."""
    best = min((t for t in runs if t.completed(t.horizon)), key=lambda trial: _score(spec, trial), default=None)
    return best.configuration.learning_rate if best else None


def _bracketed(spec: AdmittedJob, runs: Sequence[Trial]) -> float | None:
    """The best peak of some runs over one horizon that lies between two others; None where it lies at an end.

    Of the parabola through the three, on a logarithmic scale, where both neighbours came to their end.
    """
    at = {run.configuration.learning_rate: _score(spec, run) for run in runs}
    ordered = sorted(at)
    place = min(range(len(ordered)), key=lambda i: at[ordered[i]], default=0)
    if not 0 < place < len(ordered) - 1:
        return None
    x = [math.log(rate) for rate in ordered[place - 1 : place + 2]]
    low, best, high = (at[rate] for rate in ordered[place - 1 : place + 2])
    if not math.isfinite(low + high):
        return ordered[place]
    left, right = (best - low) / (x[1] - x[0]), (high - best) / (x[2] - x[1])
    return math.exp((x[0] + x[1]) / 2 - left * (x[2] - x[0]) / 2 / (right - left)) if right > left else ordered[place]


def _score(spec: AdmittedJob, trial: Trial) -> float:
    """Its value, lower being better; infinite where it diverged."""
    return math.inf if trial.value is None else spec.metric.sign * trial.value


def _but_rate(configuration: Configuration) -> Configuration:
    return configuration.model_copy(update={"learning_rate": 1.0})
