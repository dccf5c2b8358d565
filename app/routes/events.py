"""A job's log: a page of it, or the same as server-sent events that go on until the job is over."""

import re
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import Response
from fastapi.sse import KEEPALIVE_COMMENT
from sqlalchemy.exc import DBAPIError
from starlette.concurrency import run_in_threadpool

from app.accept import prefers
from app.auth import Guarded
from app.deps import LARGEST, MOST, PAGE, JobId, Limit
from app.problems import problems
from app.streams import KEEPALIVE, STREAM, answer
from app.watching import Line, Watch, beat, line
from lrtune import errors
from lrtune.store import Database, events, jobs
from lrtune.store.changes import Pulse
from lrtune.wire.results import OVER, Event, Page

router = APIRouter(route_class=Guarded, prefix="/v1/jobs/{job_id}/events", tags=["events"])
AWAY = 0.5  # seconds until a database that is away is asked again
After = Annotated[int, Query(ge=0, le=LARGEST, description="Only what came after the event with this id.")]
Beats = Annotated[bool, Query(description="Of streams: also a `beat`, without an id, when running trials get on.")]
LastId = Annotated[str | None, Header(alias="Last-Event-ID", description="As `after`, for streams that reconnect.")]


@router.get(
    "",
    summary="Read or follow the log",
    response_model=Page[Event],
    responses={
        **problems(errors.UnknownJob, errors.Unavailable),
        200: {
            "description": "A page; or, with `Accept: text/event-stream`, each event as it happens.",
            "content": {STREAM: {"schema": {"type": "string"}}},
        },
    },
)
async def log(
    job_id: JobId,
    request: Request,
    after: After = 0,
    limit: Limit = PAGE,
    beats: Beats = False,
    last_event_id: LastId = None,
) -> Response:
    """The job's event log from `after` on. Asked for as an event stream, it goes on until the job is over."""
    database: Database = request.app.state.database
    if not prefers(request, STREAM):
        page = await run_in_threadpool(_page, database, job_id, after, limit)
        return Response(page.model_dump_json(), media_type="application/json")
    if last_event_id and re.fullmatch(r"[0-9]{1,9}", last_event_id):
        after = int(last_event_id)
    await run_in_threadpool(_page, database, job_id, after, 1)  # an unknown job is a problem, not a stream
    return answer(request, _stream(request.app.state.watch, database, job_id, after, beats))


def _page(database: Database, job_id: str, after: int, limit: int) -> Page[Event]:
    with database.read() as tx:
        return events.page(tx, job_id, after=after, limit=limit)


async def _stream(watch: Watch, database: Database, job_id: str, after: int, beats: bool) -> AsyncIterator[bytes]:
    """The log from `after` on, until the job is over, or gone, or this server stops."""
    before: Pulse | None = None
    with watch.following(job_id, steps=beats) as follower:
        while not watch.over:
            try:
                known, pulse = follower.after(after), follower.pulse
                found, over = known if known is not None else await run_in_threadpool(_news, database, job_id, after)
            except DBAPIError:  # the database is away: the stream waits for it
                await follower.news(AWAY)
                continue
            except errors.UnknownJob:
                return
            if found:  # in one piece: all who follow a job are woken at once, and each piece keeps others waiting
                after = found[-1].id
                yield b"".join(one.sent for one in found)
            if over and not found:
                return
            if beats and pulse is not None and pulse != before:
                before = pulse
                yield beat(pulse)
            if not found and not await follower.news(KEEPALIVE):
                yield KEEPALIVE_COMMENT


def _news(database: Database, job_id: str, after: int) -> tuple[list[Line], bool]:
    """What came after `after`, and whether the job is over: asked first, so that the last event is not missed."""
    with database.read() as tx:
        over = jobs.state(tx, job_id) in OVER
        return [line(event) for event in events.page(tx, job_id, after=after, limit=MOST).items], over
