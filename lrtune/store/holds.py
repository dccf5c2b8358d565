"""The leases of trials by what loops of the user's own show: job, number, token. The verbs stand in `leases.py`.

Loops by the dozen report at the same moment, so this is read and written for as many as there are, in as many
statements as for one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache, lru_cache
from types import SimpleNamespace
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Select, Text, bindparam, cast, func, insert, select, update
from sqlalchemy.orm import Session

from lrtune.errors import LeaseLost, LrtuneError, NotExternal, UnreadableJob
from lrtune.store import events, leases, lookup, trials
from lrtune.store.database import as_time, time
from lrtune.store.leases import Lease
from lrtune.store.tables import AttemptRow, Base
from lrtune.wire.configuration import Configuration
from lrtune.wire.results import ENDED, JobState, Report, Trial, TrialState

NOTED, MAX_REMARKS = "trial-noted", 100  # lines in a job's log about each trial of its loops
# As tables, for what is read and written with every report: objects of rows would cost more than all the rest.
_jobs, _trials, _attempts, _reports = (Base.metadata.tables[name] for name in ("jobs", "trials", "attempts", "reports"))
_STAGE = ("number", *trials.STAGE_FIELDS)
_COLUMNS = (
    *(column for column in _trials.c if column.name != "configuration"),
    cast(_trials.c.configuration, Text).label("configuration"),
    *(_attempts.c[name].label(f"attempt_{name}") for name in ("token", *_STAGE)),
    *(_jobs.c[name].label(f"job_{name}") for name in ("id", "steps", "state", "release")),
    cast(_jobs.c.spec, Text).label("spec"),
)
_FROM = _attempts.join(_trials, _trials.c.id == _attempts.c.trial).join(_jobs, _jobs.c.seq == _trials.c.job)
_HOLDING = (
    select(func.count())
    .select_from(_trials)
    .where(
        _trials.c.job == bindparam("job"),
        _trials.c.state == TrialState.RUNNING,
        _trials.c.worker == bindparam("worker"),
    )
)
_RENEWED = update(_trials).where(_trials.c.id == bindparam("held"))
_RENEWED = _RENEWED.values(step=bindparam("reached"), lease_until=bindparam("ours_until"))


@dataclass(frozen=True, slots=True)
class Held:
    """A lease, its job's state, and the database's time; `over` when its trial has ended while it was held.

    Of the trial's stages it has the one at hand, and of its reports, of which there are `reported`, all or, where they
    are `known`, the newest.
    """

    lease: Lease
    over: bool
    news: JobState
    now: datetime
    reported: int
    known: bool


class Known(NamedTuple):
    """A trial's newest report, and how many it has."""

    newest: Report
    total: int


class Shown(NamedTuple):
    """What a loop shows: the job and the number of a trial, and the token that it came with."""

    job_id: str
    number: int
    token: str


def held(tx: Session, shown: Shown) -> Held:
    """The lease that a token stands for; nobody else writes to its trial until the transaction ends.

    Raises UnknownJob, NotExternal, UnknownTrial, LeaseLost.
    """
    found = held_each(tx, [shown])[0]
    if found is None:
        raise _unknown(tx, shown)
    if isinstance(found, LrtuneError):
        raise found
    return found


def held_each(
    tx: Session, shown: Sequence[Shown], *, wait: bool = True, known: Mapping[str, Known] = {}
) -> list[Held | LrtuneError | None]:
    """The leases that tokens stand for, in order; None for a token that no trial of this number had.

    Without `wait` also for one whose trial somebody else writes to: who has several waits for none, so that two never
    wait for each other. Of trials whose newest report is `known` by token, and of the step that they have reached,
    no other is read.
    """
    rows = tx.connection().execute(_query(time(tx), wait), {"tokens": [one.token for one in shown]}).all()
    by_token = {Shown(row.job_id, row.number, row.attempt_token): row for row in rows}
    enough = {row.id: one for row in rows if (one := known.get(row.attempt_token)) and one.newest.step == row.step}
    reports = trials.reports(tx, [row.id for row in rows if row.id not in enough])
    found = dict[Shown, Held | LrtuneError]()
    for shows, row in by_token.items():
        found[shows] = _held(tx, row, reports.get(row.id, ()), enough.get(row.id))
    return [found.get(one) for one in shown]


@cache  # to make it, and to see that it is the same, takes as long as what it finds
def _query(now: ColumnElement[Any], wait: bool) -> Select[Any]:
    """What is read of trials that are held, by `tokens`, each of which is locked."""
    query = select(*_COLUMNS, now.label("now")).select_from(_FROM)
    query = query.where(_attempts.c.token.in_(bindparam("tokens", expanding=True))).order_by(_trials.c.id)
    return query.with_for_update(of=_trials, skip_locked=not wait)


def _held(tx: Session, row: Any, reports: Sequence[Any], known: Known | None) -> Held | LrtuneError:
    try:
        spec, token = lookup.admitted(row.job_id, row.spec, row.job_release), row.attempt_token
    except UnreadableJob as error:
        return error
    if not spec.over_http:
        return NotExternal()
    live = row.token == token and row.state == TrialState.RUNNING
    # Whoever had the trial before us may have ended its attempt.
    outcome = None if live else tx.scalar(select(AttemptRow.outcome).where(AttemptRow.token == token))
    if not live and outcome != "paused" and not (row.state in ENDED and outcome in (None, "finished", "cancelled")):
        return LeaseLost(_lost(row, outcome))
    stage = SimpleNamespace(**{name: getattr(row, f"attempt_{name}") for name in _STAGE} | {"outcome": outcome})
    seen = reports if known is None else [known.newest]
    trial = trials.view(row, seen, [stage], configuration=_configured(row.configuration))
    lease = Lease(row.id, token, row.job, row.job_id, spec, row.job_steps or row.horizon, trial)
    reported = len(reports) if known is None else known.total
    return Held(lease, not live, JobState(row.job_state), as_time(row.now), reported, known=known is not None)


@lru_cache(maxsize=4096)
def _configured(configuration: str) -> Configuration:
    """A trial's configuration, the same."""
    return Configuration.model_validate_json(configuration)


def _unknown(tx: Session, shown: Shown) -> LrtuneError:
    """Why there is no lease of this token. Raises UnknownJob, UnknownTrial."""
    job = lookup.job(tx, shown.job_id)
    if not lookup.asked(job).over_http:
        return NotExternal()
    row = lookup.trial(tx, job, shown.number)
    return LeaseLost(f"trial {row.number} was never handed out with this token")


class Heard(NamedTuple):
    """What a loop has said of a trial that is held: new reports, if any, and how the trial is with them."""

    held: Held
    trial: Trial
    reports: Sequence[Report]
    ttl: timedelta


def write(tx: Session, heard: Sequence[Heard]) -> None:
    """Renew leases that are held, and write down their reports, which are of steps that had none."""
    if not heard:
        return
    connection = tx.connection()
    to = [{"held": h.held.lease.id, "reached": h.trial.step, "ours_until": h.held.now + h.ttl} for h in heard]
    connection.execute(_RENEWED, to)
    if rows := [{"trial": one.held.lease.id, **dict(report)} for one in heard for report in one.reports]:
        connection.execute(insert(_reports), rows)


def count(tx: Session, job: int, worker: str) -> int:
    """How many trials of a job somebody holds."""
    return tx.scalar(_HOLDING, {"job": job, "worker": worker}) or 0


def remark(tx: Session, lease: Lease, said: str) -> None:
    """Write down what a loop says of its trial; the same twice in a row, or more than enough, is not. Raises LeaseLost.

    It comes twice where the answer was lost on the way.
    """
    newest, count = events.of_trial(tx, lease.job, lease.trial.number, NOTED)
    if count < MAX_REMARKS and (newest is None or newest.kind != NOTED or not newest.message.endswith(f": {said}")):
        leases.note(tx, lease, NOTED, said)


def _lost(row: Any, outcome: str | None) -> str:
    """What became of the trial meanwhile, in words."""
    if outcome == "released":
        return f"trial {row.number} was given back under this lease; ask for a trial again"
    now = f"{row.worker} trains it now, as attempt {row.attempt}" if row.token else f"it is {row.state} now"
    return f"the lease on trial {row.number} ran out, because nothing was heard for too long, and {now}; drop this run"
