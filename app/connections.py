"""What uvicorn's connections lack, which has neither settings nor hooks for it: patience that ends, and whole answers.

A connection that takes its time over the head of a request is closed: many of them would leave no room for others. The
rest of a request is timed by `limits.py`. And what is written to a connection in one go leaves in one packet: uvicorn
writes an answer's head and its body one after the other, and uvloop sends at once what it is given: two ways to the
kernel for each answer, and twice the client is woken, at a tenth of what a report costs the server.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_SECONDS = 10.0  # for the first request, and between two; a head is a few packets


class Gathered:
    """A transport that sends what was written in one turn of the event loop together."""

    def __init__(self, transport: Any) -> None:
        self._transport, self._pieces = transport, list[bytes]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, piece: bytes) -> None:
        """Send this, behind what was written before it."""
        if not self._pieces:
            asyncio.get_running_loop().call_soon(self._send)
        self._pieces.append(piece)

    def close(self) -> None:
        """Send what there is, and close."""
        self._send()
        self._transport.close()

    def _send(self) -> None:
        pieces, self._pieces = self._pieces, []
        if pieces and not self._transport.is_closing():  # the client may have gone meanwhile
            self._transport.write(b"".join(pieces))


def install() -> None:
    """Let every connection of this process be so; once is enough."""
    kinds: list[Any] = [HttpToolsProtocol, H11Protocol]
    for kind in kinds:
        if not hasattr(kind, "lrtune_made"):
            kind.lrtune_made, kind.connection_made = kind.connection_made, _connection_made


def _connection_made(self: Any, transport: asyncio.Transport) -> None:
    self.timeout_keep_alive = max(self.timeout_keep_alive, HEAD_SECONDS)
    self.lrtune_made(Gathered(transport))
    _later(self, _waits_for(self))


def _later(protocol: Any, before: object) -> None:
    protocol.loop.call_later(HEAD_SECONDS, _look, protocol, before)


def _look(protocol: Any, before: object) -> None:
    """Close a connection that has waited for the same since the last time, when it was for what is `before`."""
    transport = protocol.transport
    if transport.is_closing() or transport.get_protocol() is not protocol:
        return
    now = _waits_for(protocol)
    if now is not None and now == before:
        transport.close()
        return
    _later(protocol, now)


def _waits_for(protocol: Any) -> object:
    """What a connection waits for: None while it answers, else the next request, or the rest of that one's head.

    The next is the one after the last that was answered; nothing of it has come as long as uvicorn's own timer runs, so
    that a head has its time from when it begins.
    """
    cycle = protocol.cycle
    if cycle is not None and not cycle.response_complete:
        return None
    return cycle, protocol.timeout_keep_alive_task is None
