"""The first page: the jobs."""

from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response

from app.deps import Cursor, Only, ReadTx
from app.rendering import page
from lrtune.store import jobs, workers
from lrtune.wire.results import JobState

router = APIRouter()
PAGE = 20


@router.get("/")
def listed(
    request: Request,
    tx: ReadTx,
    only: Only,
    state: Annotated[str, Query(max_length=20)] = "",
    tag: Annotated[str, Query(max_length=301, pattern=r"^[^\x00]*$")] = "",
    owner: Annotated[str, Query(max_length=64, pattern=r"^[^\x00]*$")] = "",
    cursor: Cursor = None,
) -> Response:
    """The jobs, newest first, by state, tag and owner."""
    wanted = JobState(state) if state in list(JobState) else None
    asked: dict[str, Any] = {"state": wanted or "", "tag": tag.strip(), "owner": owner.strip()}
    narrowed: dict[str, Any] = {
        "state": wanted,
        "tag": asked["tag"] or None,
        "owner": asked["owner"] or None,
        "only": only,
    }
    found = jobs.page(tx, limit=PAGE, cursor=cursor or None, **narrowed)
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
