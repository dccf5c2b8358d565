"""The forecast pruner's audit, as a job's log tells it: which trials ran on to check it, and whether it is on."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from lrtune.store import events, leases, lookup
from lrtune.store.database import clock
from lrtune.store.tables import EventRow
from lrtune.wire.results import Audits

AUDITED, OFF, ON = "trial-audited", "pruner-off", "pruner-on"


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
    return Audits(trials=[number for number in tx.scalars(query) if number is not None], on=_on(tx, job.seq))


def _on(tx: Session, job: int) -> bool:
    """Whether the pruner is on: it is until the log says otherwise."""
    query = select(EventRow.kind).where(EventRow.job == job, EventRow.kind.in_((OFF, ON)))
    return tx.scalars(query.order_by(EventRow.number.desc()).limit(1)).first() != OFF
