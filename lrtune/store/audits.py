"""Stops as a job's log tells them: who stopped which trial, which ran on to check the forecast, whether it is on.

The log of a large job is long, so each process goes on reading where it was.
"""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Row, select
from sqlalchemy.orm import Session

from lrtune.caches import idle_cache
from lrtune.store import events, leases, lookup
from lrtune.store.database import clock
from lrtune.store.tables import EventRow
from lrtune.wire.results import Audits

AUDITED, OFF, ON = "trial-audited", "pruner-off", "pruner-on"
STOPPED, RESUMED, IMPORTED = "trial-stopped", "trial-resumed", "job-imported"
KINDS = (AUDITED, OFF, ON, STOPPED, RESUMED, IMPORTED)


def audited(tx: Session, lease: leases.Lease, reason: str) -> None:
    """Write down, once, that a trial runs on although the forecast would stop it. Raises LeaseLost."""
    leases.hold(tx, lease)
    number = lease.trial.number
    if number not in read(tx, lease.job_id).trials:
        events.add(tx, lease.job, AUDITED, f"trial {number}, {reason}", now=clock(tx), trial=number)


def switched(tx: Session, lease: leases.Lease, *, on: bool, reason: str) -> None:
    """Write down that the pruner has switched itself off, or on again, unless the log says so. Raises LeaseLost."""
    leases.hold(tx, lease)
    if read(tx, lease.job_id).on != on:
        words = "is on again, its forecasts pass the audit" if on else "has switched itself off"
        message, number = f"the forecast pruner {words}: {reason}", lease.trial.number
        events.add(tx, lease.job, ON if on else OFF, message, now=clock(tx), trial=number)


def read(tx: Session, job_id: str) -> Audits:
    """What a job's log says of the audit. Raises UnknownJob."""
    return _of(job_id).read(tx)


class _Log:
    """What was read of one job's log, which only grows."""

    def __init__(self, job_id: str) -> None:
        self._job_id = job_id
        self._known = 0, Audits()  # up to which line, and what these say

    def read(self, tx: Session) -> Audits:
        job = lookup.job(tx, self._job_id)
        after, found = self._known
        query = select(EventRow.number, EventRow.trial, EventRow.kind, EventRow.data)
        query = query.where(EventRow.job == job.seq, EventRow.number > after, EventRow.kind.in_(KINDS))
        lines = tx.execute(query.order_by(EventRow.number)).all()
        found = _with(found, lines) if lines else found
        self._known = max([after, job.events, *(line.number for line in lines[-1:])]), found
        return found


def _with(before: Audits, lines: Iterable[Row[int, int | None, str, dict[str, Any]]]) -> Audits:
    """What is known with more lines. Logs of before say who stopped a running trial by the step that it had."""
    trials, on, stops, imported = list(before.trials), before.on, dict(before.stops), before.imported
    for _, number, kind, data in lines:
        if kind == AUDITED and number is not None:
            trials.append(number)
        elif kind in (ON, OFF):
            on = kind == ON
        else:
            imported = imported or kind == IMPORTED
            stops |= dict.fromkeys(data.get("pruned", ()), "pruner")
            if number is not None:
                stops.pop(number, None)
            if kind == STOPPED and number is not None:
                stops[number] = data.get("by") or ("pruner" if "step" in data else "budget")
    return Audits.model_construct(trials=trials, on=on, stops=stops, imported=imported)


@idle_cache(maxsize=16)
def _of(job_id: str) -> _Log:
    return _Log(job_id)
