"""The budget of a job that is there already: a larger one, or the end of its search before it is spent."""

from collections.abc import Callable, Iterable
from datetime import datetime

from sqlalchemy import case, select, update
from sqlalchemy.orm import Session

from lrtune import __version__
from lrtune.errors import Invalid, JobFinished, Rejection
from lrtune.store import audit_log, events, jobs, lookup, serving, shares, tallies, webhooks
from lrtune.store.database import clock
from lrtune.store.tables import JobRow, TrialRow
from lrtune.wire.job import AdmittedJob, Budget
from lrtune.wire.results import OVER, Job, JobState, Trial, TrialState


def stop(tx: Session, job_id: str, *, by: str = "", now: datetime | None = None) -> Job:
    """End the search of a job: what is trained now is trained on, and then its answer is confirmed.

    A trial that waits is cancelled if nothing of it was trained, and else pauses, as at the end of a stage. Raises
    UnknownJob, JobFinished.
    """
    row = lookup.job(tx, job_id, lock=True)
    if row.stopped_at is not None:
        return jobs.get(tx, job_id)
    if row.state in OVER:
        raise JobFinished(jobs.no_longer(row.state))
    now, reason = now or clock(tx), f"{jobs.STOPPED}{jobs.named(by)}"
    _withdraw(tx, row.seq, f"{reason} while it waited for a worker", now)
    row.stopped_at, row.decisions = now, row.decisions + 1
    message = f"{reason}: what it trains now is trained on, then its answer is confirmed"
    events.add(tx, row.seq, "job-stopped", message, now=now, **jobs.actor(by))
    audit_log.add(tx, by, "job-stopped", row.id, now=now)
    tx.flush()
    return jobs.get(tx, job_id)


def _withdraw(tx: Session, job: int, reason: str, now: datetime) -> None:
    """Let no worker begin what waits of a job's search; what a worker takes at this moment it trains.

    That one is not waited for: who takes a trial has its row, and then wants the job's, which is ours.
    """
    role, unbegun = TrialRow.role.in_(("search", "range-test")), TrialRow.step == 0
    waits = select(TrialRow.id).where(TrialRow.job == job, TrialRow.state == TrialState.WAITING, role)
    ids = tx.scalars(waits.with_for_update(skip_locked=True)).all()
    state = case((unbegun, TrialState.CANCELLED), else_=TrialState.PAUSED)
    gone = {"state": state, "reason": reason, "finished_at": case((unbegun, now), else_=None)}
    tx.execute(update(TrialRow).where(TrialRow.id.in_(ids)).values(gone))
    tallies.ended(tx, TrialRow.id.in_(ids))


def extend(
    tx: Session,
    job_id: str,
    budget: Budget,
    *,
    by: str = "",
    allow: Callable[[float | None], object] = lambda _: None,
    now: datetime | None = None,
) -> Job:
    """Give a job a new budget, if it may have so many full runs more; one that had ended, or was stopped, goes on.

    The same budget again changes nothing, but what was stopped or has failed goes on with it. Raises UnknownJob,
    JobFinished (cancelled), Invalid for a smaller budget.
    """
    shares.join(tx, lookup.job(tx, job_id).owner)  # shares before jobs
    row = lookup.job(tx, job_id, lock=True)
    spec = lookup.asked(row)
    if row.state == JobState.CANCELLED:
        raise JobFinished("the job was cancelled; submit it again instead")
    if spec.budget != budget or row.stopped_at is not None or row.state == JobState.FAILED:
        _require_larger(spec.budget, budget)
        now, new = now or clock(tx), spec.model_copy(update={"budget": budget})
        more = None if new.most_runs is None else max(0.0, new.most_runs - _asked_for(tx, row, spec))
        allow(more)
        row.spec, row.release = new.model_dump(mode="json"), __version__
        words = ", ".join(f"{key} {value:g}" for key, value in budget.model_dump().items() if value is not None)
        events.add(tx, row.seq, "job-extended", f"new budget{jobs.named(by)}: {words}", now=now, **jobs.actor(by))
        audit_log.add(tx, by, "job-extended", row.id, now=now, budget=budget.model_dump(), full_runs=more)
        row.stopped_at, row.decisions = None, row.decisions + 1
        if row.state in OVER:
            row.state, row.reason, row.finished_at, row.thinned = JobState.RUNNING, "", None, False
            webhooks.arm(tx, row.seq, spec.webhook, now=now)
            if not spec.external:  # its workers may have gone since it was over, when its log was no longer kept true
                serving.tell(tx, [job_id], now=now)
    tx.flush()
    return jobs.get(tx, job_id)


def _asked_for(tx: Session, row: JobRow, spec: AdmittedJob) -> float:
    """How many full runs somebody has asked for; of a job that was imported, whatever it says, those that it has."""
    if not audit_log.latest(tx, "job-imported", row.id) or audit_log.latest(tx, "job-extended", row.id):
        return spec.most_runs or 0.0
    return sum(steps for *_, steps in tallies.counts(tx, row.seq)) / (row.steps or 1)


def _require_larger(had: Budget, budget: Budget) -> None:
    """Raise Invalid where a bound would be nearer than the one that the job had."""
    wrong = []
    for name, before in had.model_dump().items():
        found = getattr(budget, name)
        if before is not None and found is not None and found < before:
            detail = f"found {found:g}; accepted is more than the {before:g} it had"
            wrong.append(Rejection(pointer=f"/budget/{name}", detail=detail))
    if wrong:
        raise Invalid(f"{wrong[0]['pointer']}: {wrong[0]['detail']}", wrong)


def extended_at(tx: Session, job_id: str, history: Iterable[Trial]) -> datetime | None:
    """When a job of which trials failed was given a larger budget last; None of others, which need not know."""
    if not any(trial.state is TrialState.FAILED for trial in history):
        return None
    return audit_log.latest(tx, "job-extended", job_id)
