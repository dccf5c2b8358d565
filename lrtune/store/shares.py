"""Whose turn it is: which job a free worker serves. Owners share the workers by their weights, whatever they submit.

This is start-time fair queueing (Goyal et al. 1996) over seconds of training: each trial that a worker takes is charged
to its owner, divided by the owner's weight, and the owner who has the least comes next. What a trial will take is
estimated as it is taken, and put right at its end. Who comes back after a while begins where the others are (`SAVED`
behind, at most), so nobody saves up.

An owner's own jobs come by their priority, then the one with the shortest way to its first answer, then the oldest. But
each fourth trial is of the job that has waited longest, so that none of them starves.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache, lru_cache
from typing import Any, Literal

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Double,
    Row,
    ScalarSelect,
    Select,
    String,
    and_,
    bindparam,
    case,
    func,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session, aliased
from sqlalchemy.orm.util import AliasedClass

from lrtune.store import lookup, trials
from lrtune.store.database import Utc, lite
from lrtune.store.tables import LARGEST, AttemptRow, JobRow, PersonRow, ShareRow, TrialRow
from lrtune.wire.results import ACTIVE, Outcome, TrialState

SAVED = 60.0  # virtual seconds that an owner may lie behind the one whose turn it was last
UNKNOWN = 1.0  # seconds that a trial is charged of whose job no stage has ended yet
LONGEST_FIRST = 4  # each so many trials of an owner are of the job that has waited longest
By = Literal["token", "trial"]  # what attempts are named by
THINKING = timedelta(seconds=60)  # for a thinker of whom nothing is heard
# So many workers at a job, for three in four of whom a suggestion lies ready, where a full run takes less than so many
# seconds: thinking is long beside a stage. More are made once a third is taken. Else the newest results are worth more.
MANY, SHORT = 8, 600.0


@dataclass(frozen=True, slots=True)
class Able:
    """What a worker can train: tasks by itself, some by a command, with what device and how much memory."""

    tasks: Collection[str]
    commands: Collection[str] = ()
    without: Collection[str] = ()  # optimizers
    kind: str = ""
    memory_gb: float | None = None


@dataclass(frozen=True, slots=True)
class Next:
    """The job whose turn it is: a trial of it waits, or it is `undecided` what it needs; or it is a `command`'s.

    `release` is the one that wrote down what it asks for.
    """

    seq: int
    id: str
    command: bool
    undecided: bool
    release: str


def join(tx: Session, owner: str) -> None:
    """Let an owner have a share."""
    dialect = sqlite if lite(tx) else postgresql
    tx.execute(dialect.insert(ShareRow).values(owner=owner).on_conflict_do_nothing())


def whose_turn(
    tx: Session, able: Able | None, *, now: datetime, thinking: bool = True, skip: Collection[int] = ()
) -> Next | None:
    """The job that comes next of those that this worker can serve (None: whatever they need) and that want something.

    With `thinking` also those that want a decision, which nobody is at. Jobs in `skip` do not come.
    """
    given: dict[str, Any] = {"now": now, "skip": list(skip)}
    if able is not None:
        given |= {"tasks": list(able.tasks), "commands": list(able.commands), "without": list(able.without)}
        given |= {"kind": able.kind, "memory": able.memory_gb or 0.0}
    row = tx.execute(_turn(able is None, thinking), given).one_or_none()
    return None if row is None else Next(*row)


@lru_cache
def _turn(whatever: bool, thinking: bool) -> Select[int, str, bool, bool, str]:
    """The question, which takes longer to put together than to answer."""
    job = aliased(JobRow)
    command, waits = lookup.command(job), _waits(job, whatever)
    wants = and_(~command, or_(waits, _undecided(job)) if thinking else waits)
    if not whatever:
        commands = and_(command, job.task.in_(_some("commands")), literal(thinking))
        wants = and_(_fits(job), or_(and_(wants, job.task.in_(_some("tasks"))), commands))
    mine = and_(job.owner == ShareRow.owner, _unfinished(job), lookup.not_external(job), job.seq.not_in(_some("skip")))
    first = select(job.seq).where(mine, wants).order_by(job.rank, job.size, job.seq).limit(1)
    waiting = select(job.seq).where(mine, wants).order_by(job.served, job.seq).limit(1)
    longest = ShareRow.taken % LONGEST_FIRST == LONGEST_FIRST - 1
    head = case((longest, waiting.scalar_subquery()), else_=first.scalar_subquery())
    heads = select(head.label("job"), ShareRow.virtual, ShareRow.owner).cte().prefix_with("MATERIALIZED")
    turn = select(heads.c.job).where(heads.c.job.is_not(None)).order_by(heads.c.virtual, heads.c.owner).limit(1)
    query = select(JobRow.seq, JobRow.id, lookup.command(JobRow), _undecided(JobRow), JobRow.release)
    # One job, and not a join: without statistics of the two tables PostgreSQL would read all jobs for it.
    return query.where(JobRow.seq == turn.scalar_subquery())


def _some(name: str) -> BindParameter[Any]:
    return bindparam(name, expanding=True)


def _unfinished(job: type[JobRow] | AliasedClass[JobRow]) -> ColumnElement[bool]:
    """Written out, so that the databases see that their partial indexes will do."""
    return job.state.in_(bindparam("unfinished", [str(one) for one in ACTIVE], expanding=True, literal_execute=True))


def _waits(job: Any, whatever: bool) -> ColumnElement[bool]:
    found = select(TrialRow.id).where(TrialRow.job == job.seq, trials.ready())
    if not whatever:
        found = found.where(trials.optimizer().not_in(_some("without")))
    return found.correlate(job).exists()


def _undecided(job: Any) -> ColumnElement[bool]:
    """Whether its log has gone on since there was nothing to decide, nobody thinks, and few trials lie ready."""
    waiting, running = (
        select(func.count()).where(TrialRow.job == job.seq, TrialRow.state == state).correlate(job).scalar_subquery()
        for state in (TrialState.WAITING, TrialState.RUNNING)
    )
    free = or_(job.thinking_until.is_(None), job.thinking_until < bindparam("now", type_=Utc))
    short = func.coalesce(job.pace, SHORT) * func.coalesce(job.steps, 1) < SHORT
    few = or_(waiting == 0, and_(short, running >= MANY, running >= 2 * waiting))
    return and_(job.thought < job.events, free, few)


def ahead(seconds: float, running: int) -> int:
    """How many suggestions are to lie ready for so many workers that train full runs of so many seconds."""
    return 3 * running // 4 if seconds < SHORT and running >= MANY else 0


def _fits(job: Any) -> ColumnElement[bool]:
    """Whether a worker has the device and the memory that a job needs."""
    device = or_(job.device.is_(None), job.device == bindparam("kind", type_=String))
    return and_(device, func.coalesce(job.memory_gb, 0.0) <= bindparam("memory", type_=Double))


def charge(tx: Session, job: JobRow, steps: int) -> float:
    """Charge an owner for a trial that a worker takes for so many steps; the seconds. Shares come before jobs."""
    seconds = UNKNOWN * _devices(job.spec) if job.pace is None else job.pace * steps
    weight = select(PersonRow.weight).where(PersonRow.name == job.owner).scalar_subquery()
    query = select(ShareRow.owner, ShareRow.virtual, func.coalesce(weight, 1.0)).where(
        ShareRow.owner.in_(("", job.owner))
    )
    rows = {owner: (virtual, each) for owner, virtual, each in tx.execute(query).all()}
    turn, (own, each) = rows[""][0], rows[job.owner]
    start = max(own, turn - SAVED)
    mine = update(ShareRow).where(ShareRow.owner == job.owner)
    further = {"virtual": ShareRow.virtual + (start - own + seconds / each), "taken": ShareRow.taken + 1}
    taken = tx.scalar(mine.values(further).returning(ShareRow.taken)) or 0
    if start > turn:
        tx.execute(update(ShareRow).where(ShareRow.owner == "", ShareRow.virtual < start).values(virtual=start))
    tx.execute(update(JobRow).where(JobRow.seq == job.seq).values(served=taken))
    return seconds


@dataclass
class _Correction:
    seconds: float = 0.0
    paces: dict[int, float] = field(default_factory=dict)


def settle(tx: Session, by: By, which: Sequence[str | int], outcome: Outcome, now: datetime) -> None:
    """Charge the owners of attempts that end what they have really taken. Called before they are closed.

    Those that a worker trains in lock-step share its seconds, as long as they are at it together.
    """
    found: dict[str, _Correction] = {}
    rows = tx.execute(_unsettled(by), {"which": which}).all()
    for row in rows:
        seconds = max(0.0, (now - row.started_at).total_seconds()) * _devices(row.spec) / (row.beside + 1)
        mine = found.setdefault(row.owner, _Correction())
        mine.seconds += (seconds - row.charged) / row.weight
        if outcome in ("paused", "finished") and row.step > row.start:
            mine.paces[row.seq] = seconds / (row.step - row.start)
    for owner in sorted(found):
        more = ShareRow.virtual + found[owner].seconds
        tx.execute(update(ShareRow).where(ShareRow.owner == owner).values(virtual=more))
    # After the shares: who ends one of those that go on has its owner's, and then wants its attempt.
    for worker in sorted({row.worker for row in rows if row.beside}):
        _left(tx, worker, [row for row in rows if row.worker == worker], now)
    for job, pace in sorted(pair for one in found.values() for pair in one.paces.items()):
        tx.execute(update(JobRow).where(JobRow.seq == job).values(pace=pace))


@cache  # to make it takes longer than to answer it
def _unsettled(by: By) -> Select[Any]:
    query = select(
        *(AttemptRow.charged, AttemptRow.started_at, AttemptRow.start, TrialRow.step),
        *(JobRow.seq, JobRow.owner, func.coalesce(PersonRow.weight, 1.0).label("weight"), JobRow.spec),
        *(AttemptRow.trial, AttemptRow.worker, _beside().label("beside")),
    )
    query = query.join(TrialRow, TrialRow.id == AttemptRow.trial).join(JobRow, JobRow.seq == TrialRow.job)
    query = query.outerjoin(PersonRow, PersonRow.name == JobRow.owner)
    return query.where(those(by), AttemptRow.ended_at.is_(None), AttemptRow.charged.is_not(None))


def those(by: By) -> ColumnElement[bool]:
    """The attempts of some tokens, or trials, which are the parameter `which`."""
    return (AttemptRow.token if by == "token" else AttemptRow.trial).in_(_some("which"))


def _beside() -> ScalarSelect[int]:
    """How many other trials the worker of an attempt trains at the same time."""
    other = aliased(TrialRow)
    same = (other.state == TrialState.RUNNING, other.worker == AttemptRow.worker, other.id != AttemptRow.trial)
    return select(func.count()).where(*same).correlate(AttemptRow).scalar_subquery()


def _left(tx: Session, worker: str, gone: Sequence[Row[Any]], now: datetime) -> None:
    """Let those that go on beside some that end count the time so far as shared by all.

    At its end each is charged for all its time, shared by those who are there then: what is too much of it is charged
    to it beforehand.
    """
    going = select(AttemptRow.token).join(TrialRow, TrialRow.token == AttemptRow.token)
    going = going.where(TrialRow.state == TrialState.RUNNING, TrialRow.worker == worker)
    going = going.where(TrialRow.id.not_in([row.trial for row in gone])).order_by(AttemptRow.token)
    # One that somebody else ends just now is left out: they have its trial, and then want its attempt.
    tokens = tx.scalars(going.with_for_update(skip_locked=True, of=TrialRow)).all()
    if tokens:
        seconds = max(0.0, (now - min(row.started_at for row in gone)).total_seconds())
        more = seconds / len(tokens) - seconds / (len(tokens) + len(gone))
        tx.execute(update(AttemptRow).where(AttemptRow.token.in_(tokens)).values(charged=AttemptRow.charged + more))


def _devices(spec: Mapping[str, Any]) -> int:
    return int(spec.get("training", {}).get("devices", 1))


def answered(tx: Session, job: int) -> None:
    """Let a job that has an answer come after those of its owner that have none."""
    tx.execute(update(JobRow).where(JobRow.seq == job, JobRow.size < LARGEST).values(size=LARGEST))
