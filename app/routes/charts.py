"""What pictures of a job are drawn from: small whatever the size of the job."""

from fastapi import APIRouter

from app import curves
from app.deps import JobId, ReadTx, Thinking
from app.landscape import terrain
from app.problems import problems
from lrtune import errors
from lrtune.analysis.words import described
from lrtune.store import charts, jobs
from lrtune.wire.charts import Curves, Line, Part, Terrain
from lrtune.wire.results import Job, Trial, TrialState

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["pictures"])
POINTS = 80  # of a learning-rate curve


@router.get(
    "/curves",
    summary="Read the curves to draw",
    responses=problems(errors.UnknownJob, errors.Unavailable),
)
def drawn(job_id: JobId, tx: ReadTx) -> Curves:
    """The metric and the learning rate of the trials that tell most, thinned, and the rest as a band."""
    job = jobs.get(tx, job_id)
    chosen = charts.lines(tx, job)
    return Curves(
        metric=job.spec.metric.name,
        goal=job.spec.metric.goal,
        steps=job.steps,
        trials=sum(job.progress.trials.values()),
        lines=[_line(job, part, trial) for part, trial in chosen],
        rest=charts.rest(tx, job, [trial.number for _, trial in chosen]),
    )


def _line(job: Job, part: Part, trial: Trial) -> Line:
    seen = trial.values(job.spec.metric.name)
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
def landscape(job_id: JobId, database: Thinking) -> Terrain:
    """The value over the peak rate, family by family, with the rates that do as well as the best.

    Runs that are not complete lie where they are expected to end, and each family has a curve of what is expected of it
    at other rates: both are forecasts of the job's model, which is fitted for this call.
    """
    return terrain(database, job_id)
