"""Whether some worker can train a job: its log says when the last that could has gone, and when one is there again.

What a job says of itself (`waiting_for`) is found out as it is read. Its log is written by the server, which looks
whenever what the workers can train between them has changed: a worker stops in good order, or is not heard of.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import BindParameter, ScalarSelect, bindparam, func, select
from sqlalchemy.orm import Session

from lrtune.store import events, workers
from lrtune.store.database import clock
from lrtune.store.tables import EventRow, JobRow
from lrtune.store.workers import Needs
from lrtune.wire.job import EXTERNAL
from lrtune.wire.results import ACTIVE, JobState

GONE, THERE, SUBMITTED = "job-unserved", "job-served", "job-submitted"
_GOES_ON = (*ACTIVE, JobState.PAUSED)  # whoever resumes a job that was paused finds its log as things are
Snapshot = tuple[frozenset[tuple[frozenset[str], str, float | None]], int]


def snapshot(tx: Session) -> Snapshot:
    """What the workers heard of lately can train, and with what; and the newest job.

    Where neither has changed, logs say what is so. A worker may come and go between two looks: a job that was submitted
    meanwhile was served then.
    """
    able = frozenset((frozenset(one.tasks), one.kind, one.memory_gb) for one in workers.alive(tx))
    return able, tx.scalar(select(func.max(JobRow.seq))) or 0


def outdated(tx: Session) -> list[str]:
    """The jobs that are not over and whose logs say otherwise than is so."""
    query = select(JobRow.id, JobRow.task, JobRow.device, JobRow.memory_gb, _newest().label("said"))
    rows = tx.execute(query.where(JobRow.state.in_(_GOES_ON), JobRow.task != EXTERNAL)).all()
    jobs = [(row.id, Needs(row.task, row.device, row.memory_gb), _lacked(row.said)) for row in rows]
    living = workers.alive(tx)
    lacking = {needs: bool(workers.lacking(needs, living)) for needs in {needs for _, needs, _ in jobs}}
    return [job for job, needs, said in jobs if lacking[needs] != said]


def tell(tx: Session, jobs: Sequence[str], *, now: datetime | None = None) -> None:
    """Let logs say what is so of these jobs, as far as they still do not; one may be over by now, or deleted."""
    now, living = now or clock(tx), workers.alive(tx, now=now)
    rows = select(JobRow).where(JobRow.id.in_(jobs), JobRow.state.in_(_GOES_ON)).order_by(JobRow.seq)
    held = tx.scalars(rows.with_for_update()).all()
    said = select(JobRow.seq, _newest()).where(JobRow.seq.in_([row.seq for row in held]))
    lacked = {seq: _lacked(newest) for seq, newest in tx.execute(said)}
    for row in held:
        why = workers.lacking(Needs(row.task, row.device, row.memory_gb), living)
        if bool(why) != lacked[row.seq]:
            gone = f"the last worker that could train it has gone; {why}"
            message = gone if why else "a worker that can train it is there"
            events.add(tx, row.seq, GONE if why else THERE, message, now=now, **lacks(why))


def lacks(why: str) -> dict[str, Any]:
    """What a line of the log says beside its words where no worker can train the job."""
    return {"lacks": why} if why else {}


def _newest() -> ScalarSelect[Any]:
    """What the line of a job's log has that says last whether a worker can train it; an index has these lines alone."""
    kinds: BindParameter[Any] = bindparam("kinds", [GONE, THERE, SUBMITTED], expanding=True, literal_execute=True)
    lines = select(EventRow.data).where(EventRow.job == JobRow.seq, EventRow.kind.in_(kinds))
    return lines.order_by(EventRow.number.desc()).limit(1).correlate(JobRow).scalar_subquery()


def _lacked(newest: dict[str, Any] | None) -> bool:
    return bool(newest and newest.get("lacks"))
