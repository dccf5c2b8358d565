"""Tasks of one's own, as workers announce them when they sign in: what the door checks a job's parameters against.

A task stays known when its workers are gone, so that a job can be submitted while they start again; one that nobody has
announced for a month is forgotten.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from lrtune.store import workers
from lrtune.store.database import clock
from lrtune.store.tables import TaskRow, WorkerRow
from lrtune.wire.results import TaskSummary

FORGOTTEN = timedelta(days=30)


def announce(tx: Session, tasks: Sequence[TaskSummary], *, now: datetime | None = None) -> None:
    """Write down what a worker can train; what it says replaces what was said of the same name before."""
    now = now or clock(tx)
    had = {name for names in tx.scalars(select(WorkerRow.tasks)) for name in names}
    tx.execute(delete(TaskRow).where(TaskRow.seen_at < now - FORGOTTEN, TaskRow.name.not_in(had)))
    for task in sorted(tasks, key=lambda one: one.name):  # in one order, so that two workers wait in line
        try:
            with tx.begin_nested():
                tx.merge(TaskRow(**task.model_dump(exclude={"workers"}), seen_at=now))
        except IntegrityError:  # another worker said the same at the same moment
            continue


def known(tx: Session) -> list[TaskSummary]:
    """Every announced task by name."""
    having = workers_by_task(tx)
    names = [name for name in TaskSummary.model_fields if name != "workers"]
    return [
        TaskSummary.model_validate({name: getattr(row, name) for name in names} | {"workers": having.get(row.name, 0)})
        for row in tx.scalars(select(TaskRow).order_by(TaskRow.name))
    ]


def workers_by_task(tx: Session) -> Mapping[str, int]:
    """How many workers heard of lately have each task."""
    return Counter(name for worker in workers.alive(tx) for name in worker.tasks)
