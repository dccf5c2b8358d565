"""The log of changes: who made which, when. What asks for it stands beside each change, in its transaction."""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, func, insert, select
from sqlalchemy.orm import Session

from lrtune.store import lookup
from lrtune.store.database import clock
from lrtune.store.tables import AuditRow
from lrtune.wire.people import AuditEntry
from lrtune.wire.results import Page

DAY = timedelta(days=1)
ASKED = ("job-submitted", "job-extended")
_RUNS = AuditRow.details["full_runs"].as_float()


def add(tx: Session, actor: str, action: str, subject: str, *, now: datetime | None = None, **details: Any) -> None:
    """Write a change down; nothing where nobody made it (`actor` is "")."""
    if actor:
        values = {"at": now or clock(tx), "actor": actor, "action": action, "subject": subject, "details": details}
        tx.execute(insert(AuditRow).values(values))


def page(
    tx: Session, *, actor: str | None = None, subject: str | None = None, limit: int, cursor: str | None = None
) -> Page[AuditEntry]:
    """Changes, newest first: all, or those by somebody, or of something. Raises Invalid."""
    query = select(AuditRow).order_by(AuditRow.id.desc()).limit(limit + 1)
    if actor is not None:
        query = query.where(AuditRow.actor == actor)
    if subject is not None:
        query = query.where(AuditRow.subject == subject)
    if cursor is not None:
        query = query.where(AuditRow.id < lookup.number(cursor))
    rows = tx.scalars(query).all()
    items = [AuditEntry.model_validate(row, from_attributes=True) for row in rows[:limit]]
    return Page(items=items, next=lookup.cursor(rows[limit - 1].id) if len(rows) > limit else None)


def latest(tx: Session, action: str, subject: str) -> datetime | None:
    """When this was last done to a subject."""
    return tx.scalar(select(func.max(AuditRow.at)).where(AuditRow.subject == subject, AuditRow.action == action))


def name(tx: Session, actor: str, action: str, subject: str) -> str:
    """What somebody called a subject when they last did this to it; nothing where they never did."""
    same = AuditRow.actor == actor, AuditRow.action == action, AuditRow.subject == subject
    details = tx.scalar(select(AuditRow.details).where(*same).order_by(AuditRow.id.desc()).limit(1))
    return str((details or {}).get("name", ""))


def full_runs(tx: Session, actor: str, *, now: datetime | None = None) -> float:
    """How many full runs somebody has asked for within a day: in jobs, and in what these were extended by."""
    return tx.scalar(select(func.sum(_RUNS)).where(*_asked(tx, actor, now))) or 0.0


def down_to(tx: Session, actor: str, runs: float, *, now: datetime | None = None) -> datetime:
    """When these will be so few, if nothing more is asked for: the oldest leave the day first."""
    left, moment = full_runs(tx, actor, now=now), now or clock(tx)
    for at, asked in tx.execute(select(AuditRow.at, _RUNS).where(*_asked(tx, actor, now)).order_by(AuditRow.at)):
        if left <= runs:
            break
        left, moment = left - (asked or 0.0), at + DAY
    return moment


def _asked(tx: Session, actor: str, now: datetime | None) -> tuple[ColumnElement[bool], ...]:
    return AuditRow.actor == actor, AuditRow.at > (now or clock(tx)) - DAY, AuditRow.action.in_(ASKED)
