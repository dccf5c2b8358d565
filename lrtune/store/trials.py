"""Reading trials, and adding the next one."""

from collections.abc import Iterable
from datetime import datetime

from sqlalchemy import ColumnElement, and_, exists, func, select
from sqlalchemy.orm import Session, aliased

from lrtune.errors import UnknownTrial
from lrtune.store import events, lookup
from lrtune.store.database import clock
from lrtune.store.tables import ReportRow, TrialRow
from lrtune.wire.results import ACTIVE, Page, Proposal, Report, Trial, TrialState

_FIELDS = [name for name in Trial.model_fields if name != "reports"]


def ready() -> ColumnElement[bool]:
    """A trial that waits for a worker, and not for another trial to train what both begin with."""
    ahead = aliased(TrialRow)
    training = exists().where(
        ahead.id == TrialRow.behind, ahead.state == TrialState.RUNNING, ahead.step < TrialRow.behind_step
    )
    return and_(TrialRow.state == TrialState.WAITING, ~training)


def view(row: TrialRow, reports: Iterable[ReportRow] = ()) -> Trial:
    """A row as it travels."""
    seen = [Report.model_validate({name: getattr(r, name) for name in Report.model_fields}) for r in reports]
    return Trial.model_validate({name: getattr(row, name) for name in _FIELDS} | {"reports": seen})


def page(tx: Session, job_id: str, *, limit: int, cursor: str | None) -> Page[Trial]:
    """Trials by number, without their reports. Raises UnknownJob, Invalid."""
    job = lookup.job(tx, job_id)
    query = select(TrialRow).where(TrialRow.job == job.seq).order_by(TrialRow.number).limit(limit + 1)
    if cursor is not None:
        query = query.where(TrialRow.number > lookup.number(cursor))
    rows = tx.scalars(query).all()
    more = lookup.cursor(rows[limit - 1].number) if len(rows) > limit else None
    return Page(items=[view(row) for row in rows[:limit]], next=more)


def get(tx: Session, job_id: str, number: int) -> Trial:
    """One trial with its reports. Raises UnknownJob, UnknownTrial."""
    job = lookup.job(tx, job_id)
    row = tx.scalars(select(TrialRow).where(TrialRow.job == job.seq, TrialRow.number == number)).one_or_none()
    if row is None:
        raise UnknownTrial(f"job {job_id} has no trial {number}")
    return view(row, tx.scalars(select(ReportRow).where(ReportRow.trial == row.id).order_by(ReportRow.step)))


def history(tx: Session, job_id: str) -> list[Trial]:
    """Every trial of a job with its reports, by number: what the search decides on."""
    job = lookup.job(tx, job_id)
    rows = tx.scalars(select(TrialRow).where(TrialRow.job == job.seq).order_by(TrialRow.number)).all()
    reports: dict[int, list[ReportRow]] = {row.id: [] for row in rows}
    query = select(ReportRow).join(TrialRow, TrialRow.id == ReportRow.trial).where(TrialRow.job == job.seq)
    for report in tx.scalars(query.order_by(ReportRow.trial, ReportRow.step)):
        reports.setdefault(report.trial, []).append(report)
    return [view(row, reports[row.id]) for row in rows]


def propose(tx: Session, job_id: str, proposal: Proposal, *, number: int, now: datetime | None = None) -> bool:
    """Add trial `number`, waiting for a worker; False when another worker has added it, or the job is not active."""
    job = lookup.job(tx, job_id, lock=True)
    count = tx.scalar(select(func.count()).select_from(TrialRow).where(TrialRow.job == job.seq))
    if job.state not in ACTIVE or job.steps is None or count != number:
        return False
    now, horizon = now or clock(tx), max(2, round(proposal.fraction * job.steps))
    tx.add(
        TrialRow(
            job=job.seq,
            number=number,
            role=proposal.role,
            why=proposal.reason,
            state="waiting",
            reason="waiting for a worker",
            configuration=proposal.configuration.model_dump(mode="json"),
            seed=proposal.seed,
            horizon=horizon,
            until=proposal.until if proposal.until and proposal.until < horizon else None,
            created_at=now,
        )
    )
    events.add(tx, job.seq, "trial-proposed", f"trial {number}: {proposal.reason}", now=now, trial=number)
    return True
