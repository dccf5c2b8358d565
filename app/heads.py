"""HEAD wherever GET is: the same status and headers, without the body."""

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Head:
    """Answers a HEAD with what a GET would be answered; a stream is left as soon as its headers are known."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return
        answered = False

        async def bare(message: Message) -> None:
            nonlocal answered
            if not answered and message["type"] == "http.response.start":
                answered = True
                await send(message)
                await send({"type": "http.response.body"})

        async def gone() -> Message:
            return {"type": "http.disconnect"} if answered else await receive()

        as_get = {**scope, "method": "GET", "headers": list(scope["headers"])}
        headers = MutableHeaders(scope=as_get)
        for name in ("range", "if-range"):  # they say something of a GET only
            del headers[name]
        try:
            await self.app(as_get, gone, bare)
        finally:
            scope["route"] = as_get.get("route")  # for who counts them
