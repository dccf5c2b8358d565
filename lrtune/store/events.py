"""A job's log: numbered within the job without gaps, in the order of commits, so that a reader can follow it."""

from datetime import datetime
from typing import Any

from sqlalchemy import func, insert, select, update
from sqlalchemy.orm import Session

from lrtune.store import changes, lookup
from lrtune.store.tables import EventRow, JobRow
from lrtune.wire.results import Event, Page


def add(
    tx: Session, job: int, kind: str, message: str, *, now: datetime, trial: int | None = None, **data: Any
) -> None:
    """Write one line. Counting under the job's row lock is what keeps numbers in the order of commits."""
    count = update(JobRow).where(JobRow.seq == job).values(events=JobRow.events + 1).returning(JobRow.events)
    number = tx.execute(count).scalar_one()
    row = {"job": job, "number": number, "at": now, "kind": kind, "message": message, "trial": trial, "data": data}
    writing = insert(EventRow).values(row)
    tx.execute(writing if tx.get_bind().dialect.name == "sqlite" else writing.returning(changes.said()))


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
