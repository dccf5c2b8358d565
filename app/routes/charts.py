"""What pictures of a job are drawn from: small whatever the size of the job."""

from typing import Annotated

from fastapi import APIRouter, Query

from app import curves, thinking
from app.auth import Guarded
from app.deps import JobId, ReadTx, Thinking
from app.landscape import terrain
from app.problems import invalid, problems
from lrtune import errors
from lrtune.analysis.words import described
from lrtune.store import charts, jobs
from lrtune.wire.charts import Curves, Line, Part, Terrain
from lrtune.wire.results import Job, Trial, TrialState

router = APIRouter(route_class=Guarded, prefix="/v1/jobs/{job_id}", tags=["pictures"])
POINTS = 80  # of a learning-rate curve
MOST = 20  # metrics that are named to who asked for another
Metric = Annotated[str | None, Query(max_length=200, description="Which metric; the job's own where it is left out.")]


@router.get(
    "/curves",
    summary="Read the curves to draw",
    responses=problems(errors.UnknownJob, errors.Unavailable),
)
def drawn(job_id: JobId, tx: ReadTx, metric: Metric = None) -> Curves:
    """A metric and the learning rate of the trials that tell most, thinned, and the rest as a band."""
    job = jobs.get(tx, job_id)
    chosen, aim = charts.lines(tx, job), job.spec.metric.name
    metrics = sorted({name for _, trial in chosen for report in trial.reports for name in report.metrics} - {aim})
    name = aim if metric is None else metric
    if name not in (aim, *metrics):
        accepted = f"accepted is one that these trials have reported: {', '.join([aim, *metrics][:MOST])}"
        raise invalid([{"pointer": "/metric", "detail": f"found {name[:60]!r}; {accepted}"}])
    return Curves(
        metric=name,
        metrics=[aim, *metrics],
        aim=aim,
        goal=job.spec.metric.goal if name == aim else None,
        steps=job.steps,
        trials=sum(job.progress.trials.values()),
        lines=[_line(job, name, part, trial) for part, trial in chosen],
        rest=charts.rest(tx, job, name, [trial for _, trial in chosen]),
    )


def _line(job: Job, metric: str, part: Part, trial: Trial) -> Line:
    seen = trial.values(metric)
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
    return thinking.think(database, terrain, job_id)
