"""Reading a job for its pictures: which trials are drawn, with few reports each, by queries that stay small.

The history of a job may be a quarter of a million reports, so nothing here reads it: every query finds what it wants by
an index, or looks at some of the trials' numbers.
"""

from collections.abc import Sequence
from statistics import quantiles
from typing import Any, TypeVarTuple

from sqlalchemy import ColumnElement, Select, and_, func, or_, select
from sqlalchemy.orm import Session

from lrtune.store import lookup, tallies, trials
from lrtune.store.progress import BESIDE
from lrtune.store.tables import AttemptRow, ReportRow, TrialRow
from lrtune.wire.charts import Band, Part
from lrtune.wire.results import OPEN, REPORTS, RESUMABLE, Job, Page, Report, Trial, TrialState

BEST, RECENT, RUNNING, STOPPED, DIVERGED = 12, 10, 16, 6, 4  # lines of each kind at most
FEW = 20  # of the others are no band
REST = 120  # trials that stand for those without a line
POINTS = 100  # reports of a trial that are drawn at most
BINS = 40  # of the band
FEW_ENOUGH, MODELLED = 240, 60  # trials that a model is fitted to at most, and of a larger job of each kind
TERRAIN = 300  # best trials on the map of rates, and as many of the others
LATELY = 2000  # newest trials among which those that were given up, or confirm, are looked for
Row = TypeVarTuple("Row")  # of a query
GOLDEN = (5**0.5 - 1) / 2
_RUN = TrialRow.role != "range-test"
_ANY = TrialRow.state.in_(list(TrialState))  # all states are named, so that the index by state and role is of use
_NUMBER = TrialRow.number + 0  # to sort few by, so that SQLite does not go through all of a job's for their order
_SEEN = TrialRow.finished_at.is_not(None) | (TrialRow.state == TrialState.PAUSED)


def count(tx: Session, job_id: str) -> int:
    """How many trials a job has, which are numbered from 0."""
    last = tx.scalar(select(func.max(TrialRow.number)).where(TrialRow.job == lookup.job(tx, job_id).seq))
    return 0 if last is None else last + 1


def on_the_map(tx: Session, job: Job) -> int:
    """How many trials of a job have shown something of their rate, range tests left out."""
    counts = tallies.counts(tx, lookup.job(tx, job.id).seq)
    return sum(many for role, state, many, _ in counts if role != "range-test" and state not in OPEN)


def lines(tx: Session, job: Job) -> list[tuple[Part, Trial]]:
    """The trials to draw one by one, by number, with thinned reports, each with the reason why it is among them."""
    parts = _parts(tx, job)
    query = select(TrialRow).where(TrialRow.job == lookup.job(tx, job.id).seq, TrialRow.number.in_(list(parts)))
    rows = tx.scalars(query.order_by(TrialRow.number)).all()
    return [(parts[trial.number], trial) for trial in _reported(tx, rows, POINTS)]


def _reported(tx: Session, rows: Sequence[TrialRow], points: int) -> list[Trial]:
    """Trials with so many of their reports at most."""
    reports: dict[int, list[Report]] = {row.id: [] for row in rows}
    for trial, step, rate, metrics in _thinned(tx, list(reports), points):
        reports[trial].append(Report.model_construct(step=step, learning_rate=rate, metrics=metrics))
    return [trials.view(row).model_copy(update={"reports": reports[row.id]}) for row in rows]


def _parts(tx: Session, job: Job) -> dict[int, Part]:
    """Trial numbers; where several reasons hold, the first wins."""
    seq = lookup.job(tx, job.id).seq
    chosen: dict[int, Part] = {job.best.trial: "winner"} if job.best else {}
    rows = select(TrialRow.number).where(TrialRow.job == seq)
    newest, lately = TrialRow.number.desc(), rows.where(TrialRow.number >= count(tx, job.id) - LATELY)
    searched = rows.where(TrialRow.role == "search")
    best = searched.where(trials.completed(job.steps)).order_by(*trials.best_first(job.spec.metric.goal))
    wanted: tuple[tuple[Part, Select[Any], int], ...] = (
        ("baseline", rows.where(_ANY, TrialRow.role == "baseline").order_by(_NUMBER.desc()), 1),
        ("running", rows.where(TrialRow.state == TrialState.RUNNING).order_by(_NUMBER.desc()), RUNNING),
        ("best", best, BEST),
        ("stopped", lately.where(TrialRow.state.in_(RESUMABLE)).order_by(newest), STOPPED),
        ("diverged", lately.where(TrialRow.state == TrialState.DIVERGED).order_by(newest), DIVERGED),
        ("recent", lately.where(TrialRow.role == "search", TrialRow.step > 0).order_by(newest), RECENT),
        ("confirm", lately.where(TrialRow.role == "confirm", TrialRow.step > 0).order_by(newest), RECENT),
    )
    for part, query, limit in wanted:
        for number in tx.scalars(query.limit(limit)):
            chosen.setdefault(number, part)
    return chosen


def _thinned(tx: Session, ids: Sequence[int], points: int) -> Sequence[Any]:
    """The reports of these trials in order of their steps, every k-th from the last backwards where there are many."""
    among = ReportRow.trial.in_(ids)
    counts = select(func.count().label("n")).where(among).group_by(ReportRow.trial).subquery()
    most = tx.scalar(select(func.max(counts.c.n))) or 0
    columns = (ReportRow.trial, ReportRow.step, ReportRow.learning_rate, ReportRow.metrics)
    place = func.row_number().over(partition_by=ReportRow.trial, order_by=ReportRow.step.desc())
    every = -(-most // points)
    if every <= 1:
        return tx.execute(select(*columns).where(among).order_by(ReportRow.trial, ReportRow.step)).all()
    placed = select(*columns, place.label("place")).where(among).subquery()
    kept = select(*(placed.c[column.key] for column in columns)).where((placed.c.place - 1) % every == 0)
    return tx.execute(kept.order_by(placed.c.trial, placed.c.step)).all()


def rest(tx: Session, job: Job, metric: str, drawn: Sequence[Trial]) -> Band | None:
    """A metric of the trials without a line as a band, read off a sample spread evenly over their numbers."""
    if job.steps is None:
        return None
    own = TrialRow.job == lookup.job(tx, job.id).seq
    found = _whole(tx, own, job) - sum(trial.completed(job.steps) for trial in drawn)
    if found < FEW:
        return None
    columns = (TrialRow.id, TrialRow.number, TrialRow.state, TrialRow.horizon, TrialRow.value)
    shown, done = {trial.number for trial in drawn}, (TrialState.COMPLETE, job.steps)
    some = tx.execute(_spread(select(*columns).where(own), count(tx, job.id), REST, found)).all()
    # Looked at here: SQLite would go through all that are complete rather than look at these numbers.
    ids = [
        id_
        for id_, number, state, steps, value in some
        if (state, steps) == done and value is not None and number not in shown
    ]
    return _band(_thinned(tx, ids, BINS), metric, found, len(ids))


def _whole(tx: Session, own: ColumnElement[bool], job: Job) -> int:
    """How many complete runs over its horizon a job has: those that are counted, without the few that are otherwise."""
    complete = and_(own, TrialRow.state == TrialState.COMPLETE)
    short, long = TrialRow.horizon < job.steps, TrialRow.horizon > job.steps
    without = and_(TrialRow.horizon == job.steps, TrialRow.value.is_(None))
    other = sum(tx.scalar(select(func.count()).where(complete, kind)) or 0 for kind in (short, long, without))
    return job.progress.trials.get(TrialState.COMPLETE, 0) - other


def _spread(query: Select[*Row], many: int, limit: int, found: int | None = None) -> Select[*Row]:
    """About `limit` of the rows that a query finds, spread evenly over the job's trials, of which there are so many.

    `found` is how many it finds, where they are not most of the trials.
    """
    wanted = limit * many // max(found or many, 1)
    return query if wanted >= many else query.where(TrialRow.number.in_(evenly(many, wanted)))


def evenly(many: int, wanted: int) -> set[int]:
    """So many of the numbers of a job's trials, or a few less, spread evenly over all of them, or all."""
    if wanted >= many:
        return set(range(many))
    # Steps of the golden ratio: every k-th would always meet the same place of a search that goes round in k.
    return {int(number * GOLDEN % 1.0 * many) for number in range(wanted)}


def _band(reports: Sequence[Any], metric: str, others: int, sampled: int) -> Band | None:
    by_step: dict[int, list[float]] = {}
    for _, step, _, metrics in reports:
        if (value := metrics.get(metric)) is not None:
            by_step.setdefault(step, []).append(value)
    cuts = {
        step: quantiles(some, n=10, method="inclusive")
        for step, some in sorted(by_step.items())
        if 2 <= len(some) >= sampled // 2
    }
    if not cuts:
        return None
    low, middle, high = ([cut[place] for cut in cuts.values()] for place in (0, 4, 8))
    return Band(trials=others, sampled=sampled, steps=list(cuts), low=low, middle=middle, high=high)


def telling(tx: Session, job: Job) -> list[Trial]:
    """The trials that tell where good rates lie, without their reports; of a large job its best and a sample."""
    rows = select(TrialRow).where(TrialRow.job == lookup.job(tx, job.id).seq, _RUN)
    leaders = rows.where(trials.completed(job.steps)).order_by(*trials.best_first(job.spec.metric.goal))
    fixed = rows.where(_ANY, TrialRow.role.in_(BESIDE)).order_by(_NUMBER)
    found = {row.number: row for query in (leaders, fixed) for row in tx.scalars(query.limit(TERRAIN))}
    others = _spread(rows.where(_SEEN), count(tx, job.id), TERRAIN)
    found |= {row.number: row for row in tx.scalars(others)}
    return [trials.view(row) for _, row in sorted(found.items())]


def modelled(tx: Session, job: Job) -> list[Trial]:
    """The trials that a model of the job is fitted to, with few reports each.

    All of them where there are few enough, else its best, the newest of those that are not complete, and a sample.
    """
    rows = select(TrialRow).where(TrialRow.job == lookup.job(tx, job.id).seq, TrialRow.step > 0)
    if (many := count(tx, job.id)) <= FEW_ENOUGH:
        return _reported(tx, tx.scalars(rows.order_by(TrialRow.number)).all(), REPORTS)
    leaders = rows.where(trials.completed(job.steps)).order_by(*trials.best_first(job.spec.metric.goal))
    apart = or_(TrialRow.state != TrialState.COMPLETE, TrialRow.horizon != job.steps)
    partial = rows.where(_RUN, apart, TrialRow.state != TrialState.DIVERGED, TrialRow.number >= many - LATELY)
    partial, tests = partial.order_by(TrialRow.number.desc()), rows.where(_ANY, TrialRow.role == "range-test")
    found = {row.number: row for query in (leaders, partial, tests) for row in tx.scalars(query.limit(MODELLED))}
    found |= {row.number: row for row in tx.scalars(_spread(rows, many, MODELLED))}
    return _reported(tx, [row for _, row in sorted(found.items())], REPORTS)


def table(
    tx: Session, job_id: str, *, best_first: bool, state: TrialState | None, limit: int, skip: int
) -> Page[Trial]:
    """A page of trials with stages, the newest or the best first; `next` is how many to skip for the following."""
    job = lookup.job(tx, job_id)
    query = select(TrialRow).where(TrialRow.job == job.seq)
    if state:
        query = query.where(TrialRow.state == state)
    if best_first:  # of those that can be compared
        query = query.where(trials.completed(job.steps)).order_by(*trials.best_first(job.spec["metric"]["goal"]))
    else:
        query = query.order_by(TrialRow.number.desc())
    rows = tx.scalars(query.offset(skip).limit(limit + 1)).all()
    stages: dict[int, list[AttemptRow]] = {row.id: [] for row in rows[:limit]}
    attempts = select(AttemptRow).where(AttemptRow.trial.in_(list(stages)))
    for attempt in tx.scalars(attempts.order_by(AttemptRow.started_at, AttemptRow.number)):
        stages[attempt.trial].append(attempt)
    items = [trials.view(row, stages=stages[row.id]) for row in rows[:limit]]
    return Page(items=items, next=str(skip + limit) if len(rows) > limit else None)
