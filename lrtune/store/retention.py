"""What is not kept for ever: reports of old jobs are thinned, jobs that are older yet are archived and forgotten.

Each verb sees to one job, so that no transaction is long.
"""

from bisect import bisect_right
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from lrtune.store import audit_log, events, jobs, lookup, trials
from lrtune.store.tables import JobRow, ReportRow, TrialRow
from lrtune.wire.results import OVER, REPORTS, report_points

SERVER = "(server)"  # who does what nobody asks for: no name that a person may have
PAGE = 1000  # events that are read at once


def ended(
    tx: Session, *, before: datetime, whole: bool = False, but: Collection[str] = (), hold: bool = False
) -> str | None:
    """The job that ended longest ago, if that was before; with `whole`, of those whose reports are not thinned yet.

    Jobs in `but` do not come; with `hold` neither do those that somebody else is at, and nobody else changes this one.
    """
    query = select(JobRow.id).where(JobRow.state.in_(OVER), JobRow.finished_at < before, JobRow.id.not_in(but))
    query = query.where(JobRow.thinned.is_(False)) if whole else query
    query = query.with_for_update(skip_locked=True) if hold else query
    return tx.scalar(query.order_by(JobRow.finished_at).limit(1))


def thin(tx: Session, job_id: str) -> int:
    """Keep about twenty reports of each trial of a job: the last at or before each point; how many went.

    None go of a job that was extended meanwhile, which trains and forecasts from them.
    """
    row = lookup.job(tx, job_id, lock=True)
    if row.state not in OVER:
        return 0
    many = select(TrialRow.id, TrialRow.horizon).join(ReportRow, ReportRow.trial == TrialRow.id)
    many = many.where(TrialRow.job == row.seq).group_by(TrialRow.id, TrialRow.horizon).having(func.count() > REPORTS)
    gone = 0
    for trial, horizon in tx.execute(many).all():
        steps = tx.scalars(select(ReportRow.step).where(ReportRow.trial == trial).order_by(ReportRow.step)).all()
        kept = _kept(steps, horizon)
        tx.execute(delete(ReportRow).where(ReportRow.trial == trial, ReportRow.step.not_in(kept)))
        gone += len(steps) - len(kept)
    row.thinned = True
    return gone


def _kept(steps: Sequence[int], horizon: int) -> list[int]:
    """Of these steps, in order, the last at or before each point of a run; and the last of all."""
    places = {bisect_right(steps, point) - 1 for point in report_points(horizon)} | {len(steps) - 1}
    return [steps[place] for place in sorted(places) if place >= 0]


def forget(tx: Session, job_id: str, *, file: str) -> None:
    """Delete a job that stands in a file from now on, and remember where. Raises UnknownJob, JobNotFinished."""
    row = lookup.job(tx, job_id)
    known: dict[str, Any] = {"owner": row.owner, "task": row.task, "file": file}
    jobs.delete(tx, job_id)
    audit_log.add(tx, SERVER, lookup.ARCHIVED, job_id, **known)


def written(tx: Session, job_id: str) -> dict[str, Any]:
    """All that is known of a job, as the API answers with it."""
    log, after = list[Any](), 0
    while (page := events.page(tx, job_id, after=after, limit=PAGE)).items:
        log += page.items
        after = page.items[-1].id
    job, history = jobs.get(tx, job_id), trials.history(tx, job_id)
    lists = {"trials": history, "events": log}
    return {"job": job.model_dump(mode="json")} | {
        name: [one.model_dump(mode="json") for one in found] for name, found in lists.items()
    }
