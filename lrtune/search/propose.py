"""The next configuration to try: the untuned baseline first, then what the job's sampler draws.

A pure function: the study is rebuilt from the trials, asked once, and forgotten. A sampler that also chooses
the horizon is one more branch of `suggest`, in a file of its own.
"""

import math
from collections.abc import Iterator, Sequence

from optuna.samplers import RandomSampler
from optuna.study import Study

from lrtune.analysis.answer import allowed
from lrtune.search.baseline import baseline
from lrtune.search.curve.encode import horizon
from lrtune.search.curve.sampler import propose, staged
from lrtune.search.studies import samplers
from lrtune.search.studies.space import Coordinates, coordinates
from lrtune.search.studies.study import bad, empty, replay, searched, told
from lrtune.search.warm_start import again, compared, runs
from lrtune.wire.configuration import Configuration
from lrtune.wire.job import Horizon, JobSpec
from lrtune.wire.results import Earlier, Proposal, Trial, TrialState
from lrtune.wire.strategies import Cmaes, Curve, Gp, Grid, Qmc, Random, Tpe

ASKS = 5  # of the sampler, when it draws what was tried already
DRAWS = 100  # at random, after that
LEARNT = (TrialState.COMPLETE, TrialState.STOPPED, TrialState.DIVERGED)


class SpaceExhausted(Exception):
    """Every configuration of this job's space was tried, or none can be brought to its end any more."""


def suggest(
    spec: JobSpec,
    history: Sequence[Trial],
    *,
    prior: Sequence[Earlier] = (),
    left: float = math.inf,
    continued: bool = True,
) -> Proposal:
    """What to try next. Same history, prior and seed, same answer. Raises SpaceExhausted when all was tried.

    `prior` is what earlier jobs on the same task showed: the best of it runs again first, the sampler learns from all.
    Where runs are `continued` a search may go in stages: it minds what is `left` to spend, in full runs.
    """
    past = searched(history)
    if not any(trial.role == "baseline" for trial in past):
        return baseline(spec)
    steps, earlier = horizon(spec, past), runs(prior)
    if left >= 1.0 and (proposal := again(spec, past, prior, steps=steps)):
        return proposal
    kind, number, stages = spec.search.sampler, _number(past), continued and staged(spec)
    if isinstance(kind, Curve):
        whole = spec.model_copy(update={"horizon": Horizon(steps=steps)}) if earlier else spec
        if proposal := propose(whole, kind, past, earlier, number=number, left=left, stages=stages):
            return proposal
    if stages and math.isfinite(left):
        raise SpaceExhausted
    before = compared(earlier, steps=steps)
    configuration = _untried(spec, past, before)
    reason = _reason(spec, past, before)
    return Proposal(configuration=configuration, role="search", seed=spec.search.seed, reason=reason)


def _untried(spec: JobSpec, past: Sequence[Trial], before: Sequence[Trial]) -> Configuration:
    """A configuration that no trial has had with this seed, running ones included."""
    known = {trial.configuration for trial in past}
    for draw in _draws(spec, past, before):
        if draw not in known:
            return draw
    raise SpaceExhausted


def _draws(spec: JobSpec, past: Sequence[Trial], before: Sequence[Trial]) -> Iterator[Configuration]:
    """What the sampler draws when it is asked again and again, then something of what is left of the space."""
    kind, seed = spec.search.sampler, samplers.seeded(spec.search.seed, _number(past))
    if not isinstance(kind, Grid):
        space = coordinates(spec, flat=isinstance(kind, samplers.FLAT))
        study = _rebuilt(spec, past, space, before)
        yield from (space.draw(study.ask()) for _ in range(ASKS))
    space = coordinates(spec, points=kind.points if isinstance(kind, Grid) else None)
    if space.finite():
        study = empty(spec, sampler=samplers.every(seed))
        places = ((trial, space.exactly(trial.configuration)) for trial in past)
        study.add_trials(told(spec, trial, worst=0.0, place=place) for trial, place in places if place)
        yield space.draw(study.ask())  # one that was tried only when all were
    else:
        study = empty(spec, sampler=RandomSampler(seed=seed))
        yield from (space.draw(study.ask()) for _ in range(DRAWS))


def _rebuilt(spec: JobSpec, past: Sequence[Trial], space: Coordinates, before: Sequence[Trial]) -> Study:
    """The study that these trials would have made after what earlier jobs taught, with a fresh sampler for the next."""
    kind, seed = spec.search.sampler, spec.search.seed
    worst = bad(spec, [*before, *past])
    known = [trial for trial in (*before, *past) if trial.role != "baseline" or allowed(spec, trial.configuration)]
    places = ((trial, space.place(trial.configuration)) for trial in known)
    frozen = [told(spec, trial, worst=worst, place=place) for trial, place in places if place]
    study = empty(spec, sampler=samplers.sampler(kind, seed=seed, number=0))
    if isinstance(kind, samplers.REPLAYED):
        replay(study, frozen)
    else:
        study.add_trials(frozen)
    study.sampler = samplers.sampler(kind, seed=seed, number=_number(past))
    return study


def _number(past: Sequence[Trial]) -> int:
    """The number of the next trial of the search; only there to give each its own seed."""
    return max((trial.number for trial in past), default=-1) + 1


def _reason(spec: JobSpec, past: Sequence[Trial], before: Sequence[Trial]) -> str:
    """Why this one, in a line."""
    draw = sum(trial.role == "search" for trial in past) + 1
    match spec.search.sampler:
        case Curve():
            return "what is left of the space"
        case Random():
            return f"random draw {draw}"
        case Grid():
            return f"grid point {draw}"
        case Qmc(sequence=sequence):
            return f"{sequence} point {draw}"
        case Tpe(n_startup_trials=startup) | Gp(n_startup_trials=startup) | Cmaes(n_startup_trials=startup) as kind:
            return _evidence(spec, past, kind.name, startup=startup, earlier=len(before))


def _evidence(spec: JobSpec, past: Sequence[Trial], name: str, *, startup: int, earlier: int) -> str:
    """How much a sampler that learns had to learn from."""
    complete = [trial.value for trial in past if trial.state is TrialState.COMPLETE and trial.value is not None]
    ended = [trial for trial in past if trial.state in LEARNT]
    if len(ended) + earlier < startup or not (complete or earlier):
        return f"start-up draw {len(past)}, {name} begins after {startup} results"
    words = f"{name} after {len(ended)} results" + (f" and {earlier} of earlier jobs" if earlier else "")
    if not complete:
        return words
    best = max(complete) if spec.metric and spec.metric.goal == "maximize" else min(complete)
    return f"{words}, best so far {best:.4g}"
