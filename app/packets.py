"""What is written to a connection in one go leaves in one packet: the head of an answer together with its body.

Uvicorn writes the two one after the other, and uvloop sends at once what it is given: two ways to the kernel for each
answer, and twice the client is woken, at a tenth of what a report costs the server. Uvicorn has neither a setting nor a
hook for it, so its protocols are given a transport that waits until the event loop's next turn.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


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
    """Gather what every connection of this process writes; once is enough."""
    kinds: list[Any] = [HttpToolsProtocol, H11Protocol]
    for kind in kinds:
        if not hasattr(kind, "lrtune_ungathered"):
            kind.lrtune_ungathered, kind.connection_made = kind.connection_made, _connection_made


def _connection_made(self: Any, transport: asyncio.Transport) -> None:
    self.lrtune_ungathered(Gathered(transport))
