"""Finding rows by what users call them, and the cursors of pages."""

import base64
import binascii

from sqlalchemy import and_, false, func, select
from sqlalchemy.orm import Session

from lrtune.errors import Invalid, UnknownJob, UnknownTrial
from lrtune.store.tables import JobRow, TrialRow
from lrtune.wire.job import EXTERNAL

# The jobs whose trials a command of the workers' trains.
COMMAND = func.coalesce(JobRow.spec[("task", "command")].as_boolean(), false())
# The jobs whose trials our own workers claim: not those that are handed out over HTTP.
BY_WORKERS = and_(JobRow.task != EXTERNAL, ~COMMAND)


def job(tx: Session, job_id: str, *, lock: bool = False) -> JobRow:
    """The row of a job's id; with `lock`, nobody else changes the job until the transaction ends. Raises UnknownJob."""
    query = select(JobRow).where(JobRow.id == job_id)
    row = tx.scalars(query.with_for_update().execution_options(populate_existing=True) if lock else query).one_or_none()
    if row is None:
        raise UnknownJob(f"there is no job {job_id[:60]!r}")
    return row


def owner(tx: Session, job_id: str) -> str | None:
    """Whose a job is; None where there is none."""
    return tx.scalar(select(JobRow.owner).where(JobRow.id == job_id))


def trial(tx: Session, job: JobRow, number: int, *, lock: bool = False) -> TrialRow:
    """The row of a job's trial; with `lock`, nobody else changes it until the transaction ends. Raises UnknownTrial."""
    query = select(TrialRow).where(TrialRow.job == job.seq, TrialRow.number == number)
    row = tx.scalars(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise UnknownTrial(f"job {job.id} has no trial {number}")
    return row


def cursor(number: int) -> str:
    """An opaque cursor."""
    return base64.urlsafe_b64encode(str(number).encode()).decode().rstrip("=")


def number(text: str) -> int:
    """The number inside a cursor. Raises Invalid."""
    try:
        found = int(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True).decode())
        if not 0 <= found < 2**63:
            raise ValueError
    except (binascii.Error, ValueError):
        detail = f"query parameter cursor: found {text[:60]!r}; accepted is the `next` of an earlier page"
        raise Invalid(errors=[{"pointer": "/cursor", "detail": detail}]) from None
    return found
