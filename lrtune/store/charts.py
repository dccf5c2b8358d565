"""Reading a job for its pictures: which trials are drawn, with few reports each, by queries that stay small.

The whole history of a job may be a quarter of a million reports, so nothing here reads it: every query has a limit.
"""

from collections.abc import Sequence
from statistics import quantiles
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Select, cast, func, select
from sqlalchemy.orm import Session

from lrtune.store import lookup, trials
from lrtune.store.tables import ReportRow, TrialRow
from lrtune.wire.charts import Band, Part
from lrtune.wire.results import Best, Job, Page, Report, Trial, TrialState

BEST, RECENT, RUNNING, STOPPED, DIVERGED = 12, 10, 16, 6, 4  # lines of each kind at most
FEW = 20  # of the others are no band
REST = 120  # trials that stand for those without a line
POINTS = 100  # reports of a trial that are drawn at most
BINS = 40  # of the band
TERRAIN = 300  # best trials on the map of rates, and as many of the others


def count(tx: Session, job_id: str) -> int:
    """How many trials a job has."""
    return tx.scalar(select(func.count()).where(TrialRow.job == lookup.job(tx, job_id).seq)) or 0


def lines(tx: Session, job: Job) -> list[tuple[Part, Trial]]:
    """The trials to draw one by one, by number, with thinned reports, each with the reason why it is among them."""
    parts = _parts(tx, job)
    return [(parts[trial.number], trial) for trial in _with_reports(tx, job, list(parts))]


def _parts(tx: Session, job: Job) -> dict[int, Part]:
    """Trial numbers; where several reasons hold, the first wins."""
    seq = lookup.job(tx, job.id).seq
    chosen: dict[int, Part] = {job.best.trial: "winner"} if job.best else {}
    rows = select(TrialRow.number).where(TrialRow.job == seq)
    newest = TrialRow.number.desc()
    whole = (TrialRow.horizon == job.steps, TrialRow.value.is_not(None), TrialRow.state == TrialState.COMPLETE)
    order = TrialRow.value.desc() if job.spec.metric and job.spec.metric.sign < 0 else TrialRow.value
    wanted: tuple[tuple[Part, Select[Any], int], ...] = (
        ("baseline", rows.where(TrialRow.role == "baseline").order_by(TrialRow.number), 1),
        ("running", rows.where(TrialRow.state == TrialState.RUNNING).order_by(newest), RUNNING),
        ("best", rows.where(TrialRow.role == "search", *whole).order_by(order, TrialRow.number), BEST),
        ("stopped", rows.where(TrialRow.state == TrialState.STOPPED).order_by(newest), STOPPED),
        ("diverged", rows.where(TrialRow.state == TrialState.DIVERGED).order_by(newest), DIVERGED),
        ("recent", rows.where(TrialRow.step > 0, TrialRow.role == "search").order_by(newest), RECENT),
        ("confirm", rows.where(TrialRow.role == "confirm", TrialRow.step > 0).order_by(newest), RECENT),
    )
    for part, query, limit in wanted:
        for number in tx.scalars(query.limit(limit)):
            chosen.setdefault(number, part)
    return chosen


def _with_reports(tx: Session, job: Job, numbers: Sequence[int]) -> list[Trial]:
    """These trials by number, each with at most POINTS reports."""
    seq = lookup.job(tx, job.id).seq
    query = select(TrialRow).where(TrialRow.job == seq, TrialRow.number.in_(numbers)).order_by(TrialRow.number)
    rows = tx.scalars(query).all()
    seen: dict[int, list[Report]] = {row.id: [] for row in rows}
    for trial, step, rate, metrics in _thinned(tx, list(seen)):
        seen[trial].append(Report.model_construct(step=step, learning_rate=rate, metrics=metrics))
    return [trials.view(row).model_copy(update={"reports": seen[row.id]}) for row in rows]


def _thinned(tx: Session, ids: Sequence[int], points: int = POINTS) -> Sequence[Any]:
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


def rest(tx: Session, job: Job, drawn: Sequence[int]) -> Band | None:
    """The trials without a line as a band, read off a sample spread evenly over their numbers."""
    if job.spec.metric is None or job.steps is None:
        return None
    whole = (
        TrialRow.job == lookup.job(tx, job.id).seq,
        TrialRow.horizon == job.steps,
        TrialRow.state == TrialState.COMPLETE,
        TrialRow.number.not_in(drawn),
    )
    others = tx.scalar(select(func.count()).where(*whole)) or 0
    if others < FEW:
        return None
    sample = _spread(select(TrialRow.id).where(*whole), others, REST)
    ids = list(tx.scalars(sample))
    return _band(_thinned(tx, ids, BINS), job.spec.metric.name, others, len(ids))


def _spread(query: Select[Any], found: int, limit: int) -> Select[Any]:
    """About `limit` of the rows that a query finds, spread evenly over the trials' numbers."""
    every = max(1, found // limit)
    # Steps of the golden ratio: every k-th would always meet the same place of a search that goes round in k.
    place = (cast(TrialRow.number, BigInteger) * 40503) % 65536
    return query.where(place < 65536 // every).limit(2 * limit) if every > 1 else query


def _band(reports: Sequence[Any], metric: str, others: int, sampled: int) -> Band | None:
    by_step: dict[int, list[float]] = {}
    for _, step, _, metrics in reports:
        if (value := metrics.get(metric)) is not None:
            by_step.setdefault(step, []).append(value)
    cuts = {step: quantiles(some, n=10) for step, some in sorted(by_step.items()) if 2 <= len(some) >= sampled // 2}
    if not cuts:
        return None
    low, middle, high = ([cut[place] for cut in cuts.values()] for place in (0, 4, 8))
    return Band(trials=others, sampled=sampled, steps=list(cuts), low=low, middle=middle, high=high)


def telling(tx: Session, job: Job, best: Best) -> list[Trial]:
    """The trials that tell where good rates lie, without their reports; of a large job its best and a sample."""
    rows = select(TrialRow).where(TrialRow.job == lookup.job(tx, job.id).seq, TrialRow.role != "ramp")
    order = TrialRow.value.desc() if best.goal == "maximize" else TrialRow.value
    whole = (TrialRow.horizon == best.steps, TrialRow.value.is_not(None), TrialRow.state == TrialState.COMPLETE)
    leaders = rows.where(*whole).order_by(order, TrialRow.number)
    fixed = rows.where(TrialRow.role != "search").order_by(TrialRow.number)
    ended = rows.where(TrialRow.finished_at.is_not(None))
    found = {row.number: row for query in (leaders, fixed) for row in tx.scalars(query.limit(TERRAIN))}
    others = _spread(ended, count(tx, job.id), TERRAIN)
    found |= {row.number: row for row in tx.scalars(others)}
    return [trials.view(row) for _, row in sorted(found.items())]


def table(
    tx: Session, job_id: str, *, best_first: bool, state: TrialState | None, limit: int, skip: int
) -> Page[Trial]:
    """A page of trials without reports, the newest or the best first; `next` is how many to skip for the following."""
    job = lookup.job(tx, job_id)
    query = select(TrialRow).where(TrialRow.job == job.seq)
    query = query.where(*([TrialRow.state == state] if state else []))
    if best_first:
        query = query.where(TrialRow.horizon == job.steps, TrialRow.value.is_not(None))
        query = query.where(TrialRow.state == TrialState.COMPLETE)  # a stopped one has the value it stopped at
    order = _order(job.spec, best_first=best_first)
    rows = tx.scalars(query.order_by(*order).offset(skip).limit(limit + 1)).all()
    return Page(items=[trials.view(row) for row in rows[:limit]], next=str(skip + limit) if len(rows) > limit else None)


def _order(spec: dict[str, Any], *, best_first: bool) -> tuple[ColumnElement[Any], ...]:
    if not best_first:
        return (TrialRow.number.desc(),)
    falling = (spec.get("metric") or {}).get("goal") != "maximize"
    return (TrialRow.value.asc() if falling else TrialRow.value.desc(), TrialRow.number.asc())


def pulse(tx: Session, job_id: str) -> tuple[str, int, int]:
    """What changes whenever a job does: its state, the length of its log, and how far its running trials are."""
    job = lookup.job(tx, job_id)
    running = (TrialRow.job == job.seq, TrialRow.state == TrialState.RUNNING)
    return job.state, job.events, int(tx.scalar(select(func.sum(TrialRow.step)).where(*running)) or 0)
