"""A worker's five verbs: claim, renew, report, finish, release. A lease belongs to an attempt, and its token stands in
every WHERE; zero rows touched means LeaseLost, and the worker drops its work quietly.

The database's clock decides; `now` is an argument for tests alone. Expired leases are requeued by whoever claims next,
in statements of their own: inside the claim's WHERE the test would cost it its index.
"""

import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Update, case, delete, func, insert, select, update
from sqlalchemy.orm import Session

from lrtune.errors import LeaseLost
from lrtune.store import events, lookup, trials
from lrtune.store.database import clock
from lrtune.store.tables import AttemptRow, JobRow, ReportRow, TrialRow
from lrtune.wire.configuration import Configuration
from lrtune.wire.job import JobSpec, TaskSpec, Training
from lrtune.wire.results import ACTIVE, JobState, Report, Trial, TrialState

MAX_DEATHS = 5  # in a row, without getting further: such a trial must not take every worker down in turn


@dataclass(frozen=True, slots=True)
class Lease:
    """A hold on a trial: what to train, and the token that proves the hold."""

    id: int
    token: str
    job: int
    job_id: str
    spec: JobSpec
    trial: Trial


def claim(
    tx: Session,
    worker: str,
    *,
    ttl: timedelta,
    job_id: str | None = None,
    tasks: Collection[str] | None = None,
    now: datetime | None = None,
) -> Lease | None:
    """Take the oldest waiting trial of an active job that workers train, or of the job that is named; or None.

    With `tasks`, only of a job about one of these.
    """
    now = now or clock(tx)
    requeue(tx, now=now)
    mine = lookup.BY_WORKERS if job_id is None else JobRow.id == job_id
    oldest = (
        select(TrialRow.id)
        .join(JobRow, JobRow.seq == TrialRow.job)
        .where(trials.ready(), JobRow.state.in_(ACTIVE), mine)
        .order_by(TrialRow.id)
        .limit(1)
        .with_for_update(skip_locked=True, of=TrialRow)
    )
    if tasks is not None:
        oldest = oldest.where(JobRow.task.in_(tasks))
    token = uuid.uuid4().hex
    taken = {"state": TrialState.RUNNING, "token": token, "lease_until": now + ttl, "worker": worker}
    taken |= {"step": 0, "credited": 0, "behind": None, "behind_step": 0, "reason": f"training on {worker}"}
    claimed = update(TrialRow).where(TrialRow.id == oldest.scalar_subquery()).values(taken)
    claimed = claimed.values(attempt=TrialRow.attempt + 1, started_at=func.coalesce(TrialRow.started_at, now))
    row = tx.scalars(claimed.returning(TrialRow).execution_options(populate_existing=True)).one_or_none()
    return None if row is None else _begin(tx, row, worker, token, now)


def _begin(tx: Session, row: TrialRow, worker: str, token: str, now: datetime) -> Lease:
    attempt = {"token": token, "trial": row.id, "number": row.attempt, "worker": worker, "started_at": now}
    tx.execute(insert(AttemptRow).values(attempt))
    tx.execute(delete(ReportRow).where(ReportRow.trial == row.id))
    starting = update(JobRow).where(JobRow.seq == row.job, JobRow.state == JobState.QUEUED)
    tx.execute(starting.values(state=JobState.RUNNING, started_at=func.coalesce(JobRow.started_at, now)))
    again = f", attempt {row.attempt}" if row.attempt > 1 else ""
    message = f"trial {row.number} started on {worker}{again}"
    events.add(tx, row.job, "trial-started", message, now=now, trial=row.number)
    job = tx.scalars(select(JobRow).where(JobRow.seq == row.job)).one()
    spec = JobSpec.model_validate(job.spec)
    return Lease(id=row.id, token=token, job=row.job, job_id=job.id, spec=spec, trial=trials.view(row))


def renew(tx: Session, lease: Lease, *, ttl: timedelta, now: datetime | None = None) -> JobState:
    """Stay alive, and hear the job's state: a paused job wants the trial released. Raises LeaseLost."""
    now = now or clock(tx)
    _touch(tx, _held(lease).values(lease_until=now + ttl))
    return _news(tx, lease)


def report(
    tx: Session, lease: Lease, reports: Sequence[Report], *, ttl: timedelta, now: datetime | None = None
) -> JobState:
    """Write a batch of reports; as good as renewing, with the same news. Raises LeaseLost."""
    now = now or clock(tx)
    step = reports[-1].step
    reached = case((TrialRow.step > step, TrialRow.step), else_=step)  # what was taken up may be ahead of its reports
    _touch(tx, _held(lease).values(step=reached, lease_until=now + ttl))
    # A batch may come twice, when the first commit's answer was lost on the way.
    tx.execute(delete(ReportRow).where(ReportRow.trial == lease.id, ReportRow.step >= reports[0].step))
    tx.execute(insert(ReportRow), [{"trial": lease.id, **one.model_dump()} for one in reports])
    return _news(tx, lease)


def finish(
    tx: Session,
    lease: Lease,
    state: TrialState,
    *,
    value: float | None,
    step: int,
    reason: str = "",
    traceback: str = "",
    now: datetime | None = None,
) -> None:
    """End the trial in one of the ended states; a `traceback` goes into its event. Raises LeaseLost."""
    now = now or clock(tx)
    ended = {"state": state, "value": value, "step": step, "reason": reason, "finished_at": now}
    credited = case((TrialRow.credited > step, step), else_=TrialRow.credited)
    _touch(tx, _held(lease).values(**ended, **_FREE, credited=credited))
    _close(tx, lease.id, "finished", now)
    words = f"{state}: {reason}" if reason else f"{state}"
    found = "" if value is None else f", {lease.spec.metric.name if lease.spec.metric else 'value'} {value:.6g}"
    message = f"trial {lease.trial.number} {words}{found}"
    data = {"value": value} | ({"traceback": traceback} if traceback else {})
    events.add(tx, lease.job, f"trial-{state}", message, now=now, trial=lease.trial.number, **data)


def note(tx: Session, lease: Lease, kind: str, message: str, *, now: datetime | None = None, **data: Any) -> None:
    """Write a line about the trial into its job's log. Raises LeaseLost: who has no hold has nothing to say."""
    _touch(tx, _held(lease).values(worker=TrialRow.worker))
    text = f"trial {lease.trial.number}: {message}"
    events.add(tx, lease.job, kind, text, now=now or clock(tx), trial=lease.trial.number, **data)


def take_up(
    tx: Session, lease: Lease, *, step: int, credited: int, whose: Sequence[str], now: datetime | None = None
) -> None:
    """Write down that a trial starts after `step` steps, `credited` of which other trials trained. Raises LeaseLost.

    Where it starts further than ever, the deaths of its workers so far are forgiven: they had brought it there.
    """
    now = now or clock(tx)
    further = step > TrialRow.furthest
    deaths = case((further, 0), else_=TrialRow.deaths)
    furthest = case((further, step), else_=TrialRow.furthest)
    _touch(tx, _held(lease).values(step=step, credited=credited, deaths=deaths, furthest=furthest))
    own = f"trial {lease.trial.number}"
    names = [name.removeprefix(f"{lease.job_id}/") for name in whose]
    others = f", {credited} of them trained by trial {', '.join(names)}" if credited else ""
    message = f"{own} starts after step {step} of {lease.trial.horizon}{others}"
    events.add(
        tx, lease.job, "trial-taken-up", message, now=now, trial=lease.trial.number, step=step, credited=credited
    )


@dataclass(frozen=True, slots=True)
class Beside:
    """Another trial that is being trained, with what tells whether it begins like ours."""

    id: int
    name: str
    task: TaskSpec
    training: Training
    configuration: Configuration
    until: int | None
    step: int


def beside(tx: Session, lease: Lease) -> list[Beside]:
    """The other running trials of the same seed and horizon, of whatever job, oldest first."""
    query = select(TrialRow, JobRow).join(JobRow, JobRow.seq == TrialRow.job)
    query = query.where(TrialRow.state == TrialState.RUNNING, TrialRow.id != lease.id)
    query = query.where(TrialRow.seed == lease.trial.seed, TrialRow.horizon == lease.trial.horizon)
    return [_beside(row, job, lease) for row, job in tx.execute(query.order_by(TrialRow.id)).all()]


def _beside(row: TrialRow, job: JobRow, lease: Lease) -> Beside:
    spec, trial = JobSpec.model_validate(job.spec), trials.view(row)
    name = f"trial {trial.number}" if job.seq == lease.job else f"trial {trial.number} of {job.id}"
    return Beside(row.id, name, spec.task, spec.training, trial.configuration, trial.until, trial.step)


def release(
    tx: Session,
    lease: Lease,
    *,
    reason: str,
    behind: tuple[int, int] | None = None,
    now: datetime | None = None,
) -> None:
    """Give the trial back unharmed; it costs no attempt. Raises LeaseLost.

    `behind` is the row and the step of another trial: while that one trains towards the step, this one waits.
    """
    now = now or clock(tx)
    waiting = {"state": TrialState.WAITING, "reason": reason, "step": 0, "credited": 0}
    waiting |= {"behind": behind[0], "behind_step": behind[1]} if behind else {}
    _touch(tx, _held(lease).values(**waiting, attempt=TrialRow.attempt - 1, **_FREE))
    _close(tx, lease.id, "released", now)
    message = f"trial {lease.trial.number} released: {reason}"
    events.add(tx, lease.job, "trial-released", message, now=now, trial=lease.trial.number)


def hold(tx: Session, lease: Lease) -> None:
    """Make sure that the trial is still ours, for a line in its job's log. Raises LeaseLost."""
    held = (TrialRow.id == lease.id) & (TrialRow.token == lease.token) & (TrialRow.state == TrialState.RUNNING)
    if tx.scalars(select(TrialRow.id).where(held)).first() is None:
        raise LeaseLost


def requeue(tx: Session, *, now: datetime) -> None:
    """Put trials whose lease has run out back to waiting; fail those whose workers die without getting further."""
    expired = (TrialRow.state == TrialState.RUNNING) & (TrialRow.lease_until < now)
    reason = "its worker stopped answering"
    dead = f"its workers died {MAX_DEATHS} times and got no further"
    back = {"state": TrialState.WAITING, "reason": reason, "step": 0, "credited": 0} | _FREE
    over = {"state": TrialState.FAILED, "reason": dead, "finished_at": now} | _FREE
    deaths = TrialRow.deaths + 1
    for condition, values in ((deaths >= MAX_DEATHS, over), (deaths < MAX_DEATHS, back)):
        statement = update(TrialRow).where(expired, condition).values(values | {"deaths": deaths})
        for row in tx.execute(statement.returning(TrialRow.id, TrialRow.job, TrialRow.number)).all():
            _close(tx, row.id, "lost", now)
            message = f"trial {row.number}: {values['reason']}"
            events.add(tx, row.job, f"trial-{values['state']}", message, now=now, trial=row.number)


_FREE = {"token": None, "lease_until": None}


def _held(lease: Lease) -> Update:
    """An update of this trial, if the lease is still ours."""
    return update(TrialRow).where(
        TrialRow.id == lease.id, TrialRow.token == lease.token, TrialRow.state == TrialState.RUNNING
    )


def _news(tx: Session, lease: Lease) -> JobState:
    return JobState(tx.execute(select(JobRow.state).where(JobRow.seq == lease.job)).scalar_one())


def _touch(tx: Session, statement: Update) -> None:
    if not tx.execute(statement.returning(TrialRow.id)).all():
        raise LeaseLost


def _close(tx: Session, trial: int, outcome: str, now: datetime) -> None:
    """End the attempt that was open on a trial; there is at most one."""
    opened = update(AttemptRow).where(AttemptRow.trial == trial, AttemptRow.ended_at.is_(None))
    tx.execute(opened.values(ended_at=now, outcome=outcome))
