"""Finding rows by what users call them, and the cursors of pages."""

import base64
import binascii
from datetime import datetime
from functools import cache, lru_cache
from typing import Any

from pydantic import ValidationError
from sqlalchemy import ColumnElement, Select, bindparam, false, func, select
from sqlalchemy.orm import Session

from lrtune import __version__
from lrtune.errors import Invalid, NewerJob, UnknownJob, UnknownTrial, UnreadableJob
from lrtune.store import schema
from lrtune.store.database import Parts, as_time, time
from lrtune.store.tables import AuditRow, JobRow, TrialRow
from lrtune.wire.job import EXTERNAL, AdmittedJob

ARCHIVED = "job-archived"  # what the log of changes says of a job that stands in a file from then on
_JOB = select(JobRow).where(JobRow.id == bindparam("id"))
_TRIAL = select(TrialRow).where(TrialRow.job == bindparam("job"), TrialRow.number == bindparam("number"))
_LOCKED_TRIAL = _TRIAL.with_for_update()
_LOCKED = _JOB.with_for_update().execution_options(populate_existing=True)


def command(job: Any) -> ColumnElement[bool]:
    """Whether a command of the workers' trains a job's trials; `job` is the table, or another name of it."""
    return func.coalesce(Parts(job.spec)[("task", "command")].as_boolean(), false())


def not_external(job: Any) -> ColumnElement[bool]:
    """Whether workers train a job's trials, by a command or by themselves: not a loop of the user's own."""
    return job.task != EXTERNAL  # type: ignore[no-any-return]


def job(tx: Session, job_id: str, *, lock: bool = False) -> JobRow:
    """The row of a job's id; with `lock`, nobody else changes the job until the transaction ends. Raises UnknownJob."""
    row = tx.scalars(_LOCKED if lock else _JOB, {"id": job_id}).one_or_none()
    if row is None:
        raise missing(tx, job_id)
    return row


def asked(row: JobRow) -> AdmittedJob:
    """What a job asks for. Raises UnreadableJob."""
    if not row.spec:  # as `JsonObject` reads what is none
        raise _unreadable(row.id, "it is no JSON", row.release)
    try:
        return AdmittedJob.model_validate(row.spec)
    except ValidationError as error:
        raise _unreadable(row.id, _first(error), row.release) from None


def admitted(job_id: str, spec: str, release: str) -> AdmittedJob:
    """The same, as it stands in the database where a `release` wrote it. Raises UnreadableJob."""
    try:
        return _admitted(spec)
    except ValidationError as error:
        raise _unreadable(job_id, _first(error), release) from None


@lru_cache(maxsize=256)
def _admitted(spec: str) -> AdmittedJob:
    """The same text in each report, and in each poll."""
    return AdmittedJob.model_validate_json(spec)


def _first(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(map(str, first["loc"]))
    return f"{where}: {first['msg']}" if where else first["msg"]


def _unreadable(job_id: str, found: str, release: str) -> UnreadableJob:
    wrong, give_up = f"what {job_id} asks for cannot be read", f"or give the job up with `lrtune delete {job_id}`"
    if schema.newer(release):
        which = f"lrtune {release} wrote it, and this is {__version__}"
        mend = f"Servers and workers of that release go on with it: start them, {give_up}"
        return NewerJob(f"{wrong} here ({found[:200]}): {which}. {mend}", job=job_id)
    mend = f"Bring the database back from a backup (`lrtune restore`), {give_up}"
    return UnreadableJob(f"{wrong} ({found[:200]}): its row in the database is damaged. {mend}", job=job_id)


def job_now(tx: Session, job_id: str) -> tuple[JobRow, datetime]:
    """The row of a job's id, and the database's time, in one statement. Raises UnknownJob."""
    found = tx.execute(_now(time(tx)), {"id": job_id}).one_or_none()
    if found is None:
        raise missing(tx, job_id)
    return found[0], as_time(found[1])


@cache
def _now(now: ColumnElement[Any]) -> Select[Any]:
    return _JOB.add_columns(now)


def owner(tx: Session, job_id: str) -> str | None:
    """Whose a job is; None where there is none."""
    return tx.scalar(select(JobRow.owner).where(JobRow.id == job_id))


def unknown(job_id: str) -> UnknownJob:
    """What is wrong where there is no job of an id."""
    return UnknownJob(f"there is no job {job_id[:60]!r}")


def missing(tx: Session, job_id: str) -> UnknownJob:
    """The same, for who may know which jobs there were: one that was archived is said to be, where and since when."""
    gone = select(AuditRow).where(AuditRow.subject == job_id, AuditRow.action == ARCHIVED)
    row = tx.scalars(gone.order_by(AuditRow.id.desc()).limit(1)).one_or_none()
    if row is None:
        return unknown(job_id)
    where = f"{row.details['file']} below the server's LRTUNE_DATA_DIR"
    return UnknownJob(f"{job_id} was archived on {row.at:%Y-%m-%d}, as old jobs are here, and stands in {where}")


def trial(tx: Session, job: JobRow, number: int, *, lock: bool = False) -> TrialRow:
    """The row of a job's trial; with `lock`, nobody else changes it until the transaction ends. Raises UnknownTrial."""
    row = tx.scalars(_LOCKED_TRIAL if lock else _TRIAL, {"job": job.seq, "number": number}).one_or_none()
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
