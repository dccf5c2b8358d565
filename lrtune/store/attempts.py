"""The end of attempts: each at the step that its trial has got to, and its owner charged what it has taken."""

from datetime import datetime

from sqlalchemy import ColumnElement, case, select, update
from sqlalchemy.orm import Session

from lrtune.store import shares
from lrtune.store.tables import AttemptRow, TrialRow
from lrtune.wire.results import Outcome


def close(tx: Session, which: ColumnElement[bool], outcome: Outcome, now: datetime) -> None:
    """End those of some attempts that are still open, and settle them."""
    shares.settle(tx, which, outcome, now)
    end(tx, which, outcome, now)


def end(tx: Session, which: ColumnElement[bool], outcome: Outcome, now: datetime) -> None:
    """End those of some attempts that are still open and have been settled."""
    step = select(TrialRow.step).where(TrialRow.id == AttemptRow.trial).scalar_subquery()
    cost = case((AttemptRow.start < step, step - AttemptRow.start), else_=0)
    opened = update(AttemptRow).where(which, AttemptRow.ended_at.is_(None))
    tx.execute(opened.values(ended_at=now, outcome=outcome, step=step, cost=cost))
