"""What pictures of a job are drawn from: small whatever the size of the job."""

from fastapi import APIRouter
from sqlalchemy.orm import Session

from app import curves
from app.deps import JobId, ReadTx
from app.problems import problems
from lrtune import errors
from lrtune.analysis.plateaus import kind, whole
from lrtune.analysis.report import report
from lrtune.analysis.words import described
from lrtune.store import audits, charts, jobs
from lrtune.wire.charts import Curves, Ground, Line, Part, Spot, Terrain
from lrtune.wire.results import ENDED, Job, Trial, TrialState

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["pictures"])
POINTS = 80  # of a learning-rate curve
SPOTS = 150  # of a family on the map


@router.get(
    "/curves",
    summary="Read the curves to draw",
    responses=problems(errors.UnknownJob, errors.Unavailable),
)
def drawn(job_id: JobId, tx: ReadTx) -> Curves:
    """The metric and the learning rate of the trials that tell most, thinned, and the rest as a band."""
    job = jobs.get(tx, job_id)
    chosen = charts.lines(tx, job)
    metric = job.spec.metric
    return Curves(
        metric=metric.name if metric else "",
        goal=(metric and metric.goal) or "minimize",
        steps=job.steps,
        trials=sum(job.progress.trials.values()),
        lines=[_line(job, part, trial) for part, trial in chosen],
        rest=charts.rest(tx, job, [trial.number for _, trial in chosen]),
    )


def _line(job: Job, part: Part, trial: Trial) -> Line:
    seen = trial.values(job.spec.metric.name) if job.spec.metric else []
    reached = trial.horizon if trial.state is TrialState.COMPLETE else trial.step
    rates = curves.of_trial(trial, job.spec.metric, POINTS)
    return Line(
        number=trial.number,
        part=part,
        role=trial.role,
        state=trial.state,
        words=described(trial.configuration),
        value=trial.value,
        horizon=trial.horizon,
        steps=[step for step, _ in seen],
        values=[value for _, value in seen],
        rates=[(step, rate) for step, rate in rates if step <= reached],
    )


@router.get(
    "/landscape",
    summary="Read the map of rates",
    responses=problems(errors.UnknownJob, errors.NoResultYet, errors.Unavailable),
)
def landscape(job_id: JobId, tx: ReadTx) -> Terrain:
    """The value over the peak rate, family by family, with the rates that do as well as the best."""
    return terrain(tx, jobs.get(tx, job_id))


def terrain(tx: Session, job: Job) -> Terrain:
    """The map of a job. Raises NoResultYet."""
    if job.best is None:
        raise errors.NoResultYet
    history = charts.telling(tx, job, job.best)
    found = report(job.spec, job.best, history, audits.read(tx, job.id))
    spots: dict[tuple[str, str], list[Spot]] = {}
    for trial in history:
        if trial.state is TrialState.DIVERGED or whole(trial, job.best.steps):
            value = None if trial.state is TrialState.DIVERGED else trial.value
            spot = Spot(number=trial.number, rate=trial.configuration.learning_rate, value=value)
            spots.setdefault(kind(trial.configuration), []).append(spot)
    plateaus = {(one.optimizer, one.family): one.plateau for one in found.families}
    return Terrain(
        trials=sum(job.progress.trials.get(state, 0) for state in ENDED),
        sampled=len(history),
        grounds=[
            Ground(optimizer=o, family=f, plateau=plateaus.get((o, f)), spots=_few(some, job.best.goal == "maximize"))
            for (o, f), some in sorted(spots.items())
        ],
        report=found,
    )


def _few(spots: list[Spot], maximize: bool) -> list[Spot]:
    """The best spots and some of the others, by rate."""
    sign = -1.0 if maximize else 1.0
    ranked = sorted(spots, key=lambda spot: (spot.value is None, sign * (spot.value or 0.0)))
    kept = ranked[: SPOTS // 2] + ranked[SPOTS // 2 :: max(1, len(ranked) // (SPOTS // 2))]
    return sorted(kept, key=lambda spot: spot.rate)
