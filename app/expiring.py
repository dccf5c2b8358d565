"""What only time changes is written down by the server each second: leases that ran out, jobs whose loops are gone.

Whoever claims a trial sees to it as well, so nothing rests on this but what is shown while nobody asks.
"""

import asyncio
from contextlib import suppress

from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from app.streams import pause
from lrtune.store import Database, jobs, leases
from lrtune.store.database import clock

SECONDS = 1.0


async def expiring(database: Database, writing: asyncio.Semaphore, stopping: asyncio.Event) -> None:
    """Look each second, and write in turn where there is something to write, until the server stops."""
    while not stopping.is_set():
        with suppress(SQLAlchemyError):  # where the database is away, whoever comes next sees to it
            if await run_in_threadpool(_due, database):
                async with writing:
                    await run_in_threadpool(expire, database)
        await pause(stopping, SECONDS)


def _due(database: Database) -> bool:
    with database.read() as tx:
        return jobs.expired(tx)


def expire(database: Database) -> None:
    """Write it down: trials first, then their jobs, in transactions of their own."""
    with database.write() as tx:
        leases.requeue(tx, now=clock(tx))
    with database.write() as tx:
        jobs.forsake(tx)
