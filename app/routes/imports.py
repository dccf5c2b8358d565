"""Jobs that were done elsewhere."""

from pathlib import Path

from fastapi import APIRouter, Depends, Request, Response, status
from sqlalchemy.orm import Session

from app import admission, uploaded
from app.deps import Tx, remember_body
from app.problems import invalid, problems
from app.routes.jobs import LOCATION, Key
from lrtune import errors
from lrtune.store import imports, tasks
from lrtune.wire.imports import ImportedJob
from lrtune.wire.job import JobSpec
from lrtune.wire.results import Job

router = APIRouter(prefix="/v1/imports", tags=["jobs"])


@router.post(
    "",
    status_code=status.HTTP_201_CREATED,
    summary="Import a finished job",
    response_model=Job,
    dependencies=[Depends(remember_body)],
    responses={
        **problems(errors.BadRequest, errors.IdempotencyKeyReused, errors.Unavailable),
        200: {"model": Job, "description": "The job that this key made before."},
        201: {"description": "The job, succeeded.", "headers": LOCATION},
    },
)
def import_(imported: ImportedJob, request: Request, tx: Tx, idempotency_key: Key = None) -> Response:
    """Store a job that was done elsewhere with its trials: to look at, to export, to begin another one from."""
    job, new = imports.create(
        tx, _admitted(tx, imported, request.app.state.settings.data_dir), imported, idempotency_key=idempotency_key
    )
    headers = {"Location": f"/v1/jobs/{job.id}"}
    return Response(job.model_dump_json(), 201 if new else 200, headers=headers, media_type="application/json")


def _admitted(tx: Session, imported: ImportedJob, data_dir: Path) -> JobSpec:
    """The job after the checks that any job passes, its horizon in steps. Raises Invalid."""
    try:
        spec = admission.admit(uploaded.pinned(tx, imported.job, data_dir), data_dir, tasks.known(tx))
    except errors.Invalid as error:
        raise invalid([{**one, "pointer": f"/job{one['pointer']}"} for one in error.errors]) from None
    steps = spec.horizon.steps if spec.horizon else None
    if steps is None:
        raise invalid([{"pointer": "/job/horizon", "detail": 'accepted is {"steps": 2000}: no worker will count them'}])
    longest = [number for number, trial in enumerate(imported.trials) if trial.horizon > steps]
    if longest:
        detail = f"found {imported.trials[longest[0]].horizon}; accepted is at most the job's horizon of {steps}"
        raise invalid([{"pointer": f"/trials/{longest[0]}/horizon", "detail": detail}])
    return spec
