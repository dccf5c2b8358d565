"""The checkpoints that loops of the user's own keep: who is there to read them, where a trial goes on, what may go.

The service never sees a checkpoint, only what its loop calls it. One that lies on a host's own disk can be read while a
loop of that host lives: its trial waits for such a loop, and begins again where there is none.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, bindparam, delete, exists, false, insert, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session, aliased

from lrtune.errors import Invalid
from lrtune.store.database import clock, lite
from lrtune.store.tables import AttemptRow, CheckpointRow, JobRow, LoopRow, TrialRow
from lrtune.wire.external import Checkpoints, Hold
from lrtune.wire.results import ENDED, TrialState

# A stopped trial may be gone on with as long as the search goes on.
OVER = tuple(state for state in ENDED if state is not TrialState.STOPPED)
AT_ONCE = 100  # names in one answer; the others come with the next
_FORGOTTEN = delete(LoopRow).where(LoopRow.job == bindparam("job"), LoopRow.worker == bindparam("worker"))
_STAYS = select(JobRow.seq).where(JobRow.seq == bindparam("job")).with_for_update(read=True, key_share=True)
LEAST = timedelta(seconds=90)  # of silence before a loop that holds nothing counts as gone


@dataclass(frozen=True, slots=True)
class Loop:
    """A loop that asks for a trial of a job."""

    job: int
    worker: str
    host: str
    checkpoints: Checkpoints
    deterministic: bool = False


def seen(tx: Session, job: int, hold: Hold, *, now: datetime | None = None) -> Loop:
    """Write down that a loop asks for a trial, if it can go on from checkpoints."""
    now = now or clock(tx)
    loop = Loop(job, hold.worker, hold.host or hold.worker, hold.checkpoints, hold.deterministic)
    if hold.checkpoints == "none":
        tx.execute(_FORGOTTEN, {"job": job, "worker": hold.worker})
        return loop
    fields: dict[str, Any] = {"host": loop.host, "checkpoints": loop.checkpoints, "deterministic": loop.deterministic}
    fields |= {"alive_until": now + max(LEAST, timedelta(seconds=hold.lease_seconds))}
    there = (LoopRow.job == job, LoopRow.worker == hold.worker)
    known = tx.execute(update(LoopRow).where(*there).values(fields).returning(LoopRow.worker)).all()
    # Its job may be deleted at this moment, which it hears when it goes on; and another of its name may come.
    if not known and tx.scalar(_STAYS, {"job": job}) is not None:
        adding: Any = (sqlite if lite(tx) else postgresql).insert(LoopRow)
        adding = adding.values(job=job, worker=hold.worker, **fields)
        tx.execute(adding.on_conflict_do_update(index_elements=["job", "worker"], set_=fields))
    return loop


def of(tx: Session, token: str) -> Loop | None:
    """The loop that has taken an attempt; None for one without checkpoints. Others may be called as it is."""
    said = tx.scalar(select(AttemptRow.loop).where(AttemptRow.token == token))
    return Loop(**said) if said and said["checkpoints"] != "none" else None


def startable(loop: Loop, *, now: datetime) -> ColumnElement[bool]:
    """The trials that this loop may begin: new ones, those whose checkpoint it can read, those whose is lost."""
    mine = exists().where(_usable(), readable(loop))
    others = (LoopRow.job == loop.job, LoopRow.worker != loop.worker, _alive(now))
    theirs = or_(
        and_(CheckpointRow.host.is_(None), LoopRow.checkpoints == "shared"),
        and_(CheckpointRow.host == LoopRow.host, LoopRow.checkpoints != "none"),
    )
    return or_(TrialRow.start == 0, mine, ~exists().where(_usable(), *others, theirs))


def latest(tx: Session, trial: int, loop: Loop) -> CheckpointRow | None:
    """The trial's checkpoint that this loop goes on from; None where it has to begin anew."""
    found = select(CheckpointRow).join(TrialRow, TrialRow.id == trial)
    found = found.where(_usable(), readable(loop)).order_by(CheckpointRow.step.desc(), CheckpointRow.id.desc())
    return tx.scalars(found.limit(1)).first()


def given(tx: Session, token: str) -> CheckpointRow | None:
    """The checkpoint that an attempt was given to go on from, its trial's own or another's."""
    found = select(CheckpointRow).join(AttemptRow, AttemptRow.checkpoint == CheckpointRow.id)
    return tx.scalars(found.where(AttemptRow.token == token)).first()


def distrust(tx: Session, token: str) -> None:
    """Let no other trial begin at the checkpoint that an attempt was given, as it could not be read."""
    found = select(AttemptRow.checkpoint).where(AttemptRow.token == token).scalar_subquery()
    tx.execute(update(CheckpointRow).where(CheckpointRow.id == found).values(deterministic=False))


def keep(tx: Session, trial: int, loop: Loop, *, step: int, name: str, deterministic: bool) -> None:
    """Write down the checkpoint of a trial after a step. Raises Invalid for the name of another trial's."""
    same = select(TrialRow.number).join(CheckpointRow, CheckpointRow.trial == TrialRow.id)
    same = same.where(CheckpointRow.name == name, TrialRow.id != trial, TrialRow.job == loop.job)
    if (other := tx.scalars(same.limit(1)).first()) is not None:
        detail = f"found {name[:60]!r}, the checkpoint of trial {other}; accepted is a name of its own for each"
        raise Invalid(errors=[{"pointer": "/checkpoint", "detail": detail}])
    tx.execute(delete(CheckpointRow).where(CheckpointRow.trial == trial, CheckpointRow.name == name))
    host = None if loop.checkpoints == "shared" else loop.host
    fields = {"trial": trial, "step": step, "name": name, "host": host, "deterministic": deterministic}
    tx.execute(insert(CheckpointRow).values(fields))


def spare() -> ColumnElement[bool]:
    """A checkpoint that its own trial does not go on from."""
    newer = aliased(CheckpointRow)
    replaced = exists().where(
        newer.trial == CheckpointRow.trial,
        newer.host.is_not_distinct_from(CheckpointRow.host),
        newer.step > CheckpointRow.step,
        newer.step <= TrialRow.start,
    )
    return or_(TrialRow.state.in_(OVER), replaced)


def _usable() -> ColumnElement[bool]:
    """A checkpoint that a trial can go on from."""
    return and_(CheckpointRow.trial == TrialRow.id, CheckpointRow.step <= TrialRow.start)


def readable(loop: Loop) -> ColumnElement[bool]:
    """A checkpoint that this loop can read."""
    match loop.checkpoints:
        case "none":
            return false()
        case "own":
            return CheckpointRow.host == loop.host
        case "shared":
            return or_(CheckpointRow.host.is_(None), CheckpointRow.host == loop.host)


def _alive(now: datetime) -> ColumnElement[bool]:
    """A loop that has asked not long ago, or trains something."""
    held = aliased(TrialRow)
    trains = exists().where(held.job == LoopRow.job, held.worker == LoopRow.worker, held.lease_until > now)
    return or_(LoopRow.alive_until > now, trains)
