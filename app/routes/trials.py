"""Trials, and the answer that they give."""

from itertools import chain, islice
from typing import Annotated

from fastapi import APIRouter, Path, Query, Response
from fastapi.responses import StreamingResponse

from app import curves
from app.deps import LARGEST, PAGE, Cursor, JobId, Limit, ReadTx
from app.problems import problems
from lrtune import errors
from lrtune.analysis.report import report
from lrtune.export import FORMATS, export
from lrtune.store import audits, jobs, trials
from lrtune.wire.report import Findings
from lrtune.wire.results import Best, Page, Trial, TrialDetail

router = APIRouter(prefix="/v1/jobs/{job_id}")
POINTS = 2000
WHOLE = (
    8  # pieces of a file from which on it is sent as it is made, with no Content-Length; no transaction is open then
)
FILES = {
    "text/x-python": {"schema": {"type": "string"}},
    "application/json": {"schema": {"type": "object"}},
    "text/csv": {"schema": {"type": "string"}},
}
FILE_NAME = {"Content-Disposition": {"description": "A name for the file.", "schema": {"type": "string"}}}


@router.get(
    "/trials", tags=["trials"], summary="List trials", responses=problems(errors.UnknownJob, errors.Unavailable)
)
def page(job_id: JobId, tx: ReadTx, limit: Limit = PAGE, cursor: Cursor = None) -> Page[Trial]:
    """A job's trials by number, without their reports."""
    return trials.page(tx, job_id, limit=limit, cursor=cursor)


@router.get(
    "/trials/{number}",
    tags=["trials"],
    summary="Read a trial",
    responses=problems(errors.UnknownJob, errors.UnknownTrial, errors.Unavailable),
)
def get(job_id: JobId, number: Annotated[int, Path(ge=0, le=LARGEST)], tx: ReadTx) -> TrialDetail:
    """One trial with its reports and its learning-rate curve."""
    trial = trials.get(tx, job_id, number)
    metric = jobs.get(tx, job_id).spec.metric
    return TrialDetail(**dict(trial), curve=curves.of_trial(trial, metric, POINTS))


@router.get(
    "/best",
    tags=["best"],
    summary="Read the answer",
    responses=problems(errors.UnknownJob, errors.NoResultYet, errors.Unavailable),
)
def best(job_id: JobId, tx: ReadTx) -> Best:
    """The best configuration, its value over seeds with a 95 % interval, and the job's baseline beside it."""
    return jobs.best(tx, job_id)


@router.get(
    "/report",
    tags=["best"],
    summary="Read the answer's report",
    responses=problems(errors.UnknownJob, errors.NoResultYet, errors.Unavailable),
)
def reported(job_id: JobId, tx: ReadTx) -> Findings:
    """Where good rates lie, what happens above and below, what it cost and saved, and how sure the answer is."""
    job = jobs.get(tx, job_id)
    if job.best is None:
        raise errors.NoResultYet
    return report(job.spec, job.best, trials.history(tx, job_id), audits.read(tx, job_id))


@router.get(
    "/best/export",
    tags=["best"],
    summary="Export the answer",
    response_class=Response,
    responses={
        **problems(errors.UnknownJob, errors.NoResultYet, errors.Unavailable),
        200: {"description": "The file.", "content": FILES, "headers": FILE_NAME},
    },
)
def exported(
    job_id: JobId,
    tx: ReadTx,
    format: Annotated[str, Query(description="What to write.", json_schema_extra={"enum": list(FORMATS)})] = FORMATS[0],
) -> Response:
    """The answer as something to run in the framework that it names, or the rate of every step as JSON or CSV."""
    found = jobs.best(tx, job_id)
    file = export(found, trials.get(tx, job_id, found.trial), format)
    headers = {"Content-Disposition": f'attachment; filename="{file.filename}"'}
    pieces = file.pieces()
    first = list(islice(pieces, WHOLE))
    if len(first) < WHOLE:
        return Response("".join(first), media_type=file.media_type, headers=headers)
    return StreamingResponse(chain(first, pieces), media_type=file.media_type, headers=headers)
