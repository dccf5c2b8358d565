"""Routes that think between two transactions: they write in turn, and nobody waits for a turn while they think."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Concatenate, ParamSpec, TypeVar
from weakref import WeakValueDictionary

from starlette.concurrency import run_in_threadpool

from lrtune.store import Database

P = ParamSpec("P")
Found = TypeVar("Found")


class Thinker:
    """Whoever thinks about a question, one at a time, and how many wait for what comes of it."""

    def __init__(self) -> None:
        self.lock, self.waiting = asyncio.Lock(), 0


class Turns:
    """A database, whose writers take turns, and one thinker at a time for each question about a job."""

    def __init__(
        self, database: Database, writing: asyncio.Semaphore, seen: Callable[[str, float], object] = lambda *_: None
    ) -> None:
        self._database, self._writing, self._seen = database, writing, seen
        self._thinkers: WeakValueDictionary[tuple[str, str], Thinker] = WeakValueDictionary()

    async def write(self, call: Callable[Concatenate[Database, P], Found], *args: P.args, **named: P.kwargs) -> Found:
        """Do something in transactions that may write, when it is this one's turn."""
        async with self._writing:
            return await run_in_threadpool(call, self._database, *args, **named)

    async def think(
        self, what: str, call: Callable[Concatenate[Database, P], Found], *args: P.args, **named: P.kwargs
    ) -> Found:
        """Do something that reads, and takes long; how long, `seen` is told."""
        began = time.perf_counter()
        found = await run_in_threadpool(call, self._database, *args, **named)
        self._seen(what, time.perf_counter() - began)
        return found

    @asynccontextmanager
    async def alone(self, job_id: str, question: str, seconds: float | None = None) -> AsyncIterator[Thinker]:
        """Be the only one here who thinks about this, when the others have; raises TimeoutError after some seconds.

        What they find out changes the question, or answers it; and many who compute the same are in everybody's way.
        """
        thinker = self._thinkers.setdefault((job_id, question), Thinker())
        thinker.waiting += 1
        try:
            await asyncio.wait_for(thinker.lock.acquire(), seconds)
        finally:
            thinker.waiting -= 1
        try:
            yield thinker
        finally:
            thinker.lock.release()
