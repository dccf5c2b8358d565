"""Request bodies that come packed: gzip is unpacked as it streams in, piece by piece; other encodings are refused.

What limits a body's size stands behind this and counts the unpacked bytes, so a body that unpacks to gigabytes is
refused as soon as it has grown too large, and is never in memory as a whole. It stands in front as well and counts the
packed ones, for many empty files unpack to nothing.
"""

import zlib
from collections.abc import AsyncIterator

from fastapi import HTTPException
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lrtune.errors import BadRequest, UnsupportedEncoding
from lrtune.space import shown

PIECE = 64 * 1024  # bytes unpacked at a time
GZIP = 16 + zlib.MAX_WBITS
BROKEN = "the body is no gzip, though its Content-Encoding says so"
CUT_OFF = "the body is gzip that breaks off before its end"


class Unpack:
    """Unpacks bodies with `Content-Encoding: gzip`; the application sees a body that was never packed."""

    def __init__(self, app: ASGIApp, *, limit: int) -> None:
        self.app = app
        self.limit = limit  # packed bytes, of an upload too

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        given = ", ".join(Headers(scope=scope).getlist("content-encoding")) if scope["type"] == "http" else ""
        found = [one.strip().lower() for one in given.split(",") if one.strip().lower() not in ("", "identity")]
        if not found:
            await self.app(scope, receive, send)
            return
        if found not in (["gzip"], ["x-gzip"]):
            refused = UnsupportedEncoding(f"found the Content-Encoding {shown(given[:60])}; accepted is gzip, or none")
            await self.app(scope, _refusing(refused), send)
            return
        as_plain = {**scope, "headers": list(scope["headers"])}
        headers = MutableHeaders(scope=as_plain)
        for name in ("content-encoding", "content-length"):
            del headers[name]
        try:
            await self.app(as_plain, _unpacked(receive, self.limit), send)
        finally:
            scope["route"] = as_plain.get("route")  # for who counts them


def _refusing(error: UnsupportedEncoding) -> Receive:
    """No body: whoever asks for it, by then in the route that its requests are counted by, gets the error."""

    async def refusing() -> Message:
        raise error

    return refusing


def _unpacked(receive: Receive, limit: int) -> Receive:
    """The same messages with an unpacked body. Raises BadRequest where it is no gzip or breaks off."""
    pieces, over = _pieces(receive, limit), False

    async def unpacked() -> Message:
        nonlocal over
        if over:
            return await receive()  # only that the client has gone can still come
        message = await anext(pieces)
        over = not message.get("more_body", False)
        return message

    return unpacked


async def _pieces(receive: Receive, limit: int) -> AsyncIterator[Message]:
    packer, more, whole, seen = zlib.decompressobj(GZIP), True, True, 0
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            yield message
            return
        packed, more = message.get("body", b""), message.get("more_body", False)
        seen += len(packed)
        if seen > limit:
            raise HTTPException(413)
        while packed:
            if whole:  # the first file, or another behind it
                packer, whole = zlib.decompressobj(GZIP), False
            try:
                piece = packer.decompress(packed, PIECE)
            except zlib.error:
                raise BadRequest(BROKEN, [{"pointer": "", "detail": BROKEN}]) from None
            whole, packed = packer.eof, packer.unused_data.lstrip(b"\0") if packer.eof else packer.unconsumed_tail
            if piece:
                yield {"type": "http.request", "body": piece, "more_body": True}
    if not whole:
        raise BadRequest(CUT_OFF, [{"pointer": "", "detail": CUT_OFF}])
    yield {"type": "http.request", "body": b"", "more_body": False}
