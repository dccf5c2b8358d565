"""Request bodies are refused while they stream in, before they fill the memory, and when they come too slowly.

Starlette has a middleware for this, but it answers in plain text where every error of ours is a problem.
"""

import asyncio
from collections.abc import Collection

from fastapi import HTTPException, Request
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.addresses import path

BODY_SECONDS = 60.0  # for all of a body; uploads may take as long as they need


async def _before(until: float, receive: Receive) -> Message:
    """The next part of a body, which must come before a time of the loop's clock. Raises HTTPException 408."""
    try:
        async with asyncio.timeout_at(until):
            return await receive()
    except TimeoutError:
        raise HTTPException(408) from None


class BodyLimit:
    """Refuses bodies of more than `limit` bytes, with or without a Content-Length, and those that take over a minute.

    Not so on the paths of uploads: those are never in memory as a whole, and their route has a limit of its own.
    """

    def __init__(self, app: ASGIApp, *, limit: int, uploads: Collection[str], packed: bool = False) -> None:
        self.app = app
        self.limit = limit
        self.uploads = uploads
        self.packed = packed  # whether only packed bodies are looked at: what is not packed is looked at further in

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http" or (scope["method"] == "POST" and path(Request(scope)) in self.uploads):
            return await self.app(scope, receive, send)
        headers = Headers(scope=scope)
        if self.packed and "content-encoding" not in headers:
            return await self.app(scope, receive, send)
        announced, seen, whole = headers.get("content-length", ""), 0, False
        if announced.isdigit() and int(announced) > self.limit:
            seen = int(announced)
        until = asyncio.get_running_loop().time() + BODY_SECONDS

        async def limited() -> Message:
            nonlocal seen, whole
            if seen > self.limit:
                raise HTTPException(413)
            message = await receive() if whole else await _before(until, receive)
            seen += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if seen > self.limit:
                raise HTTPException(413)
            return message

        return await self.app(scope, limited, send)
