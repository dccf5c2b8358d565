"""Request bodies are refused while they stream in, before they fill the memory.

Starlette has a middleware for this, but it answers in plain text where every error of ours is a problem.
"""

from fastapi import HTTPException, Request
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.addresses import path


class BodyLimit:
    """Refuses bodies of more than `limit` bytes, with or without a Content-Length, except on the path of uploads.

    An upload is never in memory as a whole; the route that takes it has a limit of its own.
    """

    def __init__(self, app: ASGIApp, *, limit: int, uploads: str) -> None:
        self.app = app
        self.limit = limit
        self.uploads = uploads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] == "http" and (scope["method"], path(Request(scope))) == ("POST", self.uploads):
            return await self.app(scope, receive, send)
        seen = 0

        async def limited() -> Message:
            nonlocal seen
            message = await receive() if seen <= self.limit else {"type": "http.request"}
            seen += len(message.get("body", b""))
            if seen > self.limit:
                raise HTTPException(413)
            return message

        announced = Headers(scope=scope).get("content-length", "") if scope["type"] == "http" else ""
        seen = int(announced) if announced.isdigit() and int(announced) > self.limit else 0
        return await self.app(scope, limited, send)
