"""What every stream of server-sent events has: its headers, signs of life in silence, and an end with the server."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from fastapi import Request
from fastapi.responses import StreamingResponse
from sqlalchemy.exc import SQLAlchemyError
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
    return StreamingResponse(_counted(state, request.state.caller.key, body), media_type=STREAM, headers=headers)


async def _counted(state: State, key_id: str, body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """A stream that is over when its key is revoked, at its next word."""
    state.streams += 1
    try:
        async for part in body:
            with contextlib.suppress(SQLAlchemyError):  # where the database is away, nothing is known
                if await state.keys.of_id(key_id) is None:
                    return
            yield part
    finally:
        state.streams -= 1


async def pause(stopping: asyncio.Event, seconds: float) -> None:
    """Wait, but not for a server that stops."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stopping.wait(), seconds)
