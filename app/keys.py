"""Who comes with which key: asked of the database once in a few seconds, however often it comes.

So a key that is revoked on another server is good for `FRESH` seconds more here, and a request costs no statement.
"""

import asyncio
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from lrtune.store import Database, lookup, people
from lrtune.wire.people import Caller

FRESH = 3.0  # seconds that what is known of a key is believed
NOTED = 30.0  # seconds between two writings of when keys were used
MOST = 2000  # keys, and jobs, that are remembered
Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Known:
    """Whose a key is, and their own quotas."""

    caller: Caller
    quotas: Mapping[str, Any] = field(default_factory=dict)


class Keys:
    """The keys of a database, and the one of the settings; `admins` are those who sign in with the provider as such."""

    def __init__(
        self, database: Database, first: str, reading: asyncio.Semaphore, admins: Collection[str] = ()
    ) -> None:
        self._database, self._first, self._reading, self._admins = database, first, reading, admins
        self._known: OrderedDict[str, tuple[float, Known | None]] = OrderedDict()
        self._owners: OrderedDict[str, str] = OrderedDict()
        self._asking: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._used: dict[str, datetime] = {}

    async def of_text(self, given: str) -> Known | None:
        """Whose key this is; None where it is nobody's."""
        if secrets.compare_digest(given.encode(), self._first.encode()):
            return await self.of_id("")
        digest = people.digest(given)
        return await self._fresh(digest, lambda: self._look(hash=digest), keep_none=False)

    async def of_id(self, key_id: str) -> Known | None:
        """Whose key has an id; the one of the settings has none. None where it was revoked."""
        look = (lambda: self._look(key_id=key_id)) if key_id else self._look_first
        return await self._fresh(key_id, look, keep_none=True)

    async def owner(self, job_id: str) -> str | None:
        """Whose a job is, which never changes; None where there is none."""
        found = self._owners.get(job_id)
        if found is None:
            async with self._reading:
                found = await run_in_threadpool(self._owner, job_id)
            if found is not None:
                _remember(self._owners, job_id, found)
        return found

    def forget(self) -> None:
        """Ask for everybody again: something was changed."""
        self._known = OrderedDict()

    async def _fresh(self, name: str, look: Callable[[], Known | None], *, keep_none: bool) -> Known | None:
        found = self._recent(name)
        if found is None:
            async with self._asking.setdefault(name, asyncio.Lock()):  # the others wait for the first one's answer
                found = self._recent(name)
                if found is None:
                    asked = time.monotonic()
                    async with self._reading:
                        found = (asked, await run_in_threadpool(look))
                    if found[1] is not None or keep_none:
                        _remember(self._known, name, found)
        if found[1] is not None and found[1].caller.key:
            self._used[found[1].caller.key] = datetime.now(UTC)
        return found[1]

    def _recent(self, name: str) -> tuple[float, Known | None] | None:
        found = self._known.get(name)
        return found if found is not None and time.monotonic() - found[0] < FRESH else None

    def _look(self, **which: str) -> Known | None:
        with self._database.read() as tx:
            found = people.caller(tx, **which, admins=self._admins)
        return Known(*found) if found else None

    def _look_first(self) -> Known:
        """The key of the settings needs no database, which may be away."""
        with suppress(SQLAlchemyError), self._database.read() as tx:
            return Known(Caller(), people.own_quotas(tx, Caller().person))
        return Known(Caller())

    def _owner(self, job_id: str) -> str | None:
        with self._database.read() as tx:
            return lookup.owner(tx, job_id)

    async def note(self, writing: asyncio.Semaphore, stopping: asyncio.Event) -> None:
        """Write down now and then when keys were used, until the server stops."""
        while not stopping.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), NOTED)
            times, self._used = self._used, {}
            if times:
                with suppress(SQLAlchemyError):
                    async with writing:
                        await run_in_threadpool(self._write, times)

    def _write(self, times: Mapping[str, datetime]) -> None:
        with self._database.write() as tx:
            people.used(tx, times)


def _remember(among: OrderedDict[str, Found], name: str, found: Found) -> None:
    """Keep something, and no more than `MOST`."""
    among.pop(name, None)
    among[name] = found
    if len(among) > MOST:
        among.popitem(last=False)
