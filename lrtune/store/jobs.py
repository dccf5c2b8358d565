"""Jobs: submitting, reading, and the verbs that change one. What a job looks like from outside is put together here."""

import hashlib
import json
import secrets
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Text, and_, bindparam, cast, exists, false, func, select, update
from sqlalchemy import delete as sql_delete
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, defer

from lrtune import __version__
from lrtune.errors import IdempotencyKeyReused, JobFinished, JobNotFinished, NoResultYet, UnreadableJob
from lrtune.store import (
    attempts,
    audit_log,
    events,
    leases,
    lookup,
    progress,
    serving,
    shares,
    tallies,
    trials,
    warm_start,
    webhooks,
    workers,
)
from lrtune.store.database import clock
from lrtune.store.tables import AttemptRow, EventRow, JobRow, TagRow, TrialRow
from lrtune.wire.job import EXTERNAL, AdmittedJob
from lrtune.wire.people import ADMIN
from lrtune.wire.results import ACTIVE, OPEN, OVER, Best, Job, JobState, NextStep, TrialState, Worker

STOPPED = "search stopped"
# What each asks for comes as text, which is parsed once. Made once: to make it takes as long as what it finds.
_SEVERAL = select(JobRow, cast(JobRow.spec, Text)).options(defer(JobRow.spec, raiseload=True))
_SEVERAL = _SEVERAL.where(JobRow.id.in_(bindparam("ids", expanding=True)))
SOON = timedelta(seconds=10)  # after a job was resumed or extended: loops that wait ask for a trial each two seconds
SILENT = timedelta(seconds=90)  # after a trial's end: no loop takes so long to ask for the next one


def no_longer(state: str) -> str:
    """Why nothing is done to a job that is over, and what can be."""
    again = "submit it again instead" if state == JobState.CANCELLED else "`extend` gives it a larger budget"
    return f"the job is over ({state}), so this no longer applies; {again}"


def create(
    tx: Session,
    spec: AdmittedJob,
    *,
    owner: str = ADMIN,
    only: str | None = None,
    idempotency_key: str | None = None,
    beside: str = "",
    action: str = "job-submitted",
    allow: Callable[[], object] = lambda: None,
    now: datetime | None = None,
) -> tuple[Job, bool]:
    """Queue a job of `owner`, whose key it is; (the job, whether it is new). The key is also for what is `beside`.

    `allow` is asked before a new one is made; where there is one whose jobs `only` they see, it learns from no others.
    Raises IdempotencyKeyReused, Invalid (for jobs to learn from), and what `allow` raises.
    """
    body = spec.model_dump(mode="json")
    digest = hashlib.sha256((json.dumps(body, sort_keys=True) + beside).encode()).hexdigest()
    if found := _same(tx, owner, idempotency_key, digest):
        return view(tx, found), False
    allow()
    now = now or clock(tx)
    body = warm_start.resolved(tx, spec, only=only).model_dump(mode="json")
    row = JobRow(id=f"job-{secrets.token_hex(8)}", state=JobState.QUEUED, spec=body, digest=digest, created_at=now)
    row.owner, row.task, row.release = owner, spec.task.name, __version__
    row.idempotency_key, row.steps, row.size = idempotency_key, spec.horizon.steps, spec.horizon.steps or 0
    row.rank, row.device, row.memory_gb = -spec.priority, spec.resources.device, spec.resources.memory_gb
    shares.join(tx, owner)
    try:
        with tx.begin_nested():
            tx.add(row)
    except IntegrityError:  # the same key came in at the same moment
        return view(tx, _same(tx, owner, idempotency_key, digest) or row), False
    tx.add_all(TagRow(job=row.seq, key=key, value=value) for key, value in spec.tags.items())
    why = workers.unserved(spec, workers.alive(tx, now=now))
    words = f"job {row.id} submitted by {owner}" + (f"; {why}" if why else "")
    events.add(tx, row.seq, serving.SUBMITTED, words, now=now, by=owner, **serving.lacks(why))
    said = {"task": spec.task.name, "name": spec.name, "full_runs": spec.most_runs}
    audit_log.add(tx, owner, action, row.id, now=now, **said)
    webhooks.arm(tx, row.seq, spec.webhook, now=now)
    warm_start.log(tx, row, now=now)
    return view(tx, row), True


def _same(tx: Session, owner: str, key: str | None, digest: str) -> JobRow | None:
    query = select(JobRow).where(JobRow.owner == owner, JobRow.idempotency_key == key)
    row = tx.scalars(query).one_or_none() if key is not None else None
    if row is not None and row.digest != digest:
        raise IdempotencyKeyReused
    return row


def get(tx: Session, job_id: str) -> Job:
    """A job as it stands. Raises UnknownJob."""
    return view(tx, lookup.job(tx, job_id))


def several(tx: Session, job_ids: Sequence[str]) -> Mapping[str, Job]:
    """Jobs as they stand, by their ids: those that there are."""
    found = tx.execute(_SEVERAL, {"ids": job_ids}).all()
    rows = [(row, lookup.admitted(row.id, spec, row.release)) for row, spec in found]
    return {job.id: job for job in views(tx, rows)}


@dataclass(frozen=True, slots=True)
class Outline:
    """What there is to know of a job before it is given a trial; `now` is the database's time.

    As long as somebody has the `row`, it is not read again in the same transaction.
    """

    row: JobRow
    spec: AdmittedJob
    now: datetime

    @property
    def seconds(self) -> float:
        """Since it began."""
        return (self.now - self.row.started_at).total_seconds() if self.row.started_at else 0.0


def outline(tx: Session, job_id: str) -> Outline:
    """A job without what its trials have come to. Raises UnknownJob."""
    row, now = lookup.job_now(tx, job_id)
    return Outline(row, lookup.asked(row), now)


def state(tx: Session, job_id: str) -> JobState:
    """A job's state alone, for those who ask often. Raises UnknownJob."""
    return JobState(lookup.job(tx, job_id).state)


def admitted(tx: Session, job_id: str) -> AdmittedJob:
    """The job as it was admitted. Raises UnknownJob."""
    return lookup.asked(lookup.job(tx, job_id))


def best(tx: Session, job_id: str) -> Best:
    """The answer so far. Raises UnknownJob, NoResultYet."""
    row = lookup.job(tx, job_id)
    found = progress.best(tx, row, lookup.asked(row), tallies.counts(tx, row.seq))
    if found is None:
        raise NoResultYet(_no_result(row))
    return found


def _no_result(row: JobRow) -> str:
    """Why there is no answer, and will be none by itself; nothing where there may be one yet."""
    if row.state == JobState.FAILED:
        return "the job failed, so there is no answer" + (f": {row.reason}" if row.reason else "")
    if row.state in OVER:
        return f"the job is over ({row.reason or row.state}), and no trial of it has finished over the whole horizon"
    return ""


def cancel(tx: Session, job_id: str, *, by: str = "", now: datetime | None = None) -> Job:
    """Stop a job for good; its trials are cancelled, the workers hear of it. Raises UnknownJob, JobFinished."""
    if state(tx, job_id) != JobState.CANCELLED:
        end(tx, job_id, JobState.CANCELLED, reason=f"cancelled by {by or 'the user'}", by=by, now=now)
    return get(tx, job_id)


def end(tx: Session, job_id: str, state: JobState, *, reason: str, by: str = "", now: datetime | None = None) -> None:
    """Bring a job to an end, and with it whatever is still open. Raises JobFinished when it has ended otherwise."""
    now = now or clock(tx)
    gone = _cancel_open(tx, job_id, reason, now)
    row = _change(tx, job_id, to=state, unless=OVER, reason=reason, by=by, now=now)
    tallies.ended(tx, TrialRow.id.in_(gone))
    # Paused trials belong to nobody, and who resumes one has the job's row first.
    words = f"the job ended while it was paused: {reason}" if reason else "the job ended while it was paused"
    left = {"state": TrialState.STOPPED, "reason": words, "stopped_by": "budget", "finished_at": now}
    paused = and_(TrialRow.job == row.seq, TrialRow.state == TrialState.PAUSED)
    tallies.becomes(tx, paused, TrialState.STOPPED)
    tx.execute(update(TrialRow).where(paused).values(left))
    row.finished_at = now


def carry_out(tx: Session, job_id: str, step: NextStep, *, known: int) -> None:
    """Do what the search has said that a job needs next, after `known` decisions.

    Nothing is done where more was decided by now, by the search or by people: whoever comes next asks it again.
    """
    if step.proposal is not None:
        for place, proposal in enumerate([step.proposal, *step.more]):
            if not trials.propose(tx, job_id, proposal, known=known + place):
                break
    elif step.stopped:
        trials.stop(tx, job_id, step, known=known)
    elif step.over and lookup.job(tx, job_id, lock=True).decisions == known:
        state = JobState.FAILED if step.failure else JobState.SUCCEEDED
        end(tx, job_id, state, reason=step.failure or step.reason)


def _cancel_open(tx: Session, job_id: str, reason: str, now: datetime) -> list[int]:
    """Cancel the trials that are open, and hold the job's row once none is; their ids.

    Whoever takes a trial has its row, then its owner's share, then its job: where one was proposed before the job's row
    was ours, all is let go and begun again.
    """
    which = and_(TrialRow.job == lookup.job(tx, job_id).seq, TrialRow.state.in_(OPEN))
    gone = {"state": TrialState.CANCELLED, "reason": reason, "finished_at": now, "token": None, "lease_until": None}
    while True:
        held = tx.begin_nested()
        ids = list(tx.scalars(select(TrialRow.id).where(which).order_by(TrialRow.id).with_for_update()))
        tx.execute(update(TrialRow).where(TrialRow.id.in_(ids)).values(gone))
        attempts.close(tx, "trial", ids, "cancelled", now)
        lookup.job(tx, job_id, lock=True)
        if not tx.scalar(select(exists().where(which))):
            held.commit()
            return ids
        held.rollback()


def pause(tx: Session, job_id: str, *, by: str = "", now: datetime | None = None) -> Job:
    """Hold a job: workers release its trials. Raises UnknownJob, JobFinished."""
    reason = f"paused by {by or 'the user'}"
    _change(tx, job_id, to=JobState.PAUSED, unless=OVER, reason=reason, by=by, now=now or clock(tx))
    return get(tx, job_id)


def resume(tx: Session, job_id: str, *, by: str = "", now: datetime | None = None) -> Job:
    """Let a paused job go on. Raises UnknownJob, JobFinished."""
    row = lookup.job(tx, job_id)
    if row.state not in ACTIVE:
        to = JobState.RUNNING if row.started_at else JobState.QUEUED
        _change(tx, job_id, to=to, unless=OVER, reason="", by=by, action="resumed", now=now or clock(tx))
    return get(tx, job_id)


def delete(tx: Session, job_id: str, *, by: str = "") -> None:
    """Forget a finished job, or one that cannot be read, and all of it. Raises UnknownJob, JobNotFinished."""
    if (row := lookup.job(tx, job_id)).state not in OVER:
        try:
            lookup.asked(row)
        except UnreadableJob as error:  # nobody can go on with it
            end(tx, job_id, JobState.CANCELLED, reason=str(error), by=by)
    row = lookup.job(tx, job_id, lock=True)
    if row.state not in OVER:
        raise JobNotFinished(f"the job is {row.state}; only a finished one can be deleted, so cancel it first")
    audit_log.add(tx, by, "job-deleted", row.id, owner=row.owner, task=row.task, name=row.spec.get("name", ""))
    tx.execute(sql_delete(JobRow).where(JobRow.seq == row.seq))


def set_steps(tx: Session, job_id: str, steps: int, *, now: datetime | None = None) -> None:
    """Write down how many steps the job's epochs are; the first worker that opens the task knows."""
    row = lookup.job(tx, job_id, lock=True)
    if row.steps is None:
        row.steps, row.size = steps, row.size or steps
        events.add(tx, row.seq, "horizon", f"the horizon is {steps} steps", now=now or clock(tx))


def for_commands(tx: Session, commands: Collection[str]) -> list[str]:
    """The active jobs that one of these commands trains."""
    query = select(JobRow.id).where(JobRow.state.in_(ACTIVE), lookup.command(JobRow), JobRow.task.in_(commands))
    return list(tx.scalars(query))


def note(tx: Session, job_id: str, kind: str, message: str) -> None:
    """Write a line into a job's log, if that does not have it yet. Raises UnknownJob."""
    row = lookup.job(tx, job_id, lock=True)
    said = exists().where(EventRow.job == row.seq, EventRow.kind == kind, EventRow.message == message)
    if not tx.scalar(select(said)):
        events.add(tx, row.seq, kind, message, now=clock(tx))


def forsake(tx: Session, *, now: datetime | None = None) -> None:
    """Queue the jobs again that are called running but whose loops are gone."""
    now = now or clock(tx)
    reason = "no loop asks for its trials; yours goes on with it when it is started again with this job's id or name"
    for job_id in tx.scalars(select(JobRow.id).where(_forsaken(now)).order_by(JobRow.seq)).all():
        tx.execute(select(JobRow.seq).where(JobRow.id == job_id).with_for_update())
        # Nobody came in between, nor was it deleted.
        if tx.scalar(select(JobRow.seq).where(JobRow.id == job_id, _forsaken(now))):
            _change(tx, job_id, to=JobState.QUEUED, unless=OVER, reason=reason, now=now)


def expired(tx: Session) -> bool:
    """Whether there is a lease to requeue or a job to forsake."""
    now = clock(tx)
    return tx.scalar(select(leases.EXPIRED.exists() | exists().where(_forsaken(now))), {"now": now}) or False


def _forsaken(now: datetime) -> ColumnElement[bool]:
    """A job of a loop of the user's own that is called running, but nobody trains a trial of it.

    Between two trials a loop is there, though it holds nothing; one that died, failed or gave its trial back is not.
    Nor is one gone that had no time yet to hear that its job goes on.
    """
    own = TrialRow.job == JobRow.seq
    held = exists().where(own, TrialRow.state == TrialState.RUNNING)
    here = and_(
        AttemptRow.outcome.in_(("finished", "paused")),
        AttemptRow.ended_at > now - SILENT,
        TrialRow.state != TrialState.FAILED,
    )
    attempts = select(here).join(TrialRow, TrialRow.id == AttemptRow.trial).where(own, AttemptRow.ended_at.is_not(None))
    last = attempts.order_by(AttemptRow.ended_at.desc()).limit(1).correlate(JobRow).scalar_subquery()
    gone = func.coalesce(last, false()) == false()
    newest = EventRow.job == JobRow.seq, EventRow.number == JobRow.events
    went_on = exists().where(*newest, EventRow.kind.in_(("job-running", "job-extended")), EventRow.at > now - SOON)
    return and_(JobRow.state == JobState.RUNNING, JobRow.task == EXTERNAL, ~held, gone, ~went_on)


def _change(
    tx: Session,
    job_id: str,
    *,
    to: JobState,
    unless: tuple[JobState, ...],
    reason: str,
    now: datetime,
    by: str = "",
    action: str = "",
) -> JobRow:
    """Bring a job into a state; where somebody did it the log and the audit log name them and the `action`."""
    row = lookup.job(tx, job_id, lock=True)
    if row.state in unless and row.state != to:
        raise JobFinished(no_longer(row.state))
    if row.state != to:
        row.state, row.reason = to, reason
        tx.flush()
        words = reason or f"{action}{named(by)}"
        events.add(tx, row.seq, f"job-{to}", f"job {to}" + (f": {words}" if words else ""), now=now, **actor(by))
        audit_log.add(tx, by, f"job-{action or to}", row.id, now=now)
    return row


def named(somebody: str) -> str:
    """Who did something, in a line of the log."""
    return f" by {somebody}" if somebody else ""


def actor(somebody: str) -> dict[str, Any]:
    """Who did something, in the data of an event."""
    return {"by": somebody} if somebody else {}


def _reason(row: JobRow) -> str:
    """Why a job is as it is, and whether its search was stopped, as long as it is not over."""
    stopped = row.stopped_at is not None and row.state not in OVER
    return "; ".join(filter(None, (row.reason, STOPPED if stopped else "")))


def view(tx: Session, row: JobRow) -> Job:
    """A job's row as it looks from outside."""
    return next(views(tx, [(row, lookup.asked(row))]))


def views(tx: Session, rows: Sequence[tuple[JobRow, AdmittedJob]]) -> Iterator[Job]:
    """The same of several and what they ask for, one after the other; what is asked of all is asked once."""
    counts = tallies.counts_of(tx, [row.seq for row, _ in rows])
    living: list[Worker] | None = None
    for row, spec in rows:
        lacks = ""
        if row.state in ACTIVE and not spec.external:
            living = workers.alive(tx) if living is None else living
            lacks = workers.unserved(spec, living)
        yield _view(tx, row, spec, counts[row.seq], lacks)


def _view(tx: Session, row: JobRow, spec: AdmittedJob, counts: progress.Counts, lacks: str) -> Job:
    return Job(
        id=row.id,
        owner=row.owner,
        state=JobState(row.state),
        reason=_reason(row),
        spec=spec,
        steps=row.steps,
        progress=progress.progress(tx, row, spec, counts),
        best=progress.best(tx, row, spec, counts),
        created_at=row.created_at,
        started_at=row.started_at,
        stopped_at=row.stopped_at,
        finished_at=row.finished_at,
        waiting_for=lacks,
    )
