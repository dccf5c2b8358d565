"""Trials, and the answer that they give."""

from collections.abc import AsyncIterator
from itertools import chain, islice
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.responses import StreamingResponse

from app import curves, reports, thinking
from app.auth import Guarded
from app.deps import LARGEST, PAGE, Cursor, JobId, Limit, ReadTx, Thinking
from app.problems import problems
from lrtune import errors
from lrtune.export import FORMATS, export
from lrtune.store import Database, jobs, trials
from lrtune.wire.horizons import MOST_STEPS, AtHorizon
from lrtune.wire.report import Findings
from lrtune.wire.results import Best, Page, Trial, TrialDetail

router = APIRouter(route_class=Guarded, prefix="/v1/jobs/{job_id}")
WHOLE = (
    8  # pieces of a file from which on it is sent as it is made, with no Content-Length; no transaction is open then
)
FILES = {
    "text/x-python": {"schema": {"type": "string"}},
    "application/json": {"schema": {"type": "object"}},
    "text/csv": {"schema": {"type": "string"}},
}
REPORTS = {
    "text/html": {"schema": {"type": "string"}},
    "text/markdown": {"schema": {"type": "string"}},
    "image/png": {"schema": {"type": "string", "format": "binary"}},
}
FILE_NAME = {"Content-Disposition": {"description": "A name for the file.", "schema": {"type": "string"}}}

Steps = Annotated[
    int | None,
    Query(ge=1, le=MOST_STEPS, description="The optimizer steps of a run that is longer, or shorter, than the job's."),
]


async def _in_turn(request: Request, steps: Steps = None) -> AsyncIterator[Database]:
    """The database, in turn with those who read; where the answer is carried over, with those who think."""
    async with request.app.state.thinking if steps else request.app.state.reading:
        yield request.app.state.database


InTurn = Annotated[Database, Depends(_in_turn, scope="function")]


def _answer(database: Database, job_id: str, steps: int | None) -> tuple[Best, AtHorizon | None]:
    """A job's answer, and as it is carried over to so many steps."""
    with database.read() as tx:
        found = jobs.best(tx, job_id)
        if steps is None:
            return found, None
    return found, thinking.think(database, reports.at_horizon, job_id, steps)


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
    return TrialDetail(**dict(trial), curve=curves.of_trial(trial, metric, reports.POINTS))


@router.get(
    "/best",
    tags=["best"],
    summary="Read the answer",
    responses=problems(errors.UnknownJob, errors.NoResultYet, errors.Unavailable),
)
def best(job_id: JobId, database: InTurn, steps: Steps = None) -> Best | AtHorizon:
    """The best configuration, its value over seeds with a 95 % interval, and the job's baseline beside it.

    With `steps` the answer is what the best peak rate and schedule would be over so many: the schedule stretched, the
    peak with a 95 % interval, and what it is known by.
    """
    found, at = _answer(database, job_id, steps)
    return at or found


@router.get(
    "/report",
    tags=["best"],
    summary="Read the answer's report",
    response_model=Findings,
    responses={
        **problems(errors.UnknownJob, errors.NoResultYet, errors.Unavailable),
        200: {"description": "The findings; or the file.", "content": REPORTS, "headers": FILE_NAME},
    },
)
def reported(
    job_id: JobId,
    database: Thinking,
    format: Annotated[
        Literal["json", "html", "md", "png"], Query(description="The findings as JSON, or a file to send around.")
    ] = "json",
) -> Response:
    """Where good rates lie, what happens above and below, what it cost and saved, and how sure the answer is.

    And what the answer would be over a few multiples of the job's horizon.
    """
    if format == "json":
        found = thinking.think(database, reports.findings, job_id)
        return Response(found.model_dump_json(), media_type="application/json")
    content = thinking.think(database, reports.file, job_id, format)
    headers = {"Content-Disposition": f'attachment; filename="{job_id}.{format}"'}
    return Response(content, media_type=reports.MEDIA[format], headers=headers)


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
    database: InTurn,
    format: Annotated[str, Query(description="What to write.", json_schema_extra={"enum": list(FORMATS)})] = FORMATS[0],
    steps: Steps = None,
) -> Response:
    """The answer as something to run in the framework that it names, or the rate of every step as JSON or CSV.

    With `steps` it is carried over to a run of so many.
    """
    found, at = _answer(database, job_id, steps)
    with database.read() as tx:
        file = export(found, trials.get(tx, job_id, found.trial), format, at)
    headers = {"Content-Disposition": f'attachment; filename="{file.filename}"'}
    pieces = file.pieces()
    first = list(islice(pieces, WHOLE))
    if len(first) < WHOLE:
        return Response("".join(first), media_type=file.media_type, headers=headers)
    return StreamingResponse(chain(first, pieces), media_type=file.media_type, headers=headers)
