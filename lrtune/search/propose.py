"""The next configuration to try: the baseline first, then what the job's list asks for, then what its sampler draws.

A pure function: the study is rebuilt from the trials, asked once, and forgotten. A sampler that also chooses
the horizon is one more branch of `suggest`, in a file of its own.
"""

import math
from collections.abc import Iterator, Sequence
from datetime import datetime

from optuna.samplers import RandomSampler
from optuna.study import Study

from lrtune.search.asked import next_asked
from lrtune.search.baseline import baseline
from lrtune.search.curve.beginnings import Beginnings
from lrtune.search.curve.sampler import propose, staged
from lrtune.search.shorter import next_shorter
from lrtune.search.studies import samplers
from lrtune.search.studies.space import Coordinates, coordinates
from lrtune.search.studies.study import empty, frozen, penalty, replay, searched
from lrtune.search.warm_start import as_past, at_horizon, rerun_best
from lrtune.wire.configuration import Configuration
from lrtune.wire.job import AdmittedJob
from lrtune.wire.results import OBSERVED, Proposal, Trial, TrialState, WarmStartTrial
from lrtune.wire.strategies import Cmaes, CurveSearch, Gp, Grid, Qmc, Random, Tpe

ASKS = 5  # of the sampler, when it draws what was tried already
DRAWS = 100  # at random, after that


class SpaceExhausted(Exception):
    """Every configuration of this job's space was tried, or none can be brought to its end any more."""


def suggest(
    spec: AdmittedJob,
    history: Sequence[Trial],
    *,
    steps: int,
    warm_start: Sequence[WarmStartTrial] = (),
    continued: bool = True,
) -> Proposal:
    """The first of the `suggestions`, whatever is left to spend."""
    return suggestions(spec, history, steps=steps, warm_start=warm_start, continued=continued)[0]


def suggestions(
    spec: AdmittedJob,
    history: Sequence[Trial],
    *,
    steps: int,
    warm_start: Sequence[WarmStartTrial] = (),
    left: float = math.inf,
    continued: bool = True,
    beginnings: Beginnings | None = None,
    waiting: int = 1,
    extended_at: datetime | None = None,
) -> list[Proposal]:
    """What to train next at a horizon of `steps`. Same history, warm start, seed and number who wait, same answer.

    There is more than one only if several are `waiting`, and only from samplers that find them for the price of one.
    `warm_start` is what earlier jobs on the same task showed: the best of it runs again, after the job's own list, and
    the sampler learns from all. Where trials can be `continued` a search may go in stages: it minds what is `left` to
    spend, in full runs. `beginnings` and `extended_at` are as in `advance`. Raises SpaceExhausted.
    """
    past, earlier = searched(history), as_past(warm_start)
    whole = min((trial.number for trial in past if trial.completed(steps)), default=0)
    tried = [trial for trial in past if not _forgiven(trial, extended_at, whole)]
    if not any(trial.role == "baseline" for trial in tried):
        return [baseline(spec, steps=steps)]
    if continued and not staged(spec) and (proposal := _broken_off(past, beginnings, steps=steps, left=left)):
        return [proposal]
    if left >= 1.0 and (proposal := next_asked(spec, tried, steps=steps)):
        return [proposal]
    if left >= 1.0 and (proposal := rerun_best(spec, past, warm_start, steps=steps)):
        return [proposal]
    if proposal := next_shorter(spec, past, steps=steps, left=left):
        return [proposal]
    # Only there to give each decision a seed of its own.
    number = max(trial.decision for trial in past) + 1
    kind, stages = spec.search.sampler, continued and staged(spec)
    if isinstance(kind, CurveSearch):
        numbers = range(number, number + max(waiting, 1))
        found = propose(
            spec, kind, past, earlier, steps=steps, numbers=numbers, left=left, stages=stages, beginnings=beginnings
        )
        if found:
            return found
    if stages and math.isfinite(left):
        raise SpaceExhausted
    # Others than these look at all that was tried before each draw, for seconds where that is much.
    at_once = waiting if isinstance(kind, samplers.MEMORYLESS) else 1
    return _drawn(spec, past, at_horizon(earlier, steps=steps), steps=steps, most=min(max(at_once, 1), max(left, 1.0)))


def _forgiven(trial: Trial, extended_at: datetime | None, whole: int) -> bool:
    """Whether a trial failed before its job was extended, or before the first whole run: what broke it may be mended.

    The first start of a loop of one's own breaks by its mistakes, and trial 0 is what the answer is compared with.
    """
    if trial.state is not TrialState.FAILED:
        return False
    return trial.number < whole or bool(trial.finished_at and extended_at and trial.finished_at <= extended_at)


def _broken_off(past: Sequence[Trial], beginnings: Beginnings | None, *, steps: int, left: float) -> Proposal | None:
    """The first trial that was on its way to its end as somebody stopped the search, to go on now that it does.

    Only of a search without stages: one with stages weighs it among all others.
    """
    for trial in past:
        stopped = trial.state is TrialState.STOPPED and trial.stopped_by == "budget"
        whole = trial.role == "search" and trial.until is None and trial.step < trial.horizon
        if not whole or not (stopped or trial.state is TrialState.PAUSED):
            continue
        start = None if beginnings is None else beginnings.start(trial)
        if trial.horizon - (trial.step if start is None else start) <= left * steps:
            reason = f"goes on from where it was as the search was stopped, at step {trial.step} of {trial.horizon}"
            what = {"configuration": trial.configuration, "role": trial.role, "seed": trial.seed}
            return Proposal(**what, horizon=trial.horizon, resume=trial.number, start=start, reason=reason)
    return None


def _drawn(
    spec: AdmittedJob, past: Sequence[Trial], earlier: Sequence[Trial], *, steps: int, most: float
) -> list[Proposal]:
    """What an Optuna sampler would train next, each whole run drawn while those before it run; `most` or fewer."""
    found, history = list[Proposal](), list(past)
    tried = {trial.configuration for trial in past}
    while len(found) + 1 <= most:
        number = max(trial.decision for trial in history) + 1
        new = next((draw for draw in _draws(spec, history, earlier, number=number) if draw not in tried), None)
        if new is None:
            break
        reason = _reason(spec, history, earlier=len(earlier))
        found.append(Proposal(configuration=new, role="search", seed=spec.search.seed, horizon=steps, reason=reason))
        tried.add(new)
        history.append(begun(found[-1], number=max(trial.number for trial in history) + 1, decision=number))
    if not found:
        raise SpaceExhausted
    return found


def begun(proposal: Proposal, *, number: int, decision: int) -> Trial:
    """The trial that a proposal makes, while it runs."""
    fields = {name: getattr(proposal, name) for name in ("role", "configuration", "seed", "horizon", "until")}
    return Trial(number=number, why=proposal.reason, state=TrialState.RUNNING, decision=decision, **fields)


def _draws(
    spec: AdmittedJob, past: Sequence[Trial], earlier: Sequence[Trial], *, number: int
) -> Iterator[Configuration]:
    """What the sampler draws when it is asked again and again, then something of what is left of the space."""
    kind, seed = spec.search.sampler, samplers.seeded(spec.search.seed, number)
    if not isinstance(kind, Grid):
        space = coordinates(spec, flat=isinstance(kind, samplers.FLAT))
        study = _rebuilt(spec, past, space, earlier, number=number)
        yield from (space.draw(study.ask()) for _ in range(ASKS))
    space = coordinates(spec, points=kind.points if isinstance(kind, Grid) else None)
    if space.finite():
        study = empty(spec, sampler=samplers.every(seed))
        places = ((trial, space.exactly(trial.configuration)) for trial in past)
        study.add_trials(frozen(spec, trial, diverged=0.0, place=place) for trial, place in places if place)
        yield space.draw(study.ask())  # one that was tried only when all were
    else:
        study = empty(spec, sampler=RandomSampler(seed=seed))
        yield from (space.draw(study.ask()) for _ in range(DRAWS))


def _rebuilt(
    spec: AdmittedJob, past: Sequence[Trial], space: Coordinates, earlier: Sequence[Trial], *, number: int
) -> Study:
    """The study that these trials would have made after those of earlier jobs, with a fresh sampler for the next."""
    kind, seed = spec.search.sampler, spec.search.seed
    if isinstance(kind, samplers.MEMORYLESS):
        return empty(spec, sampler=samplers.sampler(kind, seed=seed, number=number))
    worst = penalty(spec, [*earlier, *past])
    known = [trial for trial in (*earlier, *past) if trial.role != "baseline" or spec.allows(trial.configuration)]
    places = ((trial, space.place(trial.configuration)) for trial in known)
    trials = [frozen(spec, trial, diverged=worst, place=place) for trial, place in places if place]
    study = empty(spec, sampler=samplers.sampler(kind, seed=seed, number=0))
    if isinstance(kind, samplers.REPLAYED):
        replay(study, trials)
    else:
        study.add_trials(trials)
    study.sampler = samplers.sampler(kind, seed=seed, number=number)
    return study


def _reason(spec: AdmittedJob, past: Sequence[Trial], *, earlier: int) -> str:
    """Why this one, in a line: how far a sampler is, or how much one that learns had to learn from."""
    draw = sum(trial.role == "search" for trial in past) + 1
    match spec.search.sampler:
        case CurveSearch():
            return "what is left of the space"
        case Random():
            return f"random draw {draw}"
        case Grid():
            return f"grid point {draw}"
        case Qmc(sequence=sequence):
            return f"{sequence} point {draw}"
        case Tpe(n_startup_trials=startup) | Gp(n_startup_trials=startup) | Cmaes(n_startup_trials=startup) as kind:
            values = [trial.value for trial in past if trial.state is TrialState.COMPLETE and trial.value is not None]
            ended = sum(trial.state in OBSERVED for trial in past)
            if ended + earlier < startup or not (values or earlier):
                return f"start-up draw {len(past)}, {kind.name} begins after {startup} results"
            words = f"{kind.name} after {ended} results" + (f" and {earlier} of the warm start" if earlier else "")
            best = min(values, key=lambda value: spec.metric.sign * value, default=None)
            return words if best is None else f"{words}, best so far {best:.4g}"
