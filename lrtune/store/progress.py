"""How far a job is and what its answer is so far, read by few indexed queries whatever the number of its trials."""

from collections import defaultdict
from collections.abc import Mapping

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from lrtune.analysis.answer import best as best_of
from lrtune.store import trials
from lrtune.store.database import clock
from lrtune.store.tables import JobRow, TrialRow
from lrtune.wire.job import AdmittedJob
from lrtune.wire.results import OVER, Best, Progress, TrialState

# How many of the best search runs the answer is looked for in: those that were confirmed are among them.
LEADERS = 20
COST = TrialRow.step - TrialRow.reused  # so far; reused steps had been paid for by other trials


def progress(tx: Session, job: JobRow, spec: AdmittedJob) -> Progress:
    """Trials by state, and cost so far and to come in full runs."""
    query = select(TrialRow.role, TrialRow.state, func.count(), func.sum(COST)).where(TrialRow.job == job.seq)
    rows = tx.execute(query.group_by(TrialRow.role, TrialRow.state)).all()
    states: dict[TrialState, int] = defaultdict(int)
    steps: dict[str, int] = defaultdict(int)
    for role, state, count, stepped in rows:
        states[TrialState(state)] += count
        steps["confirm" if role == "confirm" else "search"] += int(stepped)
    confirming = any(role == "confirm" for role, *_ in rows)
    spent = {phase: done / job.steps if job.steps else 0.0 for phase, done in steps.items()}
    over = job.state in OVER
    return Progress(
        phase="over" if over else "confirm" if confirming else "search",
        trials=dict(states),
        full_runs=round(sum(spent.values()), 4),
        planned_full_runs=_planned(spec),
        fraction=1.0 if over else _fraction(tx, job, spec, spent, sum(states.values())),
    )


def _planned(spec: AdmittedJob) -> float | None:
    """What the job will cost at most; unknown when only time bounds it."""
    search = spec.budget.most_runs
    return None if search is None else search + spec.confirm.runs


def _fraction(tx: Session, job: JobRow, spec: AdmittedJob, spent: Mapping[str, float], count: int) -> float:
    """The share of the work that is done, by whichever bound of the budget is nearest."""
    budget, search = spec.budget, spent.get("search", 0.0)
    seconds = (clock(tx) - job.started_at).total_seconds() if budget.seconds and job.started_at else 0.0
    shares = [
        search / budget.full_runs if budget.full_runs else 0.0,
        min(search, count) / budget.trials if budget.trials else 0.0,
        seconds / budget.seconds if budget.seconds else 0.0,
    ]
    planned = _planned(spec)
    weight = spec.confirm.runs / planned if planned else 0.0
    confirmed = spent.get("confirm", 0.0) / spec.confirm.runs if spec.confirm.runs else 0.0
    return round(min(0.999, (1.0 - weight) * min(1.0, max(shares)) + weight * min(1.0, confirmed)), 4)


def best(tx: Session, job: JobRow, spec: AdmittedJob) -> Best | None:
    """The answer so far, from the runs that can decide it: the best few of the search, and all others."""
    if job.steps is None:
        return None
    rows = select(TrialRow).where(TrialRow.job == job.seq)
    leaders = rows.where(TrialRow.role == "search", trials.completed(job.steps))
    leaders = leaders.order_by(*trials.best_first(spec.metric.goal)).limit(LEADERS + spec.confirm.top)
    others = rows.where(TrialRow.role != "search")
    deciding = [trials.view(row) for query in (others, leaders) for row in tx.scalars(query)]
    cost = tx.scalar(select(func.sum(COST)).where(TrialRow.job == job.seq)) or 0
    return best_of(spec, deciding, steps=job.steps, full_runs=round(int(cost) / job.steps, 4))
