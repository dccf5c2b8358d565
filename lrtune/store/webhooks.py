"""Who is told of a job's end: an address a job, tried again with back-off until it has heard, or been given up.

A row is there from the start; it is due once its job is over. Several servers may look: the first to claim a row sends.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Select, delete, select
from sqlalchemy.orm import Session

from lrtune.store import events
from lrtune.store.database import clock
from lrtune.store.tables import JobRow, WebhookRow
from lrtune.wire.results import OVER

SENDING = timedelta(minutes=1)  # before another server takes it that the first one has died over it
FIRST, TRIES = timedelta(seconds=10), 8  # the pauses double three times each: 10 s, 80 s, ... an hour at most
LONGEST = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Due:
    """One to be sent: the row of its job, that job's id, where to, and of which end it tells."""

    job: int
    id: str
    url: str
    finished_at: datetime


def arm(tx: Session, job: int, url: str | None, *, now: datetime) -> None:
    """Let an address be told of the job's end, anew where the job goes on after one."""
    if url is not None:
        tx.execute(delete(WebhookRow).where(WebhookRow.job == job))
        tx.add(WebhookRow(job=job, url=url, tries=0, next_at=now))


def waiting(tx: Session, *, now: datetime | None = None) -> bool:
    """Whether one is due."""
    return tx.execute(_due(now or clock(tx)).limit(1)).first() is not None


def claim(tx: Session, *, now: datetime | None = None) -> Due | None:
    """The one that has been due longest, for a minute nobody else's."""
    now = now or clock(tx)
    found = tx.execute(_due(now).order_by(WebhookRow.next_at).limit(1).with_for_update(skip_locked=True)).first()
    if found is None:
        return None
    row, job = found
    row.tries, row.next_at = row.tries + 1, now + SENDING
    return Due(row.job, job.id, row.url, job.finished_at or now)


def heard(tx: Session, due: Due) -> None:
    """It has been told."""
    now = clock(tx)
    if (row := _still(tx, due)) is not None:
        row.next_at = None
        events.add(tx, due.job, "webhook-sent", "the webhook has heard that the job is over", now=now)


def missed(tx: Session, due: Due, why: str, *, for_good: bool = False, now: datetime | None = None) -> None:
    """It could not be told, and is tried again later; after the last try, or `for_good`, the job's log says so."""
    now = now or clock(tx)
    if (row := _still(tx, due)) is None:
        return
    if for_good or row.tries >= TRIES:
        row.next_at = None
        message = f"the webhook was not heard after {row.tries} tries and is given up: {why}"
        events.add(tx, due.job, "webhook-failed", message, now=now)
    else:
        row.next_at = now + min(LONGEST, FIRST * 2 ** (3 * (row.tries - 1)))


def _still(tx: Session, due: Due) -> WebhookRow | None:
    """The row, unless its job was deleted meanwhile, or goes on: then its next end is to be sent."""
    same = JobRow.id == due.id, JobRow.finished_at == due.finished_at
    job = tx.scalar(select(JobRow.seq).where(*same).with_for_update())  # jobs before what is theirs
    return None if job is None else tx.get(WebhookRow, job)


def _due(now: datetime) -> "Select[WebhookRow, JobRow]":
    over = select(WebhookRow, JobRow).join(JobRow, JobRow.seq == WebhookRow.job)
    return over.where(WebhookRow.next_at <= now, JobRow.state.in_(OVER))
