"""A connection that takes its time over the head of a request is closed: many of them would leave no room for others.

Uvicorn waits for a head for ever, and has neither a setting nor a hook for it; so its two protocols are given a timer
here, as each connection is made. The rest of a request is timed by `limits.py`.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_SECONDS = 10.0  # for the first request, and between two; a head is a few packets


def install() -> None:
    """Time the heads of every connection of this process; once is enough."""
    kinds: list[Any] = [HttpToolsProtocol, H11Protocol]
    for kind in kinds:
        if not hasattr(kind, "lrtune_made"):
            kind.lrtune_made, kind.connection_made = kind.connection_made, _connection_made


def _connection_made(self: Any, transport: asyncio.Transport) -> None:
    self.lrtune_made(transport)
    _later(self, self.cycle)


def _later(protocol: Any, before: object) -> None:
    protocol.loop.call_later(HEAD_SECONDS, _look, protocol, before)


def _look(protocol: Any, before: object) -> None:
    """Close a connection on which no request has been answered or asked since the last time.

    `before` is the request that had been answered then; None where there had been none.
    """
    transport, cycle = protocol.transport, protocol.cycle
    if transport.is_closing() or transport.get_protocol() is not protocol:
        return
    waits = cycle is None or cycle.response_complete
    if waits and cycle is before:
        transport.close()
        return
    _later(protocol, cycle if waits else protocol)
