"""A TCP port that leads to another one, or to a Unix socket, and whose connections can be cut."""

import asyncio
import threading
from contextlib import suppress

PART = 64 * 1024  # bytes that are handed on at once


class Proxy:
    """Runs in a thread of its own. `refusing`: who comes is turned away at once."""

    def __init__(self, target: int | str, *, host: str = "127.0.0.1") -> None:
        self.target, self.refusing, self.port, self._host = target, False, 0, host
        self._open: set[asyncio.StreamWriter] = set()
        self._loop, ready = asyncio.new_event_loop(), threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), name="proxy", daemon=True)
        self._thread.start()
        ready.wait()

    def refuse(self) -> int:
        """Break every connection off, as a cable would, and turn away who comes; how many there were."""
        self.refusing, found = True, len(self._open)
        self._loop.call_soon_threadsafe(self._abort)
        return found

    def admit(self) -> None:
        """Let everybody through again."""
        self.refusing = False

    def close(self) -> None:
        """Cut, and take nobody any more."""
        self.refuse()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _abort(self) -> None:
        for each in list(self._open):
            each.transport.abort()

    def _run(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._come, self._host, 0))
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        self._loop.run_forever()
        server.close()
        if left := asyncio.all_tasks(self._loop):  # each ends, now that its connection is broken
            self._loop.run_until_complete(asyncio.wait(left, timeout=5))
        self._loop.close()

    async def _come(self, near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        if self.refusing:
            back.transport.abort()
            return
        self._open.add(back)
        try:
            with suppress(OSError):
                await self._handed_on(near, back)
        finally:
            self._open.discard(back)
            back.transport.abort()

    async def _handed_on(self, near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        far, there = await self._beyond()
        self._open.add(there)
        try:
            await asyncio.gather(_hand_on(near, there), _hand_on(far, back), return_exceptions=True)
        finally:
            self._open.discard(there)
            there.transport.abort()

    async def _beyond(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self.target, str):
            return await asyncio.open_unix_connection(self.target)
        return await asyncio.open_connection("127.0.0.1", self.target)


async def _hand_on(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    try:
        while part := await source.read(PART):
            target.write(part)
            await target.drain()
    finally:
        target.close()
