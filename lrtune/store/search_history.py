"""How a job's search went, read from its attempts: its best value over its cost, and where its time went."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import exists, func, select
from sqlalchemy.orm import Session

from lrtune.store import lookup
from lrtune.store.database import clock
from lrtune.store.tables import AttemptRow, EventRow, JobRow, TrialRow
from lrtune.wire.charts import Clock, RunEnd, SearchHistory
from lrtune.wire.results import RESUMABLE, Job, TrialState

ENDS = 300  # runs that are drawn at most, but for those that were best
ASKED = ("trial-proposed", "trial-resumed")  # from when on a trial waits for a worker
AGAIN = ("released", "lost")  # how an attempt ends whose trial waits again
HELD = {  # when a job waits for people, and what ends it
    "job-paused": ("job-running", "job-queued", "job-cancelled", "job-succeeded", "job-failed"),
    "job-succeeded": ("job-extended",),
    "job-failed": ("job-extended",),
}
Span = tuple[datetime, datetime]


def read(tx: Session, job: Job) -> SearchHistory:
    """A job's history. Raises UnknownJob."""
    row = lookup.job(tx, job.id)
    attempts = _attempts(tx, row.seq)
    counts = _counts(tx, row.seq, attempts)
    return SearchHistory(
        metric=job.spec.metric.name,
        goal=job.spec.metric.goal,
        cost=job.progress.full_runs,
        ends=_few(_ends(tx, job, row.seq, attempts)),
        clock=_clock(tx, row, attempts),
        stages=len(attempts),
        **counts,
    )


def _attempts(tx: Session, job: int) -> Sequence[Any]:
    """The attempts of a job in the order in which they ended, those that have not at the end."""
    names = ("trial", "started_at", "ended_at", "cost", "outcome", "decision")
    columns = [getattr(AttemptRow, name) for name in names]
    query = select(*columns).join(TrialRow, TrialRow.id == AttemptRow.trial).where(TrialRow.job == job)
    return sorted(tx.execute(query).all(), key=lambda one: (one.ended_at is None, one.ended_at or one.started_at))


def _counts(tx: Session, job: int, attempts: Iterable[Any]) -> dict[str, Any]:
    """What a search's trials came to."""
    sums = select(func.sum(TrialRow.step), func.sum(TrialRow.reused)).where(TrialRow.job == job)
    steps, reused = tx.execute(sums).one()
    by_state = select(TrialRow.state, func.count()).where(TrialRow.job == job, TrialRow.role == "search")
    states: dict[str, int] = {state: int(count) for state, count in tx.execute(by_state.group_by(TrialRow.state))}
    decisions: dict[int, set[int]] = defaultdict(set)
    for one in attempts:
        decisions[one.trial].add(one.decision)
    return {
        "reused": max(0.0, int(reused or 0) / int(steps)) if steps else 0.0,
        "trials": sum(states.values()),
        "complete": states.get(TrialState.COMPLETE, 0),
        "partial": sum(states.get(state, 0) for state in RESUMABLE),
        "resumed": sum(len(some) > 1 for some in decisions.values()),
    }


def _ends(tx: Session, job: Job, seq: int, attempts: Iterable[Any]) -> list[RunEnd]:
    """The complete runs of the search and the baseline, each with what the job had cost until then."""
    columns = (TrialRow.id, TrialRow.number, TrialRow.value)
    whole = (TrialRow.state == TrialState.COMPLETE, TrialRow.horizon == job.steps, TrialRow.value.is_not(None))
    query = select(*columns).where(TrialRow.job == seq, *whole, TrialRow.role.in_(("search", "baseline")))
    runs = {row.id: row for row in tx.execute(query)}
    costs = [(one.ended_at, one.cost, one.trial) for one in attempts if one.ended_at is not None]
    last = {trial: ended for ended, _, trial in costs}
    # Imported trials have no attempts.
    bare = select(TrialRow.finished_at, TrialRow.step - TrialRow.reused, TrialRow.id).where(
        TrialRow.job == seq, TrialRow.finished_at.is_not(None), ~exists().where(AttemptRow.trial == TrialRow.id)
    )
    spent, best, found = 0, None, list[RunEnd]()
    for ended, cost, trial in sorted(
        [*costs, *((*one,) for one in tx.execute(bare))], key=lambda one: (one[0], one[2])
    ):
        spent += cost
        if (run := runs.get(trial)) is not None and last.get(trial, ended) == ended:
            score = job.spec.metric.sign * run.value
            better = best is None or score < best
            best = score if best is None or better else best
            found.append(RunEnd(number=run.number, cost=spent / (job.steps or 1), value=run.value, best=better))
    return found


def _few(ends: Sequence[RunEnd]) -> list[RunEnd]:
    """Those that were best so far, and some of the others."""
    every = -(-len(ends) // ENDS) or 1
    return [one for place, one in enumerate(ends) if one.best or place % every == 0]


def _clock(tx: Session, job: JobRow, attempts: Sequence[Any]) -> Clock:
    """Where the time went, from the first trial to the end, or to now."""
    now = job.finished_at or clock(tx)
    begin = job.started_at or now
    trained = [(one.started_at, one.ended_at or now) for one in attempts]
    spans = {"training": trained, "held": _held(tx, job.seq, now), "waiting": _waits(tx, job.seq, attempts, now)}
    known, covered = dict[str, float](), list[Span]()
    for name, some in spans.items():  # what comes first counts where several hold
        before = _length(covered)
        covered = _union([*covered, *((max(a, begin), min(b, now)) for a, b in some)])
        known[name] = _length(covered) - before
    total = max(0.0, (now - begin).total_seconds())
    device = sum((end - start).total_seconds() for start, end in trained)
    return Clock(total=total, between=max(0.0, total - _length(covered)), device=device, **known)


def _held(tx: Session, job: int, now: datetime) -> list[Span]:
    """When the job was paused, or over until it was extended."""
    kinds = {*HELD, *(kind for ends in HELD.values() for kind in ends)}
    query = select(EventRow.at, EventRow.kind).where(EventRow.job == job, EventRow.kind.in_(kinds))
    found, since, ends = list[Span](), now, tuple[str, ...]()
    for at, kind in tx.execute(query.order_by(EventRow.number)):
        if kind in ends:
            found.append((since, at))
            ends = ()
        if not ends and kind in HELD:
            since, ends = at, HELD[kind]
    return [*found, (since, now)] if ends else found


def _waits(tx: Session, job: int, attempts: Iterable[Any], now: datetime) -> list[Span]:
    """When trials waited for a worker: from the decision, or from a worker's giving them back, to the next attempt."""
    asked = select(EventRow.at, TrialRow.id).join(
        TrialRow, (TrialRow.job == EventRow.job) & (TrialRow.number == EventRow.trial)
    )
    rows = tx.execute(asked.where(EventRow.job == job, EventRow.kind.in_(ASKED))).all()
    moments: dict[int, list[tuple[datetime, bool]]] = defaultdict(list)  # when, and whether it begins to wait then
    for at, trial in rows:
        moments[trial].append((at, True))
    for one in attempts:
        moments[one.trial].append((one.started_at, False))
        if one.outcome in AGAIN:
            moments[one.trial].append((one.ended_at, True))
    waiting = set(tx.scalars(select(TrialRow.id).where(TrialRow.job == job, TrialRow.state == TrialState.WAITING)))
    found: list[Span] = []
    for trial, some in moments.items():
        since: datetime | None = None
        for at, begins in sorted(some, key=lambda one: (one[0], not one[1])):
            if since is not None and not begins:
                found.append((since, at))
            since = (since or at) if begins else None
        if since is not None and trial in waiting:
            found.append((since, now))
    return found


def _union(spans: Iterable[Span]) -> list[Span]:
    """The same time, no moment of it twice."""
    found: list[Span] = []
    for start, end in sorted(span for span in spans if span[1] > span[0]):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], end)
        else:
            found.append((start, end))
    return found


def _length(spans: Iterable[Span]) -> float:
    return sum((end - start).total_seconds() for start, end in spans)
