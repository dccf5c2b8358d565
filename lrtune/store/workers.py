"""Who is working: every worker signs in, is seen with each heartbeat, and is forgotten when it has been silent."""

import os
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import case, delete, func, select, update
from sqlalchemy.orm import Session

from lrtune.store.database import clock
from lrtune.store.tables import AttemptRow, JobRow, TrialRow, WorkerRow
from lrtune.wire.job import JobSpec, Resources
from lrtune.wire.results import Worker

SILENT = timedelta(minutes=2)


@dataclass(frozen=True, slots=True)
class Device:
    """What a worker trains on, as torch calls it; what kind that is, its memory, how many of them its host has."""

    device: str
    kind: str = ""
    memory_gb: float | None = None
    count: int = 1


class Needs(NamedTuple):
    """What a job needs of a worker: its task, the kind of device and its memory, where it says so."""

    task: str
    device: str | None
    memory_gb: float | None


def able(optimizer: str) -> str:
    """How a worker lists, among its tasks, an optimizer for which it has the package."""
    return f"optimizer:{optimizer}"


def sign_in(
    tx: Session,
    worker: str,
    *,
    host: str,
    pid: int,
    device: Device | str,
    tasks: list[str],
    now: datetime | None = None,
) -> None:
    """List a worker, and forget those that have been silent for an hour."""
    now = now or clock(tx)
    tx.execute(delete(WorkerRow).where((WorkerRow.seen_at < now - timedelta(hours=1)) | (WorkerRow.id == worker)))
    has = asdict(Device(device) if isinstance(device, str) else device)
    tx.add(WorkerRow(id=worker, host=host, pid=pid, tasks=tasks, started_at=now, seen_at=now, **has))


def clocks(tx: Session, *, host: str) -> tuple[datetime, dict[str, datetime]] | None:
    """This process's time, and when each worker last showed life by its own clock; None on PostgreSQL, which has one.

    Those of this host whose process has ended are left out: they show no more life.
    """
    if tx.get_bind().dialect.name != "sqlite":
        return None
    rows = tx.execute(select(WorkerRow.id, WorkerRow.host, WorkerRow.pid, WorkerRow.seen_at))
    return clock(tx), {one.id: one.seen_at for one in rows if one.host != host or _runs(one.pid)}


def trained(tx: Session, *, host: str, pids: Collection[int]) -> tuple[int, int]:
    """How many steps the workers of these processes have trained in all, and how many of them have a trial now."""
    rows = tx.execute(select(WorkerRow.id, WorkerRow.job).where(WorkerRow.host == host, WorkerRow.pid.in_(pids))).all()
    reached = case((AttemptRow.ended_at.is_(None), TrialRow.step), else_=AttemptRow.step)
    steps = select(func.sum(reached - AttemptRow.start)).join(TrialRow, TrialRow.id == AttemptRow.trial)
    return tx.scalar(steps.where(AttemptRow.worker.in_([row.id for row in rows]))) or 0, sum(
        row.job is not None for row in rows
    )


def needs(spec: JobSpec) -> Needs:
    """What a job needs of a worker."""
    return Needs(spec.task.name, spec.resources.device, spec.resources.memory_gb)


def unserved(spec: JobSpec, living: Sequence[Worker]) -> str:
    """Why none of the workers that live can train a job, in words; nothing where one can, or a loop of the user's own.

    One of a version that does not say what it has can train what needs nothing special.
    """
    return "" if spec.external else lacking(needs(spec), living)


def lacking(needs: Needs, living: Sequence[Worker]) -> str:
    """Why none of the workers that live can train what needs this, in words; nothing where one can."""
    if any(_fits(needs, one) for one in living):
        return ""
    if not living:
        return "no worker is alive: start one with `lrtune worker`"
    able_to = [one for one in living if needs.task in one.tasks]
    what = ", ".join(sorted({_words(one) for one in able_to or living}))
    if not able_to:
        return f"no worker that lives has the task {needs.task}; {len(living)} live: {what}"
    wanted = Resources(device=needs.device, memory_gb=needs.memory_gb)
    return f"no worker that lives has {wanted}; those that have the task {needs.task}: {what}"


def fits(spec: JobSpec, worker: Worker) -> bool:
    """Whether a worker can train a job: it has its task, the kind of device and the memory."""
    return _fits(needs(spec), worker)


def _fits(needs: Needs, worker: Worker) -> bool:
    enough = needs.memory_gb is None or (worker.memory_gb is not None and worker.memory_gb >= needs.memory_gb)
    return needs.task in worker.tasks and needs.device in (None, worker.kind) and enough


def _words(worker: Worker) -> str:
    memory = "" if worker.memory_gb is None else f" with {worker.memory_gb:.3g} GB"
    return f"{worker.kind or worker.device}{memory}"


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


def sign_out(tx: Session, worker: str) -> None:
    """Forget a worker that stops in good order."""
    tx.execute(delete(WorkerRow).where(WorkerRow.id == worker))


def alive(
    tx: Session, *, only: str | None = None, now: datetime | None = None, within: timedelta = SILENT
) -> list[Worker]:
    """The workers heard of lately, oldest first; to whom sees `only` their own jobs, one at another's is just busy."""
    query = select(WorkerRow).where(WorkerRow.seen_at >= (now or clock(tx)) - within)
    rows = tx.scalars(query.order_by(WorkerRow.started_at, WorkerRow.id))
    found = [Worker.model_validate(row, from_attributes=True) for row in rows]
    if only is None:
        return found
    at = [one.job for one in found if one.job]
    theirs = set(tx.scalars(select(JobRow.id).where(JobRow.id.in_(at), JobRow.owner == only)))
    hidden = {"job": "another's", "trial": None}
    return [one if one.job is None or one.job in theirs else one.model_copy(update=hidden) for one in found]
