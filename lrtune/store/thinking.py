"""One thinker for each job: who finds out what it needs next, for how many workers, and when there is nothing to find.

The hold is short, and rests on nothing but good will: two who think at once find out the same, and what rests on old
decisions is not carried out.
"""

from datetime import datetime, timedelta

from sqlalchemy import func, or_, select, update
from sqlalchemy.orm import Session

from lrtune.store import lookup, shares, workers
from lrtune.store.database import clock
from lrtune.store.tables import JobRow, TrialRow
from lrtune.wire.results import ACTIVE, OPEN, TrialState

IDLE = timedelta(seconds=5)  # since a worker that waits was seen
MOST_AT_ONCE = 64  # suggestions


def begin(tx: Session, job_id: str, thinker: str, *, now: datetime | None = None) -> bool:
    """Be the only one who thinks about what a job needs next, for a minute; False where somebody is at it."""
    now = now or clock(tx)
    free = or_(JobRow.thinking_until.is_(None), JobRow.thinking_until < now)
    mine = update(JobRow).where(JobRow.id == job_id, free)
    mine = mine.values(thinker=thinker, thinking_until=now + shares.THINKING)
    return tx.scalar(mine.returning(JobRow.seq)) is not None


def end(tx: Session, job_id: str, thinker: str, *, events: int | None = None) -> None:
    """Let others think about a job; not before its log has gone on beyond `events` lines, where there was nothing."""
    known = {} if events is None else {"thought": events}
    mine = update(JobRow).where(JobRow.id == job_id, JobRow.thinker == thinker)
    tx.execute(mine.values(known | {"thinker": None, "thinking_until": None}))


def going_on(tx: Session) -> bool:
    """Whether somebody thinks about some job, so that there may be trials of it soon."""
    thinks = select(JobRow.seq).where(JobRow.state.in_(ACTIVE), JobRow.thinking_until >= clock(tx))
    return tx.scalar(select(thinks.exists())) or False


def wanted(tx: Session, job_id: str, *, now: datetime | None = None) -> int:
    """How many trials to suggest for a job: one for each worker that waits, and some that lie ready for the others.

    Where several jobs are thought of, they share the workers that wait.
    """
    now = now or clock(tx)
    row = lookup.job(tx, job_id)
    spec = lookup.asked(row)
    idle = sum(one.job is None and workers.fits(spec, one) for one in workers.alive(tx, now=now, within=IDLE))
    thinking = tx.scalar(select(func.count()).where(JobRow.thinking_until >= now, JobRow.state.in_(ACTIVE))) or 1
    opened = select(TrialRow.state, func.count()).where(TrialRow.job == row.seq, TrialRow.state.in_(OPEN))
    counts = {row[0]: row[1] for row in tx.execute(opened.group_by(TrialRow.state))}
    seconds = shares.SHORT if row.pace is None else row.pace * (row.steps or 1)
    ahead = shares.ahead(seconds, counts.get(TrialState.RUNNING, 0))
    asked = -(-idle // thinking) + ahead - counts.get(TrialState.WAITING, 0)
    return max(1, min(asked, MOST_AT_ONCE))
