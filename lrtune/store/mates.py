"""Trials that can be trained in lock-step with one that has been claimed: of its job, and different in rates alone."""

from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from lrtune.store import leases, trials
from lrtune.store.database import clock
from lrtune.store.tables import TrialRow


def claim(
    tx: Session, lease: leases.Lease, worker: str, *, ttl: timedelta, least: int, most: int, now: datetime | None = None
) -> list[leases.Lease]:
    """Take the oldest waiting trials that can be trained with a lease's: at most so many, and none where fewer wait.

    They have its seed, its horizon and its optimizer, and begin at its step, so that they see the same batches.
    """
    now, trial = now or clock(tx), lease.trial
    alike = select(TrialRow).where(TrialRow.job == lease.job, trials.ready(), TrialRow.seed == trial.seed)
    alike = alike.where(TrialRow.horizon == trial.horizon, TrialRow.start == trial.start).order_by(TrialRow.id)
    optimizer = trial.configuration.optimizer
    waiting = [row.id for row in tx.scalars(alike) if trials.view(row).configuration.optimizer == optimizer][:most]
    if len(waiting) < max(1, least):
        return []
    taken = (
        leases.claim(tx, worker, ttl=ttl, job_id=lease.job_id, which=TrialRow.id == one, now=now) for one in waiting
    )
    return [one for one in taken if one is not None]
