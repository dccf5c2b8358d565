"""What every stream of server-sent events has: its headers, signs of life in silence, and an end with the server."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.datastructures import State

from lrtune.errors import Unavailable

STREAM = "text/event-stream"
MOST = 2000  # open at once, of all who have the key
KEEPALIVE = 15.0  # seconds of silence after which a comment is sent


def answer(request: Request, body: AsyncIterator[bytes]) -> StreamingResponse:
    """A stream as an answer that nothing on its way may hold back. Raises Unavailable where very many are open."""
    state = request.app.state
    if state.streams >= MOST:
        raise Unavailable(f"{MOST} event streams are open, which is as many as there may be; close some, or read pages")
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(_counted(state, body), media_type=STREAM, headers=headers)


async def _counted(state: State, body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    state.streams += 1
    try:
        async for part in body:
            yield part
    finally:
        state.streams -= 1


async def pause(stopping: asyncio.Event, seconds: float) -> None:
    """Wait, but not for a server that stops."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stopping.wait(), seconds)
