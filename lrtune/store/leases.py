"""A worker's verbs: claim, renew, report, pause or finish, release or give back. A lease belongs to an attempt, and its
token stands in every WHERE; zero rows touched means LeaseLost, and the worker drops its work quietly.

The database's clock decides; `now` is an argument for tests alone. Expired leases are requeued by whoever claims next,
in a transaction of its own: it has the rows of several jobs, and who has those waits for none.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Update, bindparam, case, delete, func, insert, literal, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from lrtune.errors import LeaseLost
from lrtune.printable import storable
from lrtune.store import attempts, checkpoints, events, lookup, shares, taking, tallies, trials
from lrtune.store.database import Utc, clock, lite
from lrtune.store.tables import AttemptRow, Base, JobRow, ReportRow, TrialRow
from lrtune.wire.job import EXTERNAL, AdmittedJob
from lrtune.wire.results import JobState, Outcome, Report, Stop, Trial, TrialState

_FREE = {"token": None, "lease_until": None}
# Back to where the stage began; what this attempt has trained beyond it counts as not trained.
_AGAIN = _FREE | {"state": TrialState.WAITING, "step": TrialRow.start, "reused": TrialRow.start - TrialRow.paid}
# Made once, and of tables: to make them takes longer than to carry them out.
_attempts, _reports = (Base.metadata.tables[name] for name in ("attempts", "reports"))
_ATTEMPTED = insert(_attempts)
_UNREPORTED = delete(_reports).where(_reports.c.trial == bindparam("of"), _reports.c.step > bindparam("beyond"))
_STARTED = update(JobRow).where(JobRow.seq == bindparam("of"), JobRow.state == JobState.QUEUED)
_STARTED = _STARTED.values(
    state=JobState.RUNNING, reason="", started_at=func.coalesce(JobRow.started_at, bindparam("now", type_=Utc))
)
MAX_DEATHS = 5  # in a row, without getting further: such a trial must not take every worker down in turn


@dataclass(frozen=True, slots=True)
class Lease:
    """A hold on a trial: what to train, and the token that proves the hold."""

    id: int
    token: str
    job: int
    job_id: str
    spec: AdmittedJob
    steps: int
    trial: Trial

    @property
    def began(self) -> int:
        """The step at which the attempt at hand began."""
        return self.trial.stages[-1].start


def claim(
    tx: Session,
    worker: str,
    *,
    ttl: timedelta,
    job_id: str | None = None,
    able: shares.Able | None = None,
    loop: checkpoints.Loop | None = None,
    which: ColumnElement[bool] | None = None,
    now: datetime | None = None,
) -> Lease | None:
    """Take the oldest waiting trial (`which`) of the job that is named, or of the one whose turn it is; or None.

    Where a job is not named, it is one that workers train by themselves; with `able`, one that this worker can. For a
    `loop`, only a trial that it can begin or go on with. Who claims has called `requeue` before, in a transaction of
    its own: this does not.
    """
    now, passed = now or clock(tx), set[int]()
    while job_id is None:
        turn = shares.whose_turn(tx, able, now=now, thinking=False, skip=passed)
        if turn is None:
            return None
        if (lease := _claimed(tx, worker, turn.id, ttl, able, None, which, now)) is not None:
            return lease
        passed.add(turn.seq)  # another was quicker
    return _claimed(tx, worker, job_id, ttl, able, loop, which, now)


def _claimed(
    tx: Session,
    worker: str,
    job_id: str,
    ttl: timedelta,
    able: shares.Able | None,
    loop: checkpoints.Loop | None,
    which: ColumnElement[bool] | None,
    now: datetime,
) -> Lease | None:
    token = uuid.uuid4().hex
    without = tuple(sorted(able.without)) if able is not None else ()
    claimed, shown = taking.oldest(job_id, loop, without, which, now=now)
    shown |= {"ours": token, "ours_until": now + ttl, "by": worker, "because": f"training on {worker}"}
    row = tx.scalars(claimed, shown).one_or_none()
    return None if row is None else _begin(tx, row, worker, token, now, loop)


def _begin(tx: Session, row: TrialRow, worker: str, token: str, now: datetime, loop: checkpoints.Loop | None) -> Lease:
    job = tx.get_one(JobRow, row.job)
    steps = (row.until or row.horizon) - row.start
    charged = None if job.task == EXTERNAL else shares.charge(tx, job, steps)
    if loop is not None and row.start:
        found = checkpoints.latest(tx, row.id, loop)
        step, why = found.step if found else 0, "no loop that lives has its checkpoint"
        trials.go_back(tx, row, step, began=row.start, why=why, now=now)
    stage = {"decision": row.decision, "why": row.stage_why, "start": row.start, "until": row.until, "step": row.start}
    attempt = {"token": token, "trial": row.id, "number": row.attempt, "worker": worker, "started_at": now}
    attempt |= {"loop": loop and asdict(loop), "charged": charged}
    tx.execute(_ATTEMPTED, attempt | stage)
    _unreport(tx, row.id, row.start)  # it may begin earlier than it was to
    goes_on = f" from step {row.start}" if row.start else ""
    until = f" until step {row.until} of {row.horizon}" if row.until else ""
    again = f", after {row.deaths} attempt{'s' * (row.deaths > 1)} that came to nothing" if row.deaths else ""
    message = f"trial {row.number} started on {worker}{goes_on}{until}{again}"
    events.add(tx, row.job, "trial-started", message, now=now, trial=row.number)
    # Under the job's lock, which the log has taken: nobody calls it forsaken at the same moment.
    tx.execute(_STARTED, {"of": row.job, "now": now})
    return leased(tx, row, token)


def begin_again(tx: Session, lease: Lease, step: int, *, why: str, now: datetime | None = None) -> Lease:
    """Let an attempt that has reported nothing begin before the checkpoint it was given. Raises LeaseLost."""
    hold(tx, lease)
    row = tx.scalars(select(TrialRow).where(TrialRow.id == lease.id)).one()
    trials.go_back(tx, row, step, began=lease.began, why=why, now=now or clock(tx))
    checkpoints.distrust(tx, lease.token)
    tx.execute(update(AttemptRow).where(AttemptRow.token == lease.token).values(start=step, step=step))
    _unreport(tx, lease.id, step)
    return leased(tx, row, lease.token)


def again(tx: Session, lease: Lease) -> Lease:
    """The lease as its trial stands now."""
    return leased(tx, tx.scalars(select(TrialRow).where(TrialRow.id == lease.id)).one(), lease.token)


def leased(tx: Session, row: TrialRow, token: str) -> Lease:
    """The lease on a trial, with what the trial has been through."""
    job = tx.get_one(JobRow, row.job)
    spec, trial = lookup.asked(job), trials.detailed(tx, row)
    return Lease(row.id, token, row.job, job.id, spec, job.steps or row.horizon, trial)


def renew(tx: Session, lease: Lease, *, ttl: timedelta, now: datetime | None = None) -> JobState:
    """Stay alive, and hear the job's state: a paused job wants the trial released. Raises LeaseLost."""
    now = now or clock(tx)
    return _touch(tx, _held(lease).values(lease_until=now + ttl))


def report(
    tx: Session, lease: Lease, reports: Sequence[Report], *, ttl: timedelta, now: datetime | None = None
) -> JobState:
    """Write a batch of reports; as good as renewing, with the same news. Raises LeaseLost.

    A trial's reports are a set by step, and the first of a step stands: a batch may come twice, when the first commit's
    answer was lost on the way, or late. Only of the stages before this attempt's are they replaced: where a checkpoint
    was lost those are trained again, and what is reported is of the network that goes on.
    """
    now = now or clock(tx)
    step = max(one.step for one in reports)
    reached = case((TrialRow.step > step, TrialRow.step), else_=step)  # what was taken up may be ahead of its reports
    news = _touch(tx, _held(lease).values(step=reached, lease_until=now + ttl))
    dialect = sqlite if lite(tx) else postgresql
    writing = dialect.insert(ReportRow)
    anew = {name: writing.excluded[name] for name in ("learning_rate", "metrics", "reused")}
    before = ReportRow.step <= lease.trial.start
    writing = writing.on_conflict_do_update(index_elements=["trial", "step"], set_=anew, where=before)
    tx.execute(writing, [{"trial": lease.id, **one.model_dump()} for one in reports])
    return news


def pause(
    tx: Session, lease: Lease, *, value: float | None, step: int, reason: str, now: datetime | None = None
) -> None:
    """End a stage of the trial, which may be resumed from this step. Raises LeaseLost."""
    reached = {"state": TrialState.PAUSED, "value": value, "step": step, "reason": reason}
    got = {"start": step, "paid": step - _reused(step)} | _further(step)
    _end(tx, lease, "paused", reached | got, now or clock(tx))


def finish(
    tx: Session,
    lease: Lease,
    state: TrialState,
    *,
    value: float | None,
    step: int,
    reason: str = "",
    traceback: str = "",
    by: Stop = "pruner",
    now: datetime | None = None,
) -> None:
    """End the trial in an ended state; a `traceback` goes into its event, and who stopped it. Raises LeaseLost."""
    now = now or clock(tx)
    reached = {"state": state, "value": value, "step": step, "reason": reason, "finished_at": now}
    data = {"traceback": storable(traceback)} if traceback else {}
    stopped: dict[str, Any] = {"by": by} if state is TrialState.STOPPED else {}
    _end(tx, lease, "finished", reached | {"stopped_by": stopped.get("by")}, now, **data, **stopped)


def _end(tx: Session, lease: Lease, outcome: Outcome, reached: Mapping[str, Any], now: datetime, **data: Any) -> None:
    state, value, step, reason = (reached[name] for name in ("state", "value", "step", "reason"))
    _touch(tx, _held(lease).values(**reached, reused=_reused(step), **_FREE))
    if lease.spec.external:  # nobody is charged for it
        attempts.end(tx, "token", [lease.token], outcome, now)
    else:
        attempts.close(tx, "token", [lease.token], outcome, now)
    words = f"{state}: {reason}" if reason else f"{state}"
    found = "" if value is None else f", {lease.spec.metric.name} {value:.6g}"
    message, number = f"trial {lease.trial.number} {words}{found}", lease.trial.number
    events.add(tx, lease.job, f"trial-{state}", message, now=now, trial=number, value=value, step=step, **data)
    if state is TrialState.COMPLETE and lease.trial.horizon == lease.steps:
        shares.answered(tx, lease.job)
    tallies.one_ended(tx, lease.id)


def _reused(step: int) -> ColumnElement[int]:
    """The reused steps of a trial that ends after `step`: it may end before all that it could have reused.

    What the stages before this one cost stays paid for.
    """
    most = step - TrialRow.paid
    return case((TrialRow.reused > most, most), else_=TrialRow.reused)


def _further(step: int) -> dict[str, Any]:
    """Who has brought a trial further than anyone before is forgiven the deaths on the way."""
    further = step > TrialRow.furthest
    return {
        "deaths": case((further, 0), else_=TrialRow.deaths),
        "furthest": case((further, step), else_=TrialRow.furthest),
    }


def break_off(tx: Session, lease: Lease, *, step: int, reason: str, now: datetime | None = None) -> None:
    """End an attempt within its stage, which goes on from this step when somebody takes it. Raises LeaseLost."""
    now = now or clock(tx)
    _touch(tx, _held(lease).values(step=step, reason=reason))
    attempts.close(tx, "token", [lease.token], "released", now)
    goes_on = {"state": TrialState.WAITING, "start": step, "reused": _reused(step), "paid": step - _reused(step)}
    goes_on |= _further(step)
    tx.execute(_held(lease).values(goes_on | _FREE | {"attempt": TrialRow.attempt - 1}))
    message = f"trial {lease.trial.number} waits after step {step} of {lease.trial.horizon}: {reason}"
    events.add(tx, lease.job, "trial-released", message, now=now, trial=lease.trial.number, step=step)


def note(tx: Session, lease: Lease, kind: str, message: str, *, now: datetime | None = None, **data: Any) -> None:
    """Write a line about the trial into its job's log. Raises LeaseLost: who has no hold has nothing to say."""
    _touch(tx, _held(lease).values(worker=TrialRow.worker))
    text = f"trial {lease.trial.number}: {message}"
    events.add(tx, lease.job, kind, text, now=now or clock(tx), trial=lease.trial.number, **data)


def note_once(tx: Session, lease: Lease, message: str) -> None:
    """Write a line into the job's log that is as true of all its trials, once. Raises LeaseLost."""
    _touch(tx, _held(lease).values(worker=TrialRow.worker))
    events.add_once(tx, lease.job, "job-noted", message, now=clock(tx), trial=lease.trial.number)


def take_up(
    tx: Session, lease: Lease, *, step: int, reused: int, whose: Sequence[str], now: datetime | None = None
) -> None:
    """Write down that an attempt begins after `step` steps, `reused` of which other trials trained. Raises LeaseLost.

    Steps that earlier stages paid for and whose checkpoint was lost are paid for again. Where the attempt begins
    further than any before, the deaths of the trial's workers so far are forgiven: they had brought it there.
    """
    now = now or clock(tx)
    paid = max(lease.trial.start - lease.trial.reused, step - reused)
    _touch(tx, _held(lease).values(_further(step) | {"step": step, "reused": step - paid}))
    tx.execute(update(AttemptRow).where(AttemptRow.token == lease.token).values(start=step, step=step))
    if step - reused > lease.trial.start - lease.trial.reused:
        # An attempt before this one had got to its checkpoint, even where it was not heard of any more.
        ours = (AttemptRow.trial == lease.id, AttemptRow.decision == lease.trial.decision)
        gone = select(AttemptRow.token).where(*ours, AttemptRow.outcome.in_(("lost", "released")))
        last = gone.order_by(AttemptRow.started_at.desc(), AttemptRow.number.desc()).limit(1).scalar_subquery()
        reached = update(AttemptRow).where(AttemptRow.token == last, AttemptRow.step < step)
        tx.execute(reached.values(step=step, cost=step - AttemptRow.start))
    names = ", ".join(name.removeprefix(f"{lease.job_id}/") for name in whose)
    others = f", {reused} of them trained by trial{'s' if len(whose) > 1 else ''} {names}" if reused else ""
    message = f"trial {lease.trial.number} starts after step {step} of {lease.trial.horizon}{others}"
    events.add(tx, lease.job, "trial-taken-up", message, now=now, trial=lease.trial.number, step=step, reused=reused)


def release(
    tx: Session,
    lease: Lease,
    *,
    reason: str,
    blocked_by: tuple[int, int] | None = None,
    now: datetime | None = None,
) -> None:
    """Give the trial back unharmed; it costs no attempt. Raises LeaseLost.

    `blocked_by` is the row and the step of another trial: while that one trains towards the step, this one waits.
    """
    now = now or clock(tx)
    waiting: dict[str, Any] = _AGAIN | {"attempt": TrialRow.attempt - 1}
    waiting |= {"blocked_by": blocked_by[0], "blocked_until": blocked_by[1]} if blocked_by else {}
    _touch(tx, _held(lease).values(reason=reason))  # everybody locks a trial before its attempts
    attempts.close(tx, "token", [lease.token], "released", now)
    tx.execute(_held(lease).values(waiting))
    _unreport(tx, lease.id, lease.trial.start)
    message = f"trial {lease.trial.number} released: {reason}"
    events.add(tx, lease.job, "trial-released", message, now=now, trial=lease.trial.number)


def give_back(tx: Session, lease: Lease, *, reason: str, now: datetime | None = None) -> None:
    """Give the trial back as a loop does that does not train it: counted like a death. Raises LeaseLost."""
    now = now or clock(tx)
    times = tx.scalar(_held(lease).values(deaths=TrialRow.deaths + 1).returning(TrialRow.deaths))
    if times is None:
        raise LeaseLost
    if times < MAX_DEATHS:
        release(tx, lease, reason=reason, now=now)
        return
    _unreport(tx, lease.id, lease.trial.start)
    often = f"its loops died or gave it back {MAX_DEATHS} times and got no further; the last time: {reason}"
    finish(tx, lease, TrialState.FAILED, value=None, step=lease.trial.start, reason=often, now=now)


def hold(tx: Session, lease: Lease) -> None:
    """Make sure that the trial is still ours, for a line in its job's log. Raises LeaseLost."""
    if tx.scalars(select(TrialRow.id).where(*_ours(lease))).first() is None:
        raise LeaseLost


_RUNNING = literal(str(TrialState.RUNNING), literal_execute=True)  # so that the partial index will do
EXPIRED = select(TrialRow).where(TrialRow.state == _RUNNING, TrialRow.lease_until < bindparam("now", type_=Utc))
_REQUEUED = EXPIRED.order_by(TrialRow.job + 0).with_for_update(skip_locked=True)


def requeue(tx: Session, *, now: datetime) -> bool:
    """Put trials whose lease has run out back to waiting; fail those whose workers die without getting further.

    Where there was one, nothing else is to be done in this transaction.
    """
    rows = tx.scalars(_REQUEUED, {"now": now}).all()
    if rows:
        shares.settle(tx, "token", [row.token for row in rows if row.token], "lost", now)
    for row in rows:
        _lost(tx, row, f"nothing was heard of {row.worker} for longer than its lease", now)
    return bool(rows)


def lose(tx: Session, lease: Lease, *, reason: str, now: datetime | None = None) -> None:
    """Give up an attempt, as if its worker had died: a process that the worker needed is gone. Raises LeaseLost."""
    row = tx.scalars(select(TrialRow).where(*_ours(lease)).with_for_update()).one_or_none()
    if row is None:
        raise LeaseLost
    now = now or clock(tx)
    shares.settle(tx, "token", [lease.token], "lost", now)
    _lost(tx, row, reason, now)


def _lost(tx: Session, row: TrialRow, reason: str, now: datetime) -> None:
    """Put a trial back to waiting; fail it after too many deaths."""
    attempts.end(tx, "token", [row.token or ""], "lost", now)
    if row.deaths + 1 < MAX_DEATHS:
        values = _AGAIN | {"reason": reason}
    else:
        dead = f"its workers died {MAX_DEATHS} times and got no further; the last time: {reason}"
        values = _AGAIN | {"state": TrialState.FAILED, "reason": dead, "finished_at": now}
    tx.execute(update(TrialRow).where(TrialRow.id == row.id).values(values | {"deaths": row.deaths + 1}))
    _unreport(tx, row.id, row.start)
    message = f"trial {row.number}: {values['reason']}"
    events.add(tx, row.job, f"trial-{values['state']}", message, now=now, trial=row.number)
    tallies.one_ended(tx, row.id)  # where it has failed


def _unreport(tx: Session, trial: int, beyond: int) -> None:
    """Forget what was reported of steps that do not count: they are trained again, or nobody knows of what they were.

    A trial may be cancelled before somebody takes it again, so this is not left to who does.
    """
    tx.execute(_UNREPORTED, {"of": trial, "beyond": beyond})


def _ours(lease: Lease) -> tuple[ColumnElement[bool], ...]:
    """This trial, if the lease is still ours."""
    return TrialRow.id == lease.id, TrialRow.token == lease.token, TrialRow.state == TrialState.RUNNING


def _held(lease: Lease) -> Update:
    return update(TrialRow).where(*_ours(lease))


def _touch(tx: Session, statement: Update) -> JobState:
    """Change a trial that is ours, and hear its job's state. Raises LeaseLost."""
    state = select(JobRow.state).where(JobRow.seq == TrialRow.job).scalar_subquery()
    found = tx.execute(statement.returning(state)).all()
    if not found:
        raise LeaseLost
    return JobState(found[0][0])
