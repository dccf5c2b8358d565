"""How far a job is and what its answer is so far, read by few indexed queries whatever the number of its trials.

What the trials have come to stands in `tallies.py`.
"""

from collections import OrderedDict, defaultdict
from collections.abc import Mapping, Sequence

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from lrtune.analysis.answer import best as best_of
from lrtune.store import trials
from lrtune.store.database import clock
from lrtune.store.tables import JobRow, TrialRow
from lrtune.store.tallies import Count
from lrtune.wire.job import AdmittedJob
from lrtune.wire.results import OPEN, OVER, Best, JobState, Progress, TrialState

# How many of the best search runs the answer is looked for in: those that were confirmed are among them.
LEADERS = 20
BESIDE = ("baseline", "range-test", "confirm")  # the roles of trials that are few
KEPT = 200  # answers of jobs
Counts = Sequence[Count]


def progress(tx: Session, job: JobRow, spec: AdmittedJob, counts: Counts) -> Progress:
    """Trials by state, and cost so far and to come in full runs."""
    states: dict[TrialState, int] = defaultdict(int)
    steps: dict[str, int] = defaultdict(int)
    for role, state, count, stepped in counts:
        states[state] += count
        steps["confirm" if role == "confirm" else "search"] += stepped
    over = job.state in OVER
    spent = {phase: done / job.steps if job.steps else 0.0 for phase, done in steps.items()}
    planned = _planned(tx, job, spec, spent)
    if job.stopped_at and job.steps and planned:
        done = sum(spent.values()) / planned
    else:
        done = _fraction(tx, job, spec, spent, sum(states.values()))
    return Progress(
        phase="over" if over else "confirm" if _confirming(tx, job, counts) else "search",
        trials=dict(states),
        full_runs=round(sum(spent.values()), 4),
        planned_full_runs=planned,
        fraction=1.0 if job.state == JobState.SUCCEEDED else round(min(0.999, done), 4),
    )


def _confirming(tx: Session, job: JobRow, counts: Counts) -> bool:
    """Whether a job's answer is run again: one that was extended since is searching once more, whatever is next."""
    if not any(role == "confirm" for role, *_ in counts):
        return False
    if any(role != "confirm" and state in (*OPEN, TrialState.PAUSED) for role, state, *_ in counts):
        return False
    newest = select(TrialRow.role, TrialRow.decision).where(TrialRow.job == job.seq).order_by(TrialRow.number.desc())
    role, decision = tx.execute(newest.limit(1)).one()
    extended = job.stopped_at is None and decision < job.decisions - 1  # what people decide is counted, too
    return role == "confirm" and not extended


def _planned(tx: Session, job: JobRow, spec: AdmittedJob, spent: Mapping[str, float]) -> float | None:
    """The most full runs that a job can take; of a stopped search what it had, still trains and confirms."""
    if job.stopped_at is None or not job.steps:
        return spec.most_runs
    left = func.sum(func.coalesce(TrialRow.until, TrialRow.horizon) - TrialRow.step)
    opened = select(left).where(TrialRow.job == job.seq, TrialRow.role != "confirm", TrialRow.state.in_(OPEN))
    still = 0 if job.state in OVER else tx.scalar(opened) or 0
    return round(max(1.0, spent.get("search", 0.0) + still / job.steps) + spec.confirm.runs, 4)


def _fraction(tx: Session, job: JobRow, spec: AdmittedJob, spent: Mapping[str, float], count: int) -> float:
    """The share of the work that is done, by whichever bound of the budget is nearest; of a failed job, was done."""
    budget, search = spec.budget, spent.get("search", 0.0)
    timed = budget.seconds and job.started_at
    seconds = ((job.finished_at or clock(tx)) - job.started_at).total_seconds() if timed and job.started_at else 0.0
    shares = [
        search / budget.full_runs if budget.full_runs else 0.0,
        min(search, count) / budget.trials if budget.trials else 0.0,
        seconds / budget.seconds if budget.seconds else 0.0,
    ]
    planned = spec.most_runs
    weight = spec.confirm.runs / planned if planned else 0.0
    confirmed = spent.get("confirm", 0.0) / spec.confirm.runs if spec.confirm.runs else 0.0
    return (1.0 - weight) * min(1.0, max(shares)) + weight * min(1.0, confirmed)


# By a job and the length of its log: whatever changes an answer stands there. Who polls a job asks for it again and
# again, while its trials report and nothing has ended.
_answers: OrderedDict[tuple[str, int], tuple[Best | None]] = OrderedDict()


def best(tx: Session, job: JobRow, spec: AdmittedJob, counts: Counts) -> Best | None:
    """The answer so far; what it has cost grows with every report."""
    if job.steps is None:
        return None
    known, committed = (job.id, job.events), tx.info.get("committed")  # one that writes sees what may never be
    kept = _answers.get(known) if committed else None
    (found,) = kept or (_best(tx, job, job.steps, spec),)
    if committed and kept is None:
        _answers[known] = (found,)
        if len(_answers) > KEPT:
            _answers.popitem(last=False)
    return found and found.model_copy(update={"full_runs": round(sum(steps for *_, steps in counts) / job.steps, 4)})


def _best(tx: Session, job: JobRow, steps: int, spec: AdmittedJob) -> Best | None:
    """The answer from the runs that can decide it: the best few of the search, and all others."""
    rows = select(TrialRow).where(TrialRow.job == job.seq)
    leaders = rows.where(TrialRow.role == "search", trials.completed(steps))
    leaders = leaders.order_by(*trials.best_first(spec.metric.goal)).limit(LEADERS + spec.confirm.top)
    # All states are named, so that the index is of use.
    others = rows.where(TrialRow.state.in_(list(TrialState)), TrialRow.role.in_(BESIDE))
    deciding = [trials.view(row) for query in (others, leaders) for row in tx.scalars(query)]
    return best_of(spec, deciding, steps=steps, full_runs=0.0)
