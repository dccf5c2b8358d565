"""For those who run the service: is it up, is it ready, what is it doing."""

from typing import Literal

from fastapi import APIRouter, Depends, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel

import migrations
from app.auth import authorized_for_metrics
from app.deps import ReadTx
from app.problems import REFUSED, documented
from lrtune import errors
from lrtune.store.census import census

router = APIRouter(tags=["operations"])


class Health(BaseModel):
    """All is well."""

    status: Literal["ok"] = "ok"


@router.get("/healthz", summary="Is it up?", responses=documented(errors.Internal))
def healthz() -> Health:
    """The process answers. Asks nothing else."""
    return Health()


@router.get("/readyz", summary="Is it ready?", responses=documented(errors.Internal, errors.Unavailable))
def readyz(tx: ReadTx) -> Health:
    """The database answers and has the newest schema."""
    if not migrations.is_current(tx.connection()):
        raise errors.Unavailable("the database's schema is not current; `lrtune migrate` brings it up to date")
    return Health()


@router.get(
    "/metrics",
    summary="Metrics",
    dependencies=[Depends(authorized_for_metrics)],
    response_class=Response,
    responses={
        **documented(*REFUSED, errors.Internal, errors.Unavailable),
        200: {"description": "Prometheus text.", "content": {"text/plain": {"schema": {"type": "string"}}}},
    },
)
def metrics(request: Request, tx: ReadTx) -> Response:
    """Requests by route, jobs and trials by state, and workers, as Prometheus reads them."""
    return Response(request.app.state.requests.page(census(tx)), media_type=CONTENT_TYPE_LATEST)
