"""Keys that nobody knows are slowed down, address by address; so many as may be tried are far too few to find one.

A key that has been good from an address before is let in at once. Where too many wrong ones came from there, any other
waits for its turn before it is looked at, the right one as well as the wrong ones: who tries keys out must not see by
the time which it was.
"""

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import TypeVar
from weakref import WeakValueDictionary

from lrtune.errors import TooManyTries

FREE = 10  # tries without waiting
SPACING = 1.0  # seconds between two of those that follow
LONGEST = 5.0  # seconds that one waits for its turn; who would wait longer is told to come again
MOST = 10_000  # addresses, and keys that were good from one
Found = TypeVar("Found")


class Tries:
    """How often keys that nobody knows came from each address. Whatever comes, it takes the same little memory."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
    ) -> None:
        self._clock, self._sleep = clock, sleep
        self._booked: OrderedDict[str, float] = OrderedDict()  # until when turns are given away
        self._good: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._locks: WeakValueDictionary[tuple[str, ...], asyncio.Lock] = WeakValueDictionary()

    async def look(self, address: str, key: str, ask: Callable[[], Awaitable[Found | None]]) -> Found | None:
        """What `ask` says of a key, in its turn; None where it is nobody's. Raises TooManyTries.

        Many requests with the same key are one try. While nobody has to wait keys are looked at one after the other, so
        that many people who come at once with right ones are in nobody's way.
        """
        if (address, key) not in self._good:
            async with self._lock(address, key):
                if (address, key) not in self._good:
                    return await self._tried(address, key, ask)
        found = await ask()
        if found is None:  # it was revoked
            self._good.pop((address, key), None)
        return found

    async def _tried(self, address: str, key: str, ask: Callable[[], Awaitable[Found | None]]) -> Found | None:
        async with self._lock(address):
            wait = self._turn(address)
            if wait <= 0:
                return self._judged(address, key, await ask())
        await self._sleep(wait)
        return self._judged(address, key, await ask())

    def _lock(self, *names: str) -> asyncio.Lock:
        return self._locks.setdefault(names, asyncio.Lock())

    def _turn(self, address: str) -> float:
        """Give away the next turn of an address; the seconds until it."""
        now = self._clock()
        booked = max(now, self._booked.get(address, now))
        wait = booked - now - (FREE - 1) * SPACING
        if wait > LONGEST:
            raise TooManyTries(retry_after=math.ceil(wait))
        self._booked.pop(address, None)
        self._booked[address] = booked + SPACING
        if len(self._booked) > MOST:
            self._booked.popitem(last=False)
        return wait

    def _judged(self, address: str, key: str, found: Found | None) -> Found | None:
        """What was found; a key that was somebody's has cost no turn, and needs none from here any more."""
        if found is not None:
            if address in self._booked:
                self._booked[address] -= SPACING
            self._good[(address, key)] = None
            if len(self._good) > MOST:
                self._good.popitem(last=False)
        return found
