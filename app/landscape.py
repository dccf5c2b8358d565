"""The map of rates of a job, for the API and the pages: the value over the peak rate, and how far it may be off."""

from sqlalchemy.orm import Session

from lrtune import errors
from lrtune.analysis.report import report
from lrtune.store import audits, charts
from lrtune.wire.charts import Point, Series, Terrain
from lrtune.wire.results import Job, TrialState

POINTS = 150  # of a family


def terrain(tx: Session, job: Job) -> Terrain:
    """The map of a job. Raises NoResultYet."""
    if job.best is None:
        raise errors.NoResultYet
    history = charts.telling(tx, job, job.best)
    found = report(job.spec, job.best, history, audits.read(tx, job.id))
    points: dict[tuple[str, str], list[Point]] = {}
    for trial in history:
        if trial.state is TrialState.DIVERGED or trial.completed(job.best.steps):
            value = None if trial.state is TrialState.DIVERGED else trial.value
            rate, fresh = trial.configuration.learning_rate, trial.role == "confirm"
            point = Point(number=trial.number, rate=rate, value=value, fresh=fresh)
            points.setdefault(trial.configuration.kind, []).append(point)
    plateaus = {(one.optimizer, one.family): one.plateau for one in found.families}
    return Terrain(
        trials=charts.on_the_map(tx, job),
        sampled=len(history),
        series=[
            Series(optimizer=o, family=f, plateau=plateaus.get((o, f)), points=_few(some, job.spec.metric.sign))
            for (o, f), some in sorted(points.items())
        ],
        report=found,
    )


def _few(points: list[Point], sign: float) -> list[Point]:
    """The best points and some of the others, by rate."""
    ranked = sorted(points, key=lambda point: (point.value is None, sign * (point.value or 0.0)))
    kept = ranked[: POINTS // 2] + ranked[POINTS // 2 :: max(1, len(ranked) // (POINTS // 2))]
    return sorted(kept, key=lambda point: point.rate)
