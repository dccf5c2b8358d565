"""How many trials of a job there are in which state, and what they have cost: counted as they end, not as it is read.

Open trials are left out: they are few, and theirs are counted as they are read. Whoever lets a trial begin or end says
so here, with the job's row locked, so that two never wait for each other.
"""

from sqlalchemy import ColumnElement, SQLColumnExpression, bindparam, func, literal, select, union_all
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from lrtune.store.tables import TallyRow, TrialRow
from lrtune.wire.results import OPEN, TrialState

COST = TrialRow.step - TrialRow.reused  # so far; reused steps had been paid for by other trials
_KEY = ("job", "role", "state")
# Whoever polls asks for this: to make it takes as long as what it finds.
_COUNTS = union_all(
    select(TallyRow.role, TallyRow.state, TallyRow.trials, TallyRow.steps).where(
        TallyRow.job == bindparam("job"), TallyRow.trials > 0
    ),
    select(TrialRow.role, TrialRow.state, func.count(), func.sum(COST))
    .where(TrialRow.job == bindparam("job"), TrialRow.state.in_(OPEN))
    .group_by(TrialRow.role, TrialRow.state),
)


def ended(tx: Session, which: ColumnElement[bool]) -> None:
    """Count trials that have ended, or pause."""
    _add(tx, which, TrialRow.state, 1)


def goes_on(tx: Session, which: ColumnElement[bool]) -> None:
    """Count trials no longer that are about to go on."""
    _add(tx, which, TrialRow.state, -1)


def becomes(tx: Session, which: ColumnElement[bool], state: TrialState) -> None:
    """Count trials in the state in which they are about to be."""
    _add(tx, which, TrialRow.state, -1)
    _add(tx, which, literal(state.value), 1)


def _add(tx: Session, which: ColumnElement[bool], state: SQLColumnExpression[str], sign: int) -> None:
    found = select(TrialRow.job, TrialRow.role, state, sign * func.count(), sign * func.sum(COST))
    found = found.where(which, TrialRow.state.not_in(OPEN)).group_by(TrialRow.job, TrialRow.role, TrialRow.state)
    dialect = sqlite if tx.get_bind().dialect.name == "sqlite" else postgresql
    writing = dialect.insert(TallyRow).from_select([*_KEY, "trials", "steps"], found)
    more = {name: getattr(TallyRow, name) + writing.excluded[name] for name in ("trials", "steps")}
    tx.execute(writing.on_conflict_do_update(index_elements=_KEY, set_=more))


def counts(tx: Session, job: int) -> list[tuple[str, TrialState, int, int]]:
    """The role, the state, how many trials and steps that they have cost, of all trials of a job."""
    rows = tx.execute(_COUNTS, {"job": job}).all()
    return [(role, TrialState(state), int(count), int(steps)) for role, state, count, steps in rows]


def by_state(tx: Session) -> dict[TrialState, int]:
    """How many trials of all jobs there are in each state that there is one in."""
    kept = select(TallyRow.state, func.sum(TallyRow.trials)).group_by(TallyRow.state)
    opened = select(TrialRow.state, func.count()).where(TrialRow.state.in_(OPEN)).group_by(TrialRow.state)
    return {TrialState(state): int(count) for query in (kept, opened) for state, count in tx.execute(query).all()}
