"""Reading a job for its report: all trials, or of a large job the best, those beside the search, and a sample."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session, aliased

from lrtune.analysis.report import Totals
from lrtune.store import audits, charts, lookup, tallies, trials
from lrtune.store.tables import TrialRow
from lrtune.wire.results import Audits, Job, Trial, TrialState

WHOLE = 600  # trials: of a job that has more, some are read
AUDITED = 300  # newest of those that ran on to check the forecast


@dataclass(frozen=True, slots=True)
class Basis:
    """What a report rests on: trials by number, those to fit a model to, with their reports, and what the log says.

    `totals` are of the whole job where these are not all of its trials; those without a model then lack reports.
    """

    trials: Sequence[Trial]
    modelled: Sequence[Trial]
    audits: Audits
    totals: Totals | None


def read(tx: Session, job: Job) -> Basis:
    """What the report of a job needs."""
    known = audits.read(tx, job.id)
    if charts.count(tx, job.id) <= WHOLE:
        every = trials.history(tx, job.id)
        return Basis(every, every, known, None)
    modelled = charts.modelled(tx, job)
    some = [*checking(tx, job, known), *charts.telling(tx, job), *modelled]
    found = {trial.number: trial for trial in some}
    return Basis([found[number] for number in sorted(found)], modelled, known, totals(tx, job))


def checking(tx: Session, job: Job, known: Audits) -> list[Trial]:
    """The trials that ran on to check the forecast, the newest, and those that say whether their stops were false."""
    if not (audited := known.trials[-AUDITED:]):
        return []
    seq = lookup.job(tx, job.id).seq
    numbers = {*audited, *_as_good_before(tx, job, seq, audited)}
    found = tx.scalars(select(TrialRow).where(TrialRow.job == seq, TrialRow.number.in_(numbers)))
    return [trials.view(row) for row in found]


def _as_good_before(tx: Session, job: Job, seq: int, numbers: Sequence[int]) -> set[int]:
    """For each of some trials one that was decided before it and ended as well: without it a stop would seem false."""
    one, sign = aliased(TrialRow), job.spec.metric.sign
    before = select(TrialRow.number).where(TrialRow.job == one.job, trials.completed(job.steps))
    before = before.where(TrialRow.role != "range-test", TrialRow.decision < one.decision)
    before = before.where(TrialRow.value <= one.value if sign > 0 else TrialRow.value >= one.value)
    found = before.order_by(*trials.best_first(job.spec.metric.goal)).limit(1).correlate(one).scalar_subquery()
    query = select(found).where(one.job == seq, one.number.in_(numbers))
    return {number for number in tx.scalars(query) if number is not None}


def totals(tx: Session, job: Job) -> Totals:
    """What all trials of a job have come to."""
    seq = lookup.job(tx, job.id).seq
    short = select(func.coalesce(func.sum(tallies.COST), 0)).where(TrialRow.job == seq, TrialRow.role == "search")
    short = short.where(TrialRow.state == TrialState.COMPLETE, TrialRow.horizon < job.steps)
    many = charts.count(tx, job.id)
    even = charts.evenly(many, charts.TERRAIN) if many > charts.TERRAIN else range(many)
    return Totals(tallies.counts(tx, seq), tx.scalar(short) or 0, even)
