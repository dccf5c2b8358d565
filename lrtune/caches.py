"""What a process keeps of jobs between calls: of so many at most, and of none that it was not asked about for a while.

A service sees jobs come and go for months. What it knows of one that is over is of no use, and nobody says so to every
process that has it.
"""

from collections.abc import Callable
from threading import Lock
from time import monotonic
from typing import TypeVar

from cachetools import TTLCache

IDLE_SECONDS = 600.0

V = TypeVar("V")


def idle_cache(maxsize: int) -> Callable[[Callable[[str], V]], Callable[[str], V]]:
    """A cache around a function of one text: of its latest answers, but for those idle for `IDLE_SECONDS`."""

    def around(make: Callable[[str], V]) -> Callable[[str], V]:
        cache, lock = TTLCache[str, V](maxsize, IDLE_SECONDS, timer=lambda: monotonic()), Lock()

        def kept(key: str) -> V:
            with lock:
                try:
                    value = cache.pop(key)
                except KeyError:
                    value = make(key)
                cache[key] = value  # its time begins anew
                return value

        return kept

    return around
