"""The pulse of a job, as server-sent events: a word whenever something has changed, so that its page looks again.

The log (`/v1/jobs/{id}/events`) says what happened; this also beats with every report of a trial that is training.
"""

from collections.abc import AsyncIterator

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse
from fastapi.sse import KEEPALIVE_COMMENT
from starlette.concurrency import run_in_threadpool

from app.deps import JobId
from app.streams import KEEPALIVE, answer
from app.watching import Watch, beat
from lrtune.errors import UnknownJob
from lrtune.store import Database, lookup
from lrtune.wire.results import OVER

router = APIRouter()


@router.get("/jobs/{job_id}/live")
async def live(job_id: JobId, request: Request) -> StreamingResponse:
    """A message whenever the job has changed, until it is over."""
    await run_in_threadpool(_known, request.app.state.database, job_id)
    return answer(request, _beats(request.app.state.watch, job_id))


def _known(database: Database, job_id: str) -> None:
    """Raise UnknownJob: that is an error, not a stream."""
    with database.read() as tx:
        lookup.job(tx, job_id)


async def _beats(watch: Watch, job_id: str) -> AsyncIterator[bytes]:
    before = None
    with watch.following(job_id, steps=True) as follower:
        while not watch.over:
            try:
                now = follower.pulse
            except UnknownJob:
                return
            if now is not None and now != before:
                before = now
                yield beat(now)
                if now.state in OVER:
                    return
            if not await follower.news(KEEPALIVE):
                yield KEEPALIVE_COMMENT
