"""Stops as a job's log tells them: who stopped which trial, which ran on to check the forecast, whether it is on."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from lrtune.store import events, leases, lookup
from lrtune.store.database import clock
from lrtune.store.tables import EventRow
from lrtune.wire.results import Audits, Stop

AUDITED, OFF, ON = "trial-audited", "pruner-off", "pruner-on"
STOPPED, RESUMED, IMPORTED = "trial-stopped", "trial-resumed", "job-imported"


def audited(tx: Session, lease: leases.Lease, reason: str) -> None:
    """Write down, once, that a trial runs on although the forecast would stop it. Raises LeaseLost."""
    leases.hold(tx, lease)
    number = lease.trial.number
    known = select(EventRow).where(EventRow.job == lease.job, EventRow.kind == AUDITED, EventRow.trial == number)
    if tx.scalars(known.limit(1)).first() is None:
        events.add(tx, lease.job, AUDITED, f"trial {number}, {reason}", now=clock(tx), trial=number)


def switched(tx: Session, lease: leases.Lease, *, on: bool, reason: str) -> None:
    """Write down that the pruner has switched itself off, or on again, unless the log says so. Raises LeaseLost."""
    leases.hold(tx, lease)
    if _on(tx, lease.job) != on:
        words = "is on again, its forecasts pass the audit" if on else "has switched itself off"
        message, number = f"the forecast pruner {words}: {reason}", lease.trial.number
        events.add(tx, lease.job, ON if on else OFF, message, now=clock(tx), trial=number)


def read(tx: Session, job_id: str) -> Audits:
    """What a job's log says of the audit. Raises UnknownJob."""
    job = lookup.job(tx, job_id)
    query = select(EventRow.trial).where(EventRow.job == job.seq, EventRow.kind == AUDITED).order_by(EventRow.number)
    audited = [number for number in tx.scalars(query) if number is not None]
    return Audits(trials=audited, on=_on(tx, job.seq), stops=_stops(tx, job.seq))


def _stops(tx: Session, job: int) -> dict[int, Stop]:
    """Who stopped which trial, the last time. Logs of before say it of a running trial by the step that it had."""
    kinds = (EventRow.trial, EventRow.kind, EventRow.data)
    query = (
        select(*kinds)
        .where(EventRow.job == job, EventRow.kind.in_((STOPPED, RESUMED, IMPORTED)))
        .order_by(EventRow.number)
    )
    found: dict[int, Stop] = {}
    for number, kind, data in tx.execute(query).all():
        found |= dict.fromkeys(data.get("pruned", ()), "pruner")
        found.pop(number, None)
        if kind == STOPPED:
            found[number] = data.get("by") or ("pruner" if "step" in data else "budget")
    return found


def _on(tx: Session, job: int) -> bool:
    """Whether the pruner is on: it is until the log says otherwise."""
    query = select(EventRow.kind).where(EventRow.job == job, EventRow.kind.in_((OFF, ON)))
    return tx.scalars(query.order_by(EventRow.number.desc()).limit(1)).first() != OFF
