"""Who is working: every worker signs in, is seen with each heartbeat, and is forgotten when it has been silent."""

import os
from datetime import datetime, timedelta

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from lrtune.store.database import clock
from lrtune.store.tables import JobRow, WorkerRow
from lrtune.wire.results import Worker

SILENT = timedelta(minutes=2)
IDLE = timedelta(seconds=5)  # since a worker without a trial was seen: it asks for one every half second


def able(optimizer: str) -> str:
    """How a worker lists, among its tasks, an optimizer for which it has the package."""
    return f"optimizer:{optimizer}"


def sign_in(
    tx: Session, worker: str, *, host: str, pid: int, device: str, tasks: list[str], now: datetime | None = None
) -> None:
    """List a worker, and forget those that have been silent for an hour."""
    now = now or clock(tx)
    tx.execute(delete(WorkerRow).where((WorkerRow.seen_at < now - timedelta(hours=1)) | (WorkerRow.id == worker)))
    tx.add(WorkerRow(id=worker, host=host, pid=pid, device=device, tasks=tasks, started_at=now, seen_at=now))


def clocks(tx: Session, *, host: str) -> tuple[datetime, dict[str, datetime]] | None:
    """This process's time, and when each worker last showed life by its own clock; None on PostgreSQL, which has one.

    Those of this host whose process has ended are left out: they show no more life.
    """
    if tx.get_bind().dialect.name != "sqlite":
        return None
    rows = tx.execute(select(WorkerRow.id, WorkerRow.host, WorkerRow.pid, WorkerRow.seen_at))
    return clock(tx), {one.id: one.seen_at for one in rows if one.host != host or _runs(one.pid)}


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True


def seen(tx: Session, worker: str, *, job: str | None, trial: int | None, now: datetime | None = None) -> None:
    """Say that a worker lives, and what it is at."""
    values = {"seen_at": now or clock(tx), "job": job, "trial": trial}
    tx.execute(update(WorkerRow).where(WorkerRow.id == worker).values(values))


def idle(tx: Session, task: str, *, now: datetime | None = None) -> int:
    """How many workers have nothing to train but could train this task, whoever asks among them."""
    query = select(WorkerRow.tasks).where(WorkerRow.job.is_(None), WorkerRow.seen_at >= (now or clock(tx)) - IDLE)
    return max(1, sum(task in tasks for tasks in tx.scalars(query)))


def sign_out(tx: Session, worker: str) -> None:
    """Forget a worker that stops in good order."""
    tx.execute(delete(WorkerRow).where(WorkerRow.id == worker))


def alive(tx: Session, *, only: str | None = None, now: datetime | None = None) -> list[Worker]:
    """The workers heard of lately, oldest first; to whom sees `only` their own jobs, one at another's is just busy."""
    query = select(WorkerRow).where(WorkerRow.seen_at >= (now or clock(tx)) - SILENT)
    rows = tx.scalars(query.order_by(WorkerRow.started_at, WorkerRow.id))
    found = [Worker.model_validate(row, from_attributes=True) for row in rows]
    if only is None:
        return found
    at = [one.job for one in found if one.job]
    theirs = set(tx.scalars(select(JobRow.id).where(JobRow.id.in_(at), JobRow.owner == only)))
    hidden = {"job": "another's", "trial": None}
    return [one if one.job is None or one.job in theirs else one.model_copy(update=hidden) for one in found]
