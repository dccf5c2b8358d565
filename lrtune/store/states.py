"""The training states that workers have at hand: which trial has one after which step, and which may be let go.

A state is a file in a store of states, which has an id. Here it is a checkpoint whose `host` is that id and whose
`name` is the state's key; runs that begin alike have one key, and a row each. The row is written once the file is
whole, and goes before the file goes: what stands here is what the search counts on. Whoever resumes a trial has the
job's row first, as has whoever lets a state go, so that nothing goes that a resumed trial is to begin with.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Select, and_, delete, exists, insert, select, true
from sqlalchemy.orm import Session

from lrtune.store import events, lookup
from lrtune.store.database import clock
from lrtune.store.tables import CheckpointRow, EventRow, JobRow, TrialRow
from lrtune.wire.results import OPEN, OVER, RESUMABLE, TrialState

COST = "state-cost"  # the kind of the line in a job's log that says what a state costs
AT_ONCE = 500  # keys in one statement: databases bound its parameters


@dataclass(frozen=True, slots=True)
class Use:
    """What a state is of: a trial of a job that goes on, after `step` steps of it.

    `begun`: the trial waits to go on from it, or has gone on from it. The others are of a trial's newest alone.
    `on_its_way`: it is trained, or waits to be; `resumable`: the search may go on with it; `paused`: nobody stopped it.
    """

    job: int
    trial: int
    step: int
    begun: bool
    on_its_way: bool
    resumable: bool
    paused: bool


def found(tx: Session, store: str, trial: int, steps: Mapping[str, int]) -> None:
    """Write down that a store has states of a trial, by their keys; nothing where the trial is gone."""
    there = select(TrialRow.id).where(TrialRow.id == trial).with_for_update(read=True, key_share=True)
    known = set(tx.scalars(select(CheckpointRow.name).where(CheckpointRow.trial == trial, CheckpointRow.host == store)))
    rows = [
        {"trial": trial, "step": step, "name": key, "host": store} for key, step in steps.items() if key not in known
    ]
    if rows and tx.scalar(there) is not None:
        tx.execute(insert(CheckpointRow), rows)


def at_hand(tx: Session, job_id: str, store: str) -> dict[int, list[int]]:
    """The steps of a job's trials, by their numbers, after which a store has a state."""
    query = select(TrialRow.number, CheckpointRow.step).join(CheckpointRow, CheckpointRow.trial == TrialRow.id)
    query = query.join(JobRow, JobRow.seq == TrialRow.job).where(JobRow.id == job_id, CheckpointRow.host == store)
    steps: dict[int, list[int]] = {}
    for number, step in tx.execute(query.order_by(TrialRow.number, CheckpointRow.step)):
        steps.setdefault(number, []).append(step)
    return steps


def kept(start: int | None) -> ColumnElement[bool]:
    """A trial that has a state after so many steps; at the beginning none is needed, and None asks for none."""
    if not start:
        return true()
    return exists().where(CheckpointRow.trial == TrialRow.id, CheckpointRow.step == start)


def uses(tx: Session, store: str) -> dict[str, list[Use]]:
    """What each state of a store is of, by its key, of the jobs that are not over."""
    columns = CheckpointRow.name, CheckpointRow.step, TrialRow.job, TrialRow.id, TrialRow.state, TrialRow.start
    query = select(*columns).join(TrialRow, TrialRow.id == CheckpointRow.trial)
    query = query.join(JobRow, JobRow.seq == TrialRow.job)
    rows = tx.execute(query.where(CheckpointRow.host == store, JobRow.state.not_in(OVER))).all()
    last: dict[int, int] = {}
    for row in rows:
        last[row.id] = max(row.step, last.get(row.id, 0))
    of: dict[str, list[Use]] = {}
    for row in rows:
        opened, newest = row.state in OPEN, row.step == last[row.id]
        use = Use(
            job=row.job,
            trial=row.id,
            step=row.step,
            begun=opened and row.step == row.start,
            on_its_way=opened and newest,
            resumable=newest and row.state in RESUMABLE,
            paused=newest and row.state == TrialState.PAUSED,
        )
        of.setdefault(row.name, []).append(use)
    return of


def let_go(tx: Session, store: str, keys: Collection[str]) -> set[str]:
    """Count on these states no more, but for those that a trial is to begin with; the keys whose files may go."""
    gone: set[str] = set()
    every = sorted(keys)
    for some in (every[first : first + AT_ONCE] for first in range(0, len(every), AT_ONCE)):
        of = and_(CheckpointRow.host == store, CheckpointRow.name.in_(some))
        _lock(tx, of)
        begun = and_(TrialRow.state.in_(OPEN), TrialRow.start == CheckpointRow.step)
        needed = select(CheckpointRow.name).join(TrialRow, TrialRow.id == CheckpointRow.trial).where(of, begun)
        free = {*some} - {*tx.scalars(needed)}
        tx.execute(delete(CheckpointRow).where(CheckpointRow.host == store, CheckpointRow.name.in_(free)))
        gone |= free
    return gone


def lost(tx: Session, store: str, keys: Sequence[str]) -> None:
    """Count no more on states that are gone, or spoilt, whoever is to begin with them."""
    tx.execute(delete(CheckpointRow).where(CheckpointRow.host == store, CheckpointRow.name.in_(keys)))


def note_least_stage(tx: Session, job_id: str, steps: int, message: str) -> None:
    """Write into a job's log how long a stage has to be worth its state; what stands there first stays."""
    job = lookup.job(tx, job_id, lock=True)
    if tx.scalar(_least_stage(job_id)) is None:
        events.add(tx, job.seq, COST, message, now=clock(tx), least=steps)


def least_stage(tx: Session, job_id: str) -> int:
    """How many steps a stage of a job's trials has to be worth its state; 0 where nobody has said so."""
    said: EventRow | None = tx.scalar(_least_stage(job_id))
    return 0 if said is None else int(said.data["least"])


def _least_stage(job_id: str) -> Select[EventRow]:
    said = select(EventRow).join(JobRow, JobRow.seq == EventRow.job)
    return said.where(JobRow.id == job_id, EventRow.kind == COST).order_by(EventRow.number).limit(1)


def _lock(tx: Session, of: ColumnElement[bool]) -> None:
    """Lock the jobs whose trials have these states, so that none of them is resumed meanwhile."""
    jobs = select(TrialRow.job).join(CheckpointRow, CheckpointRow.trial == TrialRow.id).where(of)
    tx.execute(select(JobRow.seq).where(JobRow.seq.in_(jobs)).order_by(JobRow.seq).with_for_update()).all()
