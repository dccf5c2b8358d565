"""How many trials of a job there are in which state, and what they have cost: counted as they end, not as it is read.

Open trials are left out: they are few, and theirs are counted as they are read. Whoever lets a trial begin or end says
so here, with the job's row locked, so that two never wait for each other.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    SQLColumnExpression,
    bindparam,
    func,
    literal,
    select,
    union_all,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from lrtune.store.database import lite
from lrtune.store.tables import Base, TallyRow, TrialRow
from lrtune.wire.results import OPEN, TrialState

Count = tuple[str, TrialState, int, int]
_tallies, _trials = (Base.metadata.tables[name].c for name in ("tallies", "trials"))
COST = _trials.step - _trials.reused  # so far; reused steps had been paid for by other trials
_KEY = ("job", "role", "state")
# Whoever polls asks for this: to make it takes as long as what it finds.
_JOBS: BindParameter[Any] = bindparam("jobs", expanding=True)
_COUNTS = union_all(
    select(_tallies.job, _tallies.role, _tallies.state, _tallies.trials, _tallies.steps).where(
        _tallies.job.in_(_JOBS), _tallies.trials > 0
    ),
    select(_trials.job, _trials.role, _trials.state, func.count(), func.sum(COST))
    .where(_trials.job.in_(_JOBS), _trials.state.in_(OPEN))
    .group_by(_trials.job, _trials.role, _trials.state),
)


def ended(tx: Session, which: ColumnElement[bool]) -> None:
    """Count trials that have ended, or pause."""
    _add(tx, which, TrialRow.state, 1)


def one_ended(tx: Session, trial: int) -> None:
    """Count a trial, if it has ended or pauses."""
    tx.flush()  # SQLAlchemy does so of itself before statements about classes, not about tables
    tx.execute(_one(lite(tx)), {"trial": trial})


@cache  # to make it takes longer than to carry it out
def _one(on_lite: bool) -> Any:
    return _adding(on_lite, TrialRow.id == bindparam("trial"), TrialRow.state, 1)


def goes_on(tx: Session, which: ColumnElement[bool]) -> None:
    """Count trials no longer that are about to go on."""
    _add(tx, which, TrialRow.state, -1)


def becomes(tx: Session, which: ColumnElement[bool], state: TrialState) -> None:
    """Count trials in the state in which they are about to be."""
    _add(tx, which, TrialRow.state, -1)
    _add(tx, which, literal(state.value), 1)


def _add(tx: Session, which: ColumnElement[bool], state: SQLColumnExpression[str], sign: int) -> None:
    tx.flush()  # as in `one_ended`
    tx.execute(_adding(lite(tx), which, state, sign))


def _adding(on_lite: bool, which: ColumnElement[bool], state: SQLColumnExpression[str], sign: int) -> Any:
    found = select(TrialRow.job, TrialRow.role, state, sign * func.count(), sign * func.sum(COST))
    found = found.where(which, TrialRow.state.not_in(OPEN)).group_by(TrialRow.job, TrialRow.role, TrialRow.state)
    writing: Any = (sqlite if on_lite else postgresql).insert(TallyRow.__table__)
    writing = writing.from_select([*_KEY, "trials", "steps"], found)
    more = {name: getattr(TallyRow, name) + writing.excluded[name] for name in ("trials", "steps")}
    return writing.on_conflict_do_update(index_elements=_KEY, set_=more)


def counts(tx: Session, job: int) -> list[Count]:
    """The role, the state, how many trials and steps that they have cost, of all trials of a job."""
    return counts_of(tx, [job])[job]


def counts_of(tx: Session, jobs: Sequence[int]) -> Mapping[int, list[Count]]:
    """The same of several jobs."""
    tx.flush()  # as in `one_ended`
    found: dict[int, list[Count]] = {job: [] for job in jobs}
    for job, role, state, count, steps in tx.execute(_COUNTS, {"jobs": jobs}).all():
        found[job].append((role, TrialState(state), int(count), int(steps)))
    return found


def by_state(tx: Session) -> dict[TrialState, int]:
    """How many trials of all jobs there are in each state that there is one in."""
    kept = select(TallyRow.state, func.sum(TallyRow.trials)).group_by(TallyRow.state)
    opened = select(TrialRow.state, func.count()).where(TrialRow.state.in_(OPEN)).group_by(TrialRow.state)
    return {TrialState(state): int(count) for query in (kept, opened) for state, count in tx.execute(query).all()}
