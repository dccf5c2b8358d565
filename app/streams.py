"""What every stream of server-sent events has: its headers, signs of life in silence, and an end with the server."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from fastapi.responses import StreamingResponse

STREAM = "text/event-stream"
KEEPALIVE = 15.0  # seconds of silence after which a comment is sent


def answer(body: AsyncIterator[bytes]) -> StreamingResponse:
    """A stream as an answer that nothing on its way may hold back."""
    return StreamingResponse(body, media_type=STREAM, headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})


async def pause(stopping: asyncio.Event, seconds: float) -> None:
    """Wait, but not for a server that stops."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stopping.wait(), seconds)
