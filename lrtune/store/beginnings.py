"""The beginnings that the trials of deterministic loops share: what there is, where a trial begins, which are kept.

Two runs of the same seed and horizon train the same network as long as their optimizers and rates agree
(`analysis/prefixes.py`). So a trial whose first steps another has trained begins at that one's checkpoint, where its
loop can read it, and pays only for what it trains itself.
"""

from sqlalchemy import ColumnElement, Select, delete, exists, insert, select, update
from sqlalchemy.orm import Session

from lrtune.analysis.prefixes import Course, begins_alike, same_but_for_rates
from lrtune.store import checkpoints, leases, trials
from lrtune.store.checkpoints import Loop
from lrtune.store.leases import Lease
from lrtune.store.tables import AttemptRow, CheckpointRow, ReportRow, TrialRow
from lrtune.wire.configuration import Configuration
from lrtune.wire.results import Trial, TrialState

KEPT = 8  # that no trial itself goes on from, of those that one loop can read: disks are finite
LOST = (TrialState.FAILED, TrialState.CANCELLED, TrialState.DIVERGED)  # nobody wants to begin like these


def at_hand(tx: Session, loop: Loop) -> dict[int, list[int]]:
    """The steps of trials, by their numbers, after which this loop has a checkpoint that others can begin with."""
    if not loop.deterministic:
        return {}
    found: dict[int, list[int]] = {}
    for row, kept in tx.execute(_readable(loop)).all():
        found.setdefault(row.number, []).append(kept.step)
    return found


def begin(tx: Session, lease: Lease, loop: Loop) -> tuple[Lease, str | None]:
    """Let an attempt begin at the checkpoint that has got furthest, its trial's own or another's; what that is called.

    What another has reported up to there is the trial's, too. Raises LeaseLost.
    """
    kept = checkpoints.latest(tx, lease.id, loop) if lease.trial.start else None
    if (longest := _longest(tx, lease, loop)) is not None:
        kept, other = longest
        start, reused = lease.trial.start, max(lease.trial.reused, 0)
        leases.take_up(tx, lease, step=kept.step, reused=reused + kept.step - start, whose=[str(other.number)])
        seen = [one for one in other.reports if start < one.step <= kept.step]
        tx.execute(insert(ReportRow), [one.model_dump() | {"trial": lease.id, "reused": True} for one in seen])
    if kept is None:
        return lease, None
    tx.execute(update(AttemptRow).where(AttemptRow.token == lease.token).values(checkpoint=kept.id))
    return leases.again(tx, lease), kept.name


def _longest(tx: Session, lease: Lease, loop: Loop) -> tuple[CheckpointRow, Trial] | None:
    """The checkpoint within the stage at hand at which another trial's training, the same so far, has got furthest."""
    if not loop.deterministic:
        return None
    trial, end = lease.trial, lease.trial.until or lease.trial.horizon
    query = _readable(loop).where(TrialRow.id != lease.id, TrialRow.seed == trial.seed)
    query = query.where(TrialRow.horizon == trial.horizon, CheckpointRow.step.between(trial.start + 1, end - 1))
    rows = tx.execute(query.order_by(CheckpointRow.step.desc(), CheckpointRow.id)).all()
    alike = [one for one in rows if same_but_for_rates(trials.view(one[0]).configuration, trial.configuration)]
    others = (
        {one.number: one for one in trials.read(tx, TrialRow.id.in_({row.id for row, _ in alike}))} if alike else {}
    )
    for row, kept in alike:
        other = others[row.number]
        if begins_alike(other, trial, kept.step, lease.spec.metric):
            return kept, other
    return None


def _readable(loop: Loop) -> Select[TrialRow, CheckpointRow]:
    """The trials and checkpoints that this loop, a deterministic one, can begin others with."""
    found = select(TrialRow, CheckpointRow).join(CheckpointRow, CheckpointRow.trial == TrialRow.id)
    return found.where(TrialRow.job == loop.job, CheckpointRow.deterministic, checkpoints.readable(loop))


def tidy(tx: Session, loop: Loop) -> tuple[list[str], list[str]]:
    """What checkpoints are called that this loop can delete, each said once; and those needed, the most needed last."""
    if loop.checkpoints == "none":
        return [], []
    found = select(CheckpointRow, TrialRow, checkpoints.spare(), _in_use())
    found = found.join(TrialRow, TrialRow.id == CheckpointRow.trial)
    found = found.where(TrialRow.job == loop.job, checkpoints.readable(loop)).order_by(CheckpointRow.id)
    rows = tx.execute(found).all()
    spare = [kept for kept, row, over, used in rows if over and not used and not _wanted(kept, row)]
    others = [kept for kept, row, over, used in rows if over and not used and _wanted(kept, row)]
    others.sort(key=lambda kept: kept.step)  # what saves most is kept longest
    needed = [kept for kept, _, over, used in rows if used or not over]
    gone = [*spare, *others[:-KEPT]][: checkpoints.AT_ONCE]
    if gone:
        tx.execute(delete(CheckpointRow).where(CheckpointRow.id.in_([kept.id for kept in gone])))
    return [kept.name for kept in gone], [kept.name for kept in [*others[-KEPT:], *needed][-checkpoints.AT_ONCE :]]


def _in_use() -> ColumnElement[bool]:
    """A checkpoint that somebody trains from."""
    return exists().where(AttemptRow.checkpoint == CheckpointRow.id, AttemptRow.ended_at.is_(None))


def _wanted(kept: CheckpointRow, row: TrialRow) -> bool:
    """Whether other trials may begin there: the rate has stood still until then, or warms up."""
    if not kept.deterministic or row.state in LOST:
        return False
    course = Course(Configuration.model_validate(row.configuration), row.horizon)
    return kept.step <= course.rise() or course.held(kept.step)
