"""The first page: the jobs."""

from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response

from app.deps import Cursor, ReadTx
from app.rendering import page
from lrtune.store import jobs, workers
from lrtune.wire.results import JobState

router = APIRouter()
PAGE = 20


@router.get("/")
def listed(
    request: Request,
    tx: ReadTx,
    state: Annotated[str, Query(max_length=20)] = "",
    tag: Annotated[str, Query(max_length=301, pattern=r"^[^\x00]*$")] = "",
    cursor: Cursor = None,
) -> Response:
    """The jobs, newest first, by state and tag."""
    wanted = JobState(state) if state in list(JobState) else None
    found = jobs.page(tx, state=wanted, tag=tag.strip() or None, limit=PAGE, cursor=cursor or None)
    asked: dict[str, Any] = {"state": wanted or "", "tag": tag.strip()}
    return page(
        request,
        "jobs.html",
        jobs=found.items,
        states=list(JobState),
        older=urlencode(asked | {"cursor": found.next}) if found.next else None,
        workers=len(workers.alive(tx)),
        first=cursor is None,
        **asked,
    )
