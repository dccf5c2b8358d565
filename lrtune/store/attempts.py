"""The end of attempts: each at the step that its trial has got to, and its owner charged what it has taken."""

from collections.abc import Sequence
from datetime import datetime
from functools import cache

from sqlalchemy import Update, bindparam, case, select, update
from sqlalchemy.orm import Session

from lrtune.store import shares
from lrtune.store.tables import AttemptRow, TrialRow
from lrtune.wire.results import Outcome


def close(tx: Session, by: shares.By, which: Sequence[str | int], outcome: Outcome, now: datetime) -> None:
    """End those of some attempts, of tokens or of trials, that are still open, and settle them."""
    shares.settle(tx, by, which, outcome, now)
    end(tx, by, which, outcome, now)


def end(tx: Session, by: shares.By, which: Sequence[str | int], outcome: Outcome, now: datetime) -> None:
    """End those of some attempts that are still open and have been settled."""
    tx.execute(_ended(by), {"which": which, "now": now, "how": outcome})


@cache  # to make it takes longer than to carry it out
def _ended(by: shares.By) -> Update:
    step = select(TrialRow.step).where(TrialRow.id == AttemptRow.trial).scalar_subquery()
    cost = case((AttemptRow.start < step, step - AttemptRow.start), else_=0)
    opened = update(AttemptRow).where(shares.those(by), AttemptRow.ended_at.is_(None))
    return opened.values(ended_at=bindparam("now"), outcome=bindparam("how"), step=step, cost=cost)
