"""Keys that nobody knows are slowed down, address by address; so many as may be tried are far too few to find one.

A key that has been good from an address before is let in at once. Any other waits for its turn before it is looked at,
the right one as well as the wrong ones: who tries keys out must not see by the time which it was.
"""

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

from lrtune.errors import TooManyTries

FREE = 10  # tries without waiting
SPACING = 1.0  # seconds between two of those that follow
LONGEST = 5.0  # seconds that one waits for its turn; who would wait longer is told to come again
MOST = 10_000  # addresses, and keys that were good from one


class Tries:
    """How often keys that nobody knows came from each address. Whatever comes, it takes the same little memory."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
    ) -> None:
        self._clock, self._sleep = clock, sleep
        self._booked: OrderedDict[str, float] = OrderedDict()  # until when turns are given away
        self._good: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._trying: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def one_at_a_time(self, address: str, key: str) -> AsyncIterator[None]:
        """Of many requests with the same key, which is one try, the first waits for its turn and the others for it."""
        if (address, key) in self._good:
            yield
            return
        async with self._trying.setdefault((address, key), asyncio.Lock()):
            yield

    async def turn(self, address: str, key: str) -> None:
        """Wait until a key may be looked at. Raises TooManyTries."""
        if (address, key) in self._good:
            self._good.move_to_end((address, key))
            return
        now = self._clock()
        booked = max(now, self._booked.get(address, now))
        wait = booked - now - (FREE - 1) * SPACING
        if wait > LONGEST:
            raise TooManyTries(retry_after=math.ceil(wait))
        self._booked[address] = booked + SPACING
        self._booked.move_to_end(address)
        if len(self._booked) > MOST:
            self._booked.popitem(last=False)
        if wait > 0:
            await self._sleep(wait)

    def good(self, address: str, key: str) -> None:
        """A key was somebody's: it costs no turn, and needs none from here any more."""
        if (address, key) not in self._good:
            if address in self._booked:
                self._booked[address] -= SPACING
            self._good[(address, key)] = None
            if len(self._good) > MOST:
                self._good.popitem(last=False)
