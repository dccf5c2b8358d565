"""For those who run the service: is it up, is it ready, what is it doing."""

from typing import Literal

from fastapi import APIRouter, Depends, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel

from app.auth import authorized_for_metrics
from app.deps import ReadTx
from app.problems import REFUSED, documented
from lrtune import errors
from lrtune.store import schema
from lrtune.store.census import census

router = APIRouter(tags=["operations"])


class Health(BaseModel):
    """All is well."""

    status: Literal["ok"] = "ok"


@router.get("/healthz", summary="Is it up?", responses=documented(errors.Internal))
async def healthz() -> Health:
    """The process answers. Asks nothing else, and waits for no thread: pages ask every two seconds."""
    return Health()


@router.get("/readyz", summary="Is it ready?", responses=documented(errors.Internal, errors.Unavailable))
def readyz(tx: ReadTx) -> Health:
    """The database answers and has the newest schema."""
    if wrong := schema.differs(schema.found(tx)):
        raise errors.Unavailable(wrong)
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
    """Requests, decisions, jobs and trials by state, what waits, what was lost, and workers, as Prometheus reads it."""
    state = request.app.state
    return Response(state.requests.page(census(tx), state.settings.data_dir), media_type=CONTENT_TYPE_LATEST)
