"""Jobs that were done elsewhere."""

from fastapi import APIRouter, Depends, Request, Response, status

from app import admission
from app.addresses import root
from app.auth import Guarded
from app.deps import Only, Tx, Who, remember_body
from app.problems import invalid, problems
from app.routes.jobs import LOCATION, Key
from lrtune import errors
from lrtune.store import imports
from lrtune.wire.imports import ImportedJob
from lrtune.wire.results import Job

router = APIRouter(route_class=Guarded, prefix="/v1/imports", tags=["jobs"])


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
def import_(
    imported: ImportedJob, request: Request, tx: Tx, who: Who, only: Only, idempotency_key: Key = None
) -> Response:
    """Store a job that was done elsewhere with its trials: to look at, to export, to begin another one from."""
    data_dir = request.app.state.settings.data_dir
    try:
        admitted = admission.admit(tx, imported.job, data_dir, to_train=False, mine=who.person, only=only)
    except errors.Invalid as error:
        raise invalid([{**one, "pointer": f"/job{one['pointer']}"} for one in error.errors]) from None
    _check_horizons(imported, admitted.horizon.steps)
    job, new = imports.create(tx, admitted, imported, owner=who.person, only=only, idempotency_key=idempotency_key)
    headers = {"Location": f"{root(request)}/v1/jobs/{job.id}"}
    return Response(job.model_dump_json(), 201 if new else 200, headers=headers, media_type="application/json")


def _check_horizons(imported: ImportedJob, steps: int | None) -> None:
    """Raise Invalid where the job's horizon is not in steps, or a trial's is longer."""
    if steps is None:
        raise invalid([{"pointer": "/job/horizon", "detail": 'accepted is {"steps": 2000}: no worker will count them'}])
    for number, trial in enumerate(imported.trials):
        if trial.horizon > steps:
            detail = f"found {trial.horizon}; accepted is at most the job's horizon of {steps}"
            raise invalid([{"pointer": f"/trials/{number}/horizon", "detail": detail}])
