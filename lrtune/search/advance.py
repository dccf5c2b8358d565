"""What a job needs next: a trial of the search, a confirming run, patience, or nothing any more.

The search never costs more than its budget: a trial that runs or waits counts as all that its stage may still cost, and
the next one begins only if all of it still fits; a search in stages begins nothing that it could not bring to an end.
Only the first trial and the first complete run of the job's own space are trained whatever the budget, because without
them there is no answer. Confirming comes on top.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from itertools import takewhile
from statistics import median

from lrtune.search.confirm import confirming
from lrtune.search.curve.beginnings import Beginnings
from lrtune.search.curve.sampler import forecasts, staged
from lrtune.search.propose import SpaceExhausted, suggestions
from lrtune.search.studies.study import searched
from lrtune.search.warm_start import as_past
from lrtune.wire.external import ended_by_loop
from lrtune.wire.job import AdmittedJob
from lrtune.wire.results import (
    ENDED,
    OPEN,
    NextStep,
    Proposal,
    Trial,
    TrialState,
    WarmStartTrial,
)
from lrtune.wire.strategies import CurveSearch

FIRST_FAILURES = 3  # without one success: the task is broken
FAILURES = 5  # in a row: it broke on the way
ADVICE: dict[str, str] = {
    TrialState.DIVERGED: "; try lower rates (`learning_rate` of its optimizer), a longer warm-up, a smaller clip_norm",
    TrialState.STOPPED: '; try the pruner "none"',
    TrialState.FAILED: "; the reasons stand at the trials; once that is mended, `extend` with a larger budget goes on",
}


def advance(
    spec: AdmittedJob,
    history: Sequence[Trial],
    *,
    steps: int,
    seconds: float,
    warm_start: Sequence[WarmStartTrial] = (),
    continued: bool = True,
    beginnings: Beginnings | None = None,
    waiting: int = 1,
    extended_at: datetime | None = None,
    stopped: bool = False,
) -> NextStep:
    """What a job with a horizon of `steps` needs next, `seconds` after it began.

    `waiting` is how many wait for something to train: the default search and random draws decide for all at once.
    `warm_start` is what earlier jobs showed; `continued` says whether a paused trial can be resumed: only then are
    trials trained in stages. `beginnings` are the checkpoints that there are; None: all that a worker would keep.
    What failed before the job was extended (`extended_at`) is forgiven: somebody may have mended it, and what the job
    asks for by name runs again. One that was `stopped` has no budget left.
    """
    past = searched(history)
    late = stopped or (spec.budget.seconds is not None and seconds >= spec.budget.seconds)
    in_time = 0.0 if late else _in_time(spec, past, steps=steps, seconds=seconds, waiting=waiting)
    failure = _broken(spec, past, extended_at) or _short(spec, past, steps=steps)
    if not failure:
        found = _search(
            spec,
            past,
            warm_start,
            steps=steps,
            in_time=in_time,
            continued=continued,
            beginnings=beginnings,
            waiting=waiting,
            extended_at=extended_at,
        )
        if found:
            return NextStep(proposal=found[0], more=found[1:])
    if any(trial.state in OPEN for trial in past):
        return NextStep()
    if any(trial.state is TrialState.PAUSED for trial in past):
        return _given_up(spec, past, warm_start, steps=steps, stopped=stopped)
    failure = failure or _fruitless(spec, past, steps=steps)
    if failure:
        return NextStep(over=True, failure=failure)
    proposal = confirming(spec, history, steps=steps)
    if proposal:
        return NextStep(proposal=proposal)
    if any(trial.state not in ENDED for trial in history):
        return NextStep()
    return NextStep(over=True, reason="" if in_time < 1.0 else _unspent(spec, past, steps=steps))


def _unspent(spec: AdmittedJob, past: Sequence[Trial], *, steps: int) -> str:
    """Why a search has ended with room for another run, in words; nothing where there is none."""
    budget = spec.budget
    left = [] if budget.full_runs is None else [(budget.full_runs - spent(past, steps=steps), budget.full_runs)]
    left += [] if budget.trials is None else [(float(budget.trials - len(past)), budget.trials)]
    unit = "trials" if budget.full_runs is None else "full runs"
    if any(room < 1.0 for room, _ in left):
        return ""
    of = f" with {left[0][0]:.3g} of {left[0][1]:g} {unit} left" if left else ""
    return f"the search ended{of}: it found nothing more to try in this job's space"


def spent(past: Sequence[Trial], *, steps: int) -> float:
    """What the search has cost and may still cost through the stages that wait or run, in full runs."""
    return sum(trial.cost for trial in past) / steps


def _search(
    spec: AdmittedJob,
    past: Sequence[Trial],
    warm_start: Sequence[WarmStartTrial],
    *,
    steps: int,
    in_time: float,
    continued: bool,
    beginnings: Beginnings | None,
    waiting: int,
    extended_at: datetime | None,
) -> list[Proposal]:
    """What the search trains next, if the budget and the space have one more; several where several wait.

    `in_time` is how many full runs there is time for, 0 where none is left. One that trains in stages keeps what it
    takes to bring its best to its end; one of whole runs begins another as long as there is time.
    """
    budget, left, in_stages = spec.budget, math.inf, continued and staged(spec)
    if budget.full_runs is not None:
        left = budget.full_runs - spent(past, steps=steps) + 1e-9
    if budget.trials is not None:
        waiting = min(waiting, budget.trials - len(past))
    if in_time <= 0.0 or waiting <= 0:
        left = 0.0
    elif in_stages:
        left = min(left, in_time)
    least, rooms = 1e-9 if in_stages else 1.0, [left]
    if not any(_whole(spec, trial, steps) or _begun(trial) for trial in past):
        # The first complete run of the job's own space is trained whatever the budget, within it where one fits.
        rooms.append(max(left, 1.0))
    for room in dict.fromkeys(room for room in rooms if room >= least):
        try:
            return suggestions(
                spec,
                past,
                steps=steps,
                warm_start=warm_start,
                left=room,
                continued=continued,
                beginnings=beginnings,
                waiting=waiting,
                extended_at=extended_at,
            )
        except SpaceExhausted:
            continue
    return []


def _in_time(spec: AdmittedJob, past: Sequence[Trial], *, steps: int, seconds: float, waiting: int) -> float:
    """How many full runs there is time to begin, by all who train or wait, at the median pace of the stages so far."""
    stages = [stage for trial in past for stage in trial.stages if stage.cost > 0]
    paces = [(s.ended_at - s.started_at).total_seconds() / s.cost for s in stages if s.started_at and s.ended_at]
    pace = median(paces) if paces else 0.0
    if spec.budget.seconds is None or pace <= 0.0:
        return math.inf
    running = [trial for trial in past if trial.state in OPEN]
    ahead = sum((trial.until or trial.horizon) - trial.step for trial in running)
    room = (len(running) + max(waiting, 1)) * (spec.budget.seconds - seconds) / pace
    return (room - ahead) / steps


def _begun(trial: Trial) -> bool:
    """Whether a stage of the search is under way, which may yet be brought to its end."""
    return trial.role == "search" and trial.state in OPEN


def _whole(spec: AdmittedJob, trial: Trial, steps: int) -> bool:
    """Whether a trial is, or was to be, a complete run of the job's own space; not a baseline that came to nothing."""
    if trial.until is not None or trial.horizon != steps or trial.state is TrialState.PAUSED:
        return False
    return spec.allows(trial.configuration) and (
        trial.role == "search" or trial.state in OPEN or trial.completed(steps)
    )


def _given_up(
    spec: AdmittedJob, past: Sequence[Trial], warm_start: Sequence[WarmStartTrial], *, steps: int, stopped: bool
) -> NextStep:
    """The paused trials of a search that is over, each with the reason why it is not gone on with."""
    kind = spec.search.sampler
    values = [trial.value for trial in past if trial.completed(steps) and trial.value is not None]
    best = min(values, key=lambda value: spec.metric.sign * value, default=None)
    ends: Mapping[int, float] = {}
    if isinstance(kind, CurveSearch) and best is not None:
        ends = forecasts(spec, kind, past, as_past(warm_start), steps=steps)
    end_of_search = "was stopped" if stopped else "has spent its budget"
    reasons, behind = dict[int, str](), list[int]()
    for trial in past:
        if trial.state is not TrialState.PAUSED:
            continue
        reason = f"the search is over; it was paused at step {trial.step} of {trial.horizon}"
        if best is not None and (end := ends.get(trial.number)) is not None:
            reason = f"{end:.4g} forecast at its end, {best:.4g} is the best whole run"
            if spec.metric.sign * end < spec.metric.sign * best:
                reason = f"nothing was left to train it: {reason}, and the search {end_of_search}"
            else:
                behind.append(trial.number)
        reasons[trial.number] = reason
    return NextStep(stopped=reasons, behind=behind)


def _broken(spec: AdmittedJob, past: Sequence[Trial], since: datetime | None) -> str:
    """Why it is no use to go on, in words; nothing while it is."""
    new = (t for t in past if since is None or t.finished_at is None or t.finished_at > since)
    unknown = (*OPEN, TrialState.CANCELLED)
    tried = sorted((trial for trial in new if trial.state not in unknown), key=lambda trial: trial.decision)
    which, barren = "first", list(takewhile(partial(_shows_nothing, spec), reversed(tried)))
    if len(barren) < len(tried):
        which, barren = "last", list(takewhile(partial(_cost_nothing, spec), reversed(tried)))
    if len(barren) < (FIRST_FAILURES if which == "first" else FAILURES):
        return ""
    words = "failed"
    if any(trial.state is not TrialState.FAILED for trial in barren):
        ended = ", ".join(f"{count} {state}" for state, count in Counter(t.state.value for t in barren).most_common())
        words = f"came to no {spec.metric.name} ({ended})"
    return f"the {which} {len(barren)} trials {words}; the last of them: {barren[0].reason or 'no reason given'}"


def _shows_nothing(spec: AdmittedJob, trial: Trial) -> bool:
    """Whether a trial failed; of a loop of the user's own also whether its metric never was a number."""
    if trial.state is TrialState.FAILED or not spec.over_http:
        return trial.state is TrialState.FAILED
    return trial.value is None and all(value is None for _, value in trial.values(spec.metric.name))


def _cost_nothing(spec: AdmittedJob, trial: Trial) -> bool:
    """Whether a trial failed; of a loop of the user's own also whether it cost nothing, so that no budget ends it."""
    return trial.state is TrialState.FAILED or (spec.over_http and trial.cost == 0)


def _short(spec: AdmittedJob, past: Sequence[Trial], *, steps: int, least: int = FIRST_FAILURES) -> str:
    """What to write where a loop of the user's own ends its runs before their last step; nothing where it does not."""
    ended = [trial for trial in past if trial.horizon == steps and ended_by_loop(trial)]
    if not spec.over_http or len(ended) < least or any(trial.completed(steps) for trial in past):
        return ""
    last = [_last_value(spec, trial) for trial in ended]
    low, high = min(last), max(last)
    at = f"step {high}" if low == high else f"steps {low} to {high}"
    others = "" if len(ended) == len(past) else f" ({len(ended)} of {len(past)})"
    begin = f"your loop ended its runs at {at} of {steps}{others}: "
    report = f"report {spec.metric.name} at step {steps}"
    if all(trial.step == steps for trial in ended):
        return f"your loop ended its runs with {spec.metric.name} of {at} of {steps}{others}: {report} as well"
    report += " (switch early stopping off)"
    if low < 2:
        return begin + report
    shorter = f'"horizon": {{"steps": {low}}} in the job'
    return begin + (f"write {shorter}, or {report}" if low == high else f"{report}, or write {shorter}")


def _last_value(spec: AdmittedJob, trial: Trial) -> int:
    """The last step of which a trial has a value; how far it got where it has none."""
    return max((step for step, value in trial.values(spec.metric.name) if value is not None), default=trial.step)


def _fruitless(spec: AdmittedJob, past: Sequence[Trial], *, steps: int) -> str:
    """Why a search that is over has no answer, in words and with what to do; nothing when it has one."""
    tried = [trial for trial in past if spec.allows(trial.configuration)]
    if any(trial.completed(steps) for trial in tried):
        return ""
    tried = tried or list(past)
    counts = Counter(trial.state.value for trial in tried)
    if words := _short(spec, tried, steps=steps, least=1):
        return words
    rates = [trial.configuration.learning_rate for trial in tried]
    ended = ", ".join(f"{count} {state}" for state, count in counts.most_common())
    advice = ADVICE.get(counts.most_common(1)[0][0], "")
    ends = {trial.step for trial in tried}
    if {*counts} == {TrialState.DIVERGED} and len(ends) == 1 and len(tried) >= FIRST_FAILURES:
        advice += f"; all of them ended at step {ends.pop()}: look at how {spec.metric.name} is measured there"
    return (
        f"no trial of this job's space completed its run ({ended}; "
        f"learning rates {min(rates):g} to {max(rates):g}){advice}"
    )
