"""The lease of a trial by what a loop of the user's own shows: job, number, token. The verbs stand in `leases.py`."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import and_, func, select
from sqlalchemy.orm import Session

from lrtune.errors import LeaseLost, NotExternal, UnknownTrial
from lrtune.store import events, leases, lookup, trials
from lrtune.store.database import as_time, time
from lrtune.store.leases import Lease
from lrtune.store.tables import AttemptRow, JobRow, TrialRow
from lrtune.wire.job import AdmittedJob
from lrtune.wire.results import ENDED, TrialState

NOTED, MAX_REMARKS = "trial-noted", 100  # lines in a job's log about each trial of its loops


@dataclass(frozen=True, slots=True)
class Held:
    """A lease, and the database's time; `over` when its trial has ended while it was held: there is only that to hear.

    Of the trial's stages it has the one at hand.
    """

    lease: Lease
    over: bool
    now: datetime


def held(tx: Session, job_id: str, number: int, token: str) -> Held:
    """The lease that a token stands for; nobody else writes to its trial until the transaction ends.

    Raises UnknownJob, NotExternal, UnknownTrial, LeaseLost.
    """
    ours = and_(AttemptRow.trial == TrialRow.id, AttemptRow.token == token)
    query = select(JobRow, TrialRow, AttemptRow, time(tx)).join(TrialRow, TrialRow.job == JobRow.seq)
    query = query.outerjoin(AttemptRow, ours).where(JobRow.id == job_id, TrialRow.number == number)
    found = tx.execute(query.with_for_update(of=TrialRow)).one_or_none()
    job, row, attempt, now = found or (lookup.job(tx, job_id), None, None, None)
    spec = AdmittedJob.model_validate(job.spec)
    if not spec.over_http:
        raise NotExternal
    if row is None:
        raise UnknownTrial(f"job {job.id} has no trial {number}")
    live = row.token == token and row.state == TrialState.RUNNING
    if not live and attempt is not None:
        tx.refresh(attempt)  # it ended in the transaction that had the trial before us
    ended = row.state in ENDED and attempt is not None and attempt.outcome in (None, "finished", "cancelled")
    ended = ended or (attempt is not None and attempt.outcome == "paused")
    if attempt is None or not (live or ended):
        raise LeaseLost(_lost(row, attempt))
    trial = trials.reported(tx, row, [attempt])
    lease = Lease(row.id, token, job.seq, job.id, spec, job.steps or row.horizon, trial)
    return Held(lease, over=ended, now=as_time(now))


def count(tx: Session, job_id: str, worker: str) -> int:
    """How many trials of a job somebody holds. Raises UnknownJob."""
    job = lookup.job(tx, job_id).seq
    mine = TrialRow.job == job, TrialRow.state == TrialState.RUNNING, TrialRow.worker == worker
    return tx.scalar(select(func.count()).select_from(TrialRow).where(*mine)) or 0


def remark(tx: Session, lease: Lease, said: str) -> None:
    """Write down what a loop says of its trial; the same twice in a row, or more than enough, is not. Raises LeaseLost.

    It comes twice where the answer was lost on the way.
    """
    newest, count = events.of_trial(tx, lease.job, lease.trial.number, NOTED)
    if count < MAX_REMARKS and (newest is None or newest.kind != NOTED or not newest.message.endswith(f": {said}")):
        leases.note(tx, lease, NOTED, said)


def _lost(row: TrialRow, attempt: AttemptRow | None) -> str:
    """What became of the trial meanwhile, in words."""
    if attempt is None:
        return f"trial {row.number} was never handed out with this token"
    if attempt.outcome == "released":
        return f"trial {row.number} was given back under this lease; ask for a trial again"
    now = f"{row.worker} trains it now, as attempt {row.attempt}" if row.token else f"it is {row.state} now"
    return f"the lease on trial {row.number} ran out, because nothing was heard for too long, and {now}; drop this run"
