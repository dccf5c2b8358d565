"""The pulse of a job, as server-sent events: a word whenever something has changed, so that its page looks again.

The log (`/v1/jobs/{id}/events`) says what happened; this also beats with every report of a trial that is training.
"""

import asyncio
import json
from collections.abc import AsyncIterator

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from sqlalchemy.exc import DBAPIError
from starlette.concurrency import run_in_threadpool

from app.deps import JobId
from app.streams import KEEPALIVE, answer, pause
from lrtune.errors import UnknownJob
from lrtune.store import Database, charts
from lrtune.wire.results import OVER

router = APIRouter()
POLL = 1.0  # seconds


@router.get("/jobs/{job_id}/live")
async def live(job_id: JobId, request: Request) -> StreamingResponse:
    """A message whenever the job has changed, until it is over."""
    database: Database = request.app.state.database
    await run_in_threadpool(_pulse, database, job_id)  # an unknown job is an error, not a stream
    return answer(request, _beats(database, job_id, request.app.state.stopping))


def _pulse(database: Database, job_id: str) -> tuple[str, int, int]:
    with database.read() as tx:
        return charts.pulse(tx, job_id)


async def _beats(database: Database, job_id: str, stopping: asyncio.Event) -> AsyncIterator[bytes]:
    before: tuple[str, int, int] | None = None
    idle = 0.0
    while not stopping.is_set():
        try:
            now = await run_in_threadpool(_pulse, database, job_id)
        except DBAPIError:  # the database is away: the stream waits for it
            now = before or ("", 0, 0)
        except UnknownJob:
            return
        if now != before:
            before, idle = now, 0.0
            yield format_sse_event(data_str=json.dumps({"over": now[0] in OVER, "beat": now[1:]}))
        if now[0] in OVER:
            return
        idle += POLL
        if idle >= KEEPALIVE:
            idle = 0.0
            yield KEEPALIVE_COMMENT
        await pause(stopping, POLL)
