"""What a job needs next: a trial of the search, a confirming run, patience, or nothing any more.

The search never costs more than its budget: a trial that runs or waits counts as all it may become, and the next one
starts only if all of it still fits; a search in stages begins nothing that it could not bring to an end. Only the first
trial and the first whole one of the job's own space run whatever the budget, because without them there is no answer.
Confirming comes on top.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from statistics import fmean

from lrtune.analysis.answer import allowed, grouped
from lrtune.search.curve.sampler import staged
from lrtune.search.propose import SpaceExhausted, suggest
from lrtune.search.studies.study import searched
from lrtune.wire.configuration import Configuration
from lrtune.wire.job import Budget, JobSpec
from lrtune.wire.results import ENDED, Earlier, Proposal, Trial, TrialState

FIRST_FAILURES = 3  # without one success: the task is broken
FAILURES = 5  # in a row: it broke on the way
ADVICE: dict[str, str] = {
    TrialState.DIVERGED: "; try lower rates (`learning_rate` of its optimizer), a longer warm-up, a smaller clip_norm",
    TrialState.STOPPED: '; try the pruner "none"',
    TrialState.FAILED: "; the reasons stand at the trials",
}


@dataclass(frozen=True, slots=True)
class Step:
    """What a job needs next: a trial to start, or nothing while others run; `over` with the reason if it failed."""

    proposal: Proposal | None
    over: bool
    failure: str = ""


WAIT = Step(None, over=False)


def advance(
    spec: JobSpec,
    history: Sequence[Trial],
    *,
    steps: int,
    seconds: float,
    prior: Sequence[Earlier] = (),
    continued: bool = True,
) -> Step:
    """What a job needs next, `seconds` after it began, at a horizon of `steps`; `prior` is what earlier jobs showed.

    `continued` says whether a stopped run can go on: only then may it be trained in stages.
    """
    past = searched(history)
    failure = _broken(past)
    proposal = None if failure else _search(spec, past, prior, steps=steps, seconds=seconds, continued=continued)
    if proposal:
        return Step(proposal, over=False)
    if any(trial.state not in ENDED for trial in past):
        return WAIT
    failure = failure or _fruitless(spec, past, steps=steps)
    if failure:
        return Step(None, over=True, failure=failure)
    proposal = _confirm(spec, history, steps=steps)
    if proposal:
        return Step(proposal, over=False)
    return Step(None, over=all(trial.state in ENDED for trial in history))


def spent(past: Sequence[Trial], *, steps: int) -> float:
    """What the search has cost and may still cost through the trials it has, in full runs.

    Steps that an earlier piece of the same run has trained are not counted again for one that waits or runs.
    """
    reached: dict[tuple[Configuration, int, int], int] = {}
    for trial in past:
        if trial.state in ENDED:
            run = trial.configuration, trial.seed, trial.horizon
            reached[run] = max(reached.get(run, 0), trial.step)
    return sum(_cost(trial, reached) for trial in past) / steps


def _cost(trial: Trial, reached: Mapping[tuple[Configuration, int, int], int]) -> int:
    if trial.state in ENDED:
        return trial.cost
    known = reached.get((trial.configuration, trial.seed, trial.horizon), 0)
    return min(trial.cost, max(0, (trial.until or trial.horizon) - known))


def _search(
    spec: JobSpec, past: Sequence[Trial], prior: Sequence[Earlier], *, steps: int, seconds: float, continued: bool
) -> Proposal | None:
    """The next trial of the search, if the budget and the space have one more."""
    left = _left(spec.budget, past, steps=steps, seconds=seconds)
    if not any(t.until is None and t.role != "ramp" and allowed(spec, t.configuration) for t in past):
        left = max(left, 1.0)  # the first whole run of the job's own space runs whatever the budget
    if left < (1e-9 if continued and staged(spec) else 1.0):
        return None
    try:
        return suggest(spec, past, prior=prior, left=left, continued=continued)
    except SpaceExhausted:
        return None


def _left(budget: Budget, past: Sequence[Trial], *, steps: int, seconds: float) -> float:
    """How many more full runs the search may cost."""
    if budget.seconds is not None and seconds >= budget.seconds:
        return 0.0
    if budget.trials is not None and len(past) >= budget.trials:
        return 0.0
    return math.inf if budget.full_runs is None else budget.full_runs - spent(past, steps=steps) + 1e-9


def _confirm(spec: JobSpec, history: Sequence[Trial], *, steps: int) -> Proposal | None:
    """The next run over a fresh seed that is missing. Seed by seed, so that all candidates advance together."""
    tried = {(trial.configuration, trial.seed) for trial in history if trial.role == "confirm"}
    candidates = _candidates(spec, searched(history), steps=steps)
    for fresh in range(1, spec.confirm.seeds + 1):
        for first in candidates:
            seed = spec.search.seed + fresh
            if (first.configuration, seed) not in tried:
                reason = f"fresh seed {fresh} of {spec.confirm.seeds} for trial {first.number}"
                return Proposal(configuration=first.configuration, role="confirm", seed=seed, reason=reason)
    return None


def _candidates(spec: JobSpec, past: Sequence[Trial], *, steps: int) -> list[Trial]:
    """A trial of each configuration to confirm: the best few, and the baseline to compare them with."""
    ranked = sorted(grouped(_whole(past, steps=steps)), key=lambda runs: (_mean(spec, runs), runs[0].number))
    own: list[Trial] = []
    for first in (runs[0] for runs in ranked):
        if len(own) < spec.confirm.top and allowed(spec, first.configuration):
            own.append(first)
    chosen: set[Configuration] = {first.configuration for first in own}
    beside = [runs[0] for runs in ranked if runs[0].role == "baseline" and runs[0].configuration not in chosen]
    return own + beside if own else []


def _whole(past: Sequence[Trial], *, steps: int) -> list[Trial]:
    """The trials that completed over the job's own horizon."""
    return [t for t in past if t.state is TrialState.COMPLETE and t.horizon == steps and t.value is not None]


def _mean(spec: JobSpec, runs: Sequence[Trial]) -> float:
    """What runs of one configuration came to, lower being better."""
    sign = spec.metric.sign if spec.metric else 1.0
    return sign * fmean(run.value for run in runs if run.value is not None)


def _broken(past: Sequence[Trial]) -> str:
    """Why it is no use to go on, in words; nothing while it is."""
    ended = [trial for trial in past if trial.state in ENDED]
    failed = list(takewhile(lambda trial: trial.state is TrialState.FAILED, reversed(ended)))
    if len(failed) < (FIRST_FAILURES if len(failed) == len(ended) else FAILURES):
        return ""
    which = "first" if len(failed) == len(ended) else "last"
    return f"the {which} {len(failed)} trials failed; the last of them: {failed[0].reason or 'no reason given'}"


def _fruitless(spec: JobSpec, past: Sequence[Trial], *, steps: int) -> str:
    """Why a search that is over has no answer, in words and with what to do; nothing when it has one."""
    if any(allowed(spec, trial.configuration) for trial in _whole(past, steps=steps)):
        return ""
    tried = [trial for trial in past if allowed(spec, trial.configuration)] or past
    counts = Counter(trial.state.value for trial in tried)
    rates = [trial.configuration.learning_rate for trial in tried]
    ended = ", ".join(f"{count} {state}" for state, count in counts.most_common())
    advice = ADVICE.get(counts.most_common(1)[0][0], "")
    return (
        f"no trial of this job's space completed its run ({ended}; "
        f"learning rates {min(rates):g} to {max(rates):g}){advice}"
    )
