"""Trials for a training loop of the user's own: take one, report, finish it."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response, status

from app import external, reporting
from app.auth import Guarded
from app.deps import LARGEST, JobId, ReadTx, Tx, turns
from app.problems import problems
from lrtune import errors
from lrtune.analysis.prefixes import Course
from lrtune.store import jobs, trials
from lrtune.wire.external import RATES, Batch, Ending, Handout, Hold, Rates, Verdict
from lrtune.wire.results import Trial

router = APIRouter(route_class=Guarded, prefix="/v1/jobs/{job_id}/trials", tags=["external"])
RETRY = {"Retry-After": {"description": "Seconds until it is worth asking again.", "schema": {"type": "string"}}}
Number = Annotated[int, Path(ge=0, le=LARGEST)]
HELD = (
    errors.BadRequest,
    errors.UnknownJob,
    errors.NotYours,
    errors.UnknownTrial,
    errors.NotExternal,
    errors.LeaseLost,
)
UNTAKEN = (
    *(errors.BadRequest, errors.UnknownJob, errors.NotYours),
    *(errors.NotExternal, errors.HoldsTooMany, errors.JobFinished),
)


@router.post(
    "",
    summary="Take a trial",
    response_model=Handout,
    responses={
        **problems(*UNTAKEN, errors.Unavailable),
        204: {"description": "No trial just now: others train all there is, or the job is paused.", "headers": RETRY},
    },
)
async def take(job_id: JobId, request: Request, hold: Hold = Hold()) -> Response | Handout:  # noqa: B008
    """The next trial of a job of the task `external`, yours as long as you report; 409 `job-finished` at the end."""
    found = await external.hand_out(turns(request), job_id, hold)
    if isinstance(found, int):
        return Response(status_code=status.HTTP_204_NO_CONTENT, headers={"Retry-After": f"{found}"})
    return found


@router.post("/{number}/reports", summary="Report", responses=problems(*HELD, errors.Unavailable))
async def report(job_id: JobId, number: Number, batch: Batch, request: Request) -> Verdict:
    """Metrics of a trial that is yours, and whether to go on with it; without reports, only a sign of life."""
    return await reporting.take(turns(request), job_id, number, batch)


@router.post("/{number}/finish", summary="Finish a trial", responses=problems(*HELD, errors.Unavailable))
def finish(job_id: JobId, number: Number, ending: Ending, tx: Tx) -> Trial:
    """End a trial that is yours; sent twice, or after a `stop`, it changes nothing more."""
    return external.finish(tx, job_id, number, ending)


@router.get(
    "/{number}/rates",
    summary="Read learning rates",
    responses=problems(errors.UnknownJob, errors.UnknownTrial, errors.Unavailable),
)
def rates(
    job_id: JobId,
    number: Number,
    tx: ReadTx,
    start: Annotated[int, Query(ge=0, le=LARGEST, description="The first step, counted from 0.")] = 0,
    count: Annotated[int, Query(ge=1, le=RATES, description="How many steps at most.")] = RATES,
) -> Rates:
    """The learning rate of every step of a trial, as its reports leave it: for runs longer than one answer holds."""
    trial, metric = trials.get(tx, job_id, number), jobs.get(tx, job_id).spec.metric
    return Rates(start=start, learning_rates=Course.of(trial, metric).rates(start, count))
