"""The map of rates of a job, for the API and the pages: the value over the peak rate, and how far it may be off."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from sqlalchemy.orm import Session

from lrtune import errors
from lrtune.analysis.report import report
from lrtune.search import landscape
from lrtune.search.range_test import edges
from lrtune.store import Database, audits, charts, findings, jobs
from lrtune.wire.charts import Edge, Expected, Point, Series, Terrain
from lrtune.wire.report import Findings
from lrtune.wire.results import Job, Trial, TrialState

POINTS = 120  # of a family


class Known(NamedTuple):
    """What is read of a job for its map; the report is None before there is an answer."""

    history: list[Trial]
    trials: int
    report: Findings | None


def known(tx: Session, job: Job) -> Known:
    """What a job's trials say without a model."""
    history = charts.telling(tx, job)
    if job.best is None:
        return Known(history, charts.on_the_map(tx, job), None)
    log = audits.read(tx, job.id)
    seen = {trial.number: trial for trial in [*findings.checking(tx, job, log), *history]}
    found = report(job.spec, job.best, [seen[number] for number in sorted(seen)], log, findings.totals(tx, job))
    return Known(history, charts.on_the_map(tx, job), found)


def terrain(database: Database, job_id: str) -> Terrain:
    """The map of a job; no transaction is open while the model is fitted. Raises UnknownJob, NoResultYet."""
    with database.read() as tx:
        job = jobs.get(tx, job_id)
        if job.steps is None:
            raise errors.NoResultYet
        seen, modelled = known(tx, job), charts.modelled(tx, job)
    expected = landscape.forecasts(job.spec, modelled, steps=job.steps)
    every = {trial.number: trial for trial in [*modelled, *seen.history] if not trial.short}
    series = _series(job, job.steps, every.values(), expected, seen.report)
    if not series:
        raise errors.NoResultYet
    return Terrain(
        metric=job.spec.metric.name,
        goal=job.spec.metric.goal,
        trials=max(seen.trials, sum(len(one.points) for one in series)),
        sampled=sum(len(one.points) for one in series),
        series=series,
        edges=[Edge(optimizer=name, rate=rate) for name, rate in edges(job.spec, modelled).items()],
        report=seen.report,
    )


def _series(
    job: Job, steps: int, trials: Iterable[Trial], expected: landscape.Forecasts, found: Findings | None
) -> list[Series]:
    """The families by name, each with its points and its curve."""
    points: dict[tuple[str, str], list[Point]] = {}
    for trial in trials:
        if (point := _point(trial, steps, expected.runs)) is not None:
            points.setdefault(trial.configuration.kind, []).append(point)
    plateaus = {(one.optimizer, one.family): one.plateau for one in found.families} if found else {}
    return [
        Series(
            optimizer=kind[0],
            family=kind[1],
            plateau=plateaus.get(kind),
            curve=expected.families.get(kind),
            points=_few(some, job.spec.metric.sign),
        )
        for kind, some in sorted(points.items())
    ]


def _point(trial: Trial, steps: int, runs: Mapping[int, Expected]) -> Point | None:
    """A trial's place on the map; None where nothing is known of its end."""
    ended, forecast = trial.completed(steps), runs.get(trial.number)
    if not ended and trial.state is not TrialState.DIVERGED and forecast is None:
        return None
    return Point(
        number=trial.number,
        role=trial.role,
        state=trial.state,
        rate=trial.configuration.learning_rate,
        share=trial.step / steps,
        value=trial.value if ended else None,
        forecast=forecast,
        fresh=trial.role == "confirm",
    )


def _few(points: list[Point], sign: float) -> list[Point]:
    """The best points and some of the others, by rate."""

    def rank(point: Point) -> tuple[bool, float]:
        value = point.forecast.value if point.value is None and point.forecast else point.value
        return value is None, sign * (value or 0.0)

    ranked = sorted(points, key=rank)
    kept = ranked[: POINTS // 2] + ranked[POINTS // 2 :: max(1, -(-len(ranked) // (POINTS // 2)))]
    return sorted(kept, key=lambda point: point.rate)
