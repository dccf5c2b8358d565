"""The lease of a trial by what a loop of the user's own shows: job, number, token. The verbs stand in `leases.py`."""

from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from lrtune.errors import LeaseLost, NotExternal
from lrtune.store import events, leases, lookup
from lrtune.store.leases import Lease, leased
from lrtune.store.tables import AttemptRow, TrialRow
from lrtune.wire.job import AdmittedJob
from lrtune.wire.results import ENDED, TrialState

NOTED, MAX_REMARKS = "trial-noted", 100  # lines in a job's log about each trial of its loops


@dataclass(frozen=True, slots=True)
class Held:
    """A lease; `over` when its trial has ended while it was held, so that there is only that to hear."""

    lease: Lease
    over: bool


def held(tx: Session, job_id: str, number: int, token: str) -> Held:
    """The lease that a token stands for; nobody else writes to its trial until the transaction ends.

    Raises UnknownJob, NotExternal, UnknownTrial, LeaseLost.
    """
    job = lookup.job(tx, job_id)
    spec = AdmittedJob.model_validate(job.spec)
    if not spec.over_http:
        raise NotExternal
    row = lookup.trial(tx, job, number, lock=True)
    attempt = tx.scalars(select(AttemptRow).where(AttemptRow.token == token, AttemptRow.trial == row.id)).one_or_none()
    live = row.token == token and row.state == TrialState.RUNNING
    ended = row.state in ENDED and attempt is not None and attempt.outcome in (None, "finished", "cancelled")
    ended = ended or (attempt is not None and attempt.outcome == "paused")
    if not live and not ended:
        raise LeaseLost(_lost(row, attempt))
    return Held(leased(tx, row, token), over=ended)


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
