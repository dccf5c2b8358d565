"""A job's log: numbered within the job without gaps, in the order of commits, so that a reader can follow it."""

from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, func, insert, select, update
from sqlalchemy.orm import Session

from lrtune.store import changes, lookup
from lrtune.store.database import lite
from lrtune.store.tables import Base, EventRow, JobRow
from lrtune.wire.results import OVER, Event, Page

FEW = 20  # failures among which a traceback is looked for
# As tables, and made once: each trial has half a dozen lines.
_jobs, _events = (Base.metadata.tables[name] for name in ("jobs", "events"))
_COUNTED = (
    update(_jobs).where(_jobs.c.seq == bindparam("job")).values(events=_jobs.c.events + 1).returning(_jobs.c.events)
)
_WRITTEN = insert(_events)
_SAID = _WRITTEN.returning(changes.said())


def add(
    tx: Session, job: int, kind: str, message: str, *, now: datetime, trial: int | None = None, **data: Any
) -> None:
    """Write one line. Counting under the job's row lock is what keeps numbers in the order of commits."""
    tx.flush()  # what it is about comes before it
    number = tx.execute(_COUNTED, {"job": job}).scalar_one()
    row = {"job": job, "number": number, "at": now, "kind": kind, "message": message, "trial": trial, "data": data}
    tx.execute(_WRITTEN if lite(tx) else _SAID, row)


def add_once(tx: Session, job: int, kind: str, message: str, *, now: datetime, trial: int) -> None:
    """Write a line that the job's log is to have once, whoever has it to say: several workers may."""
    tx.execute(select(JobRow.seq).where(JobRow.seq == job).with_for_update())
    same = select(EventRow.number).where(EventRow.job == job, EventRow.kind == kind, EventRow.message == message)
    if tx.scalar(same.limit(1)) is None:
        add(tx, job, kind, message, now=now, trial=trial)


def count(tx: Session, job_id: str) -> int:
    """How many lines a job's log has. Raises UnknownJob."""
    return lookup.job(tx, job_id).events


def of_trial(tx: Session, job: int, trial: int, kind: str) -> tuple[Event | None, int]:
    """The newest line about a trial, and how many there are of a kind."""
    about = select(EventRow).where(EventRow.job == job, EventRow.trial == trial)
    newest = tx.scalars(about.order_by(EventRow.number.desc()).limit(1)).one_or_none()
    count = tx.scalar(select(func.count()).select_from(about.where(EventRow.kind == kind).subquery())) or 0
    return (None if newest is None else _event(newest)), count


def has_been_over(tx: Session, job: int, *, since: datetime) -> bool:
    """Whether a job's log says that it has ended at some time `since` one; it may go on with a larger budget."""
    ends = select(EventRow.number).where(EventRow.job == job, EventRow.kind.in_([f"job-{state}" for state in OVER]))
    return tx.scalar(ends.where(EventRow.at >= since).limit(1)) is not None


def traceback(tx: Session, job_id: str, trial: int | None = None) -> str:
    """The traceback of the failure of a trial, or of the newest that has one; nothing where none was kept."""
    failures = select(EventRow.data).where(EventRow.job == lookup.job(tx, job_id).seq, EventRow.kind == "trial-failed")
    failures = failures if trial is None else failures.where(EventRow.trial == trial)
    kept = tx.scalars(failures.order_by(EventRow.number.desc()).limit(FEW))
    return next((str(data["traceback"]) for data in kept if data.get("traceback")), "")


def page(tx: Session, job_id: str, *, after: int, limit: int) -> Page[Event]:
    """The lines with a number above `after`, oldest first. Raises UnknownJob."""
    job = lookup.job(tx, job_id)
    query = select(EventRow).where(EventRow.job == job.seq, EventRow.number > after)
    rows = tx.scalars(query.order_by(EventRow.number).limit(limit + 1)).all()
    items = [_event(row) for row in rows[:limit]]
    return Page(items=items, next=str(items[-1].id) if len(rows) > limit else None)


def latest(tx: Session, job_id: str, *, before: int | None, limit: int) -> Page[Event]:
    """The newest lines, newest first; `next` is the `before` of those that came earlier. Raises UnknownJob."""
    query = select(EventRow).where(EventRow.job == lookup.job(tx, job_id).seq)
    query = query if before is None else query.where(EventRow.number < before)
    rows = tx.scalars(query.order_by(EventRow.number.desc()).limit(limit + 1)).all()
    return Page(
        items=[_event(row) for row in rows[:limit]], next=str(rows[limit - 1].number) if len(rows) > limit else None
    )


def _event(row: EventRow) -> Event:
    return Event(id=row.number, at=row.at, kind=row.kind, message=row.message, trial=row.trial, data=row.data)
