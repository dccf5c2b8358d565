"""Routes that think between two transactions: they write in turn, and nobody waits for a turn while they think.

What many ask for at the same moment is done once for all of them.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Concatenate, ParamSpec, TypeVar
from weakref import WeakValueDictionary

import anyio
from starlette.concurrency import run_in_threadpool

from app import thinking
from lrtune.errors import Unavailable
from lrtune.store import Database
from lrtune.store.database import AWAY

P = ParamSpec("P")
Found = TypeVar("Found")
Item = TypeVar("Item")
AT_ONCE = 64  # things that are done together
THINKERS = 32  # threads that wait for what is thought, and are none of those that answer all else


class Thinker:
    """Whoever thinks about a question, one at a time; how often that was, and how many wait for what comes of it."""

    def __init__(self) -> None:
        self.lock, self.waiting, self.times = asyncio.Lock(), 0, 0


class Gathering:
    """What waits to be done together, each with what comes of it."""

    def __init__(self) -> None:
        self.lock, self.waiting = asyncio.Lock(), list[tuple[Any, asyncio.Future[Any]]]()

    def take(self) -> list[tuple[Any, asyncio.Future[Any]]]:
        """The first of them, for whoever does it now."""
        taken, self.waiting = self.waiting[:AT_ONCE], self.waiting[AT_ONCE:]
        return taken


class Turns:
    """A database, whose writers take turns, and one thinker at a time for each question about a job."""

    def __init__(
        self,
        database: Database,
        writing: asyncio.Semaphore,
        seen: Callable[[str, float], object] = lambda *_: None,
        reading: asyncio.Semaphore | None = None,
    ) -> None:
        self._database, self._writing, self._seen = database, writing, seen
        self._reading = reading or asyncio.Semaphore()
        self._threads = anyio.CapacityLimiter(THINKERS)
        self._thinkers: WeakValueDictionary[tuple[str, str], Thinker] = WeakValueDictionary()
        self._gatherings: WeakValueDictionary[tuple[str, ...], Gathering] = WeakValueDictionary()

    async def write(self, call: Callable[Concatenate[Database, P], Found], *args: P.args, **named: P.kwargs) -> Found:
        """Do something in transactions that may write, when it is this one's turn."""
        async with self._writing:
            return await run_in_threadpool(call, self._database, *args, **named)

    async def read(
        self, what: tuple[str, ...], call: Callable[[Database, Sequence[Item]], Sequence[Found | Exception]], item: Item
    ) -> Found:
        """Read something for all who asked for `what` while it was read for others; nobody hears what was before."""

        async def once(several: Sequence[Item]) -> Sequence[Found | Exception]:
            async with self._reading:
                return await run_in_threadpool(call, self._database, several)

        return await self.together(what, once, item)

    async def think(
        self, what: str, call: Callable[Concatenate[Database, P], Found], *args: P.args, **named: P.kwargs
    ) -> Found:
        """Do something that reads, and takes long, in the process beside; how long, `seen` is told."""
        began = time.perf_counter()
        asked = partial(thinking.think, self._database, call, *args, **named)
        found = await anyio.to_thread.run_sync(asked, limiter=self._threads)
        self._seen(what, time.perf_counter() - began)
        return found

    async def together(
        self,
        what: tuple[str, ...],
        call: Callable[[Sequence[Item]], Awaitable[Sequence[Found | Exception]]],
        item: Item,
    ) -> Found:
        """Do one thing for all who have asked for it while it was done last; what came of it for this `item`.

        An error among what came is raised where its item was asked for, and nowhere else.
        Nobody waits so that there are more: whoever comes first goes at once, alone.
        """
        gathering = self._gatherings.setdefault(what, Gathering())
        answer: asyncio.Future[Found] = asyncio.get_running_loop().create_future()
        gathering.waiting.append((item, answer))
        async with gathering.lock:
            while not answer.done():
                await _answered(gathering.take(), call)
        return answer.result()

    def thinker(self, job_id: str, question: str) -> Thinker:
        """Whoever thinks about this here, for as long as somebody asks."""
        return self._thinkers.setdefault((job_id, question), Thinker())

    @asynccontextmanager
    async def alone(self, thinker: Thinker, seconds: float | None = None) -> AsyncIterator[None]:
        """Be the only one here who thinks about this, when the others have; raises TimeoutError after some seconds.

        What they find out changes the question, or answers it; and many who compute the same are in everybody's way.
        """
        thinker.waiting += 1
        try:
            await asyncio.wait_for(thinker.lock.acquire(), seconds)
        finally:
            thinker.waiting -= 1
        try:
            yield
        finally:
            thinker.times += 1
            thinker.lock.release()


def one_by_one(call: Callable[[Sequence[Item]], Sequence[Found]], items: Sequence[Item]) -> list[Found | Exception]:
    """What comes of items that are done together; where that goes wrong, each by itself, and an error is its own.

    Raises AWAY, as that is nobody's own.
    """
    try:
        return [*call(items)]
    except AWAY:
        raise
    except Exception as error:
        if len(items) == 1:
            return [error]
        return [found for item in items for found in one_by_one(call, [item])]


async def _answered(
    taken: Sequence[tuple[Any, "asyncio.Future[Any]"]], call: Callable[[Sequence[Any]], Awaitable[Sequence[Any]]]
) -> None:
    """Do something for all of these, and tell each what came of it, or what went wrong."""
    try:
        found = await call([item for item, _ in taken])
        for (_, answer), one in zip(taken, found, strict=True):
            if isinstance(one, Exception):
                answer.set_exception(one)
                answer.exception()  # who asked may have gone
            else:
                answer.set_result(one)
    except BaseException as error:
        wrong = error if isinstance(error, Exception) else Unavailable()
        for _, answer in taken:
            if not answer.done():
                answer.set_exception(wrong)
                answer.exception()  # who asked may have gone
        if not isinstance(error, Exception):
            raise
