"""What only time changes is written down by the server each second: leases that ran out, jobs whose loops are gone.

Whoever claims a trial sees to it as well, so nothing rests on this but what is shown while nobody asks. So it is with
jobs that the last worker has left that could train them: see `lrtune/store/serving.py`.
"""

import asyncio
from contextlib import suppress

from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from app.streams import pause
from lrtune.store import Database, jobs, leases, serving
from lrtune.store.database import clock

SECONDS = 1.0
AT_ONCE = 100  # jobs whose logs are written in one turn


async def expiring(database: Database, writing: asyncio.Semaphore, stopping: asyncio.Event) -> None:
    """Look each second, and write in turn where there is something to write, until the server stops."""
    known: serving.Snapshot | None = None
    while not stopping.is_set():
        with suppress(SQLAlchemyError):  # where the database is away, whoever comes next sees to it
            due, snapshot = await run_in_threadpool(look, database)
            if due:
                async with writing:
                    await run_in_threadpool(expire, database)
            if snapshot != known:
                await _write_logs(database, writing)
                known = snapshot
        await pause(stopping, SECONDS)


def look(database: Database) -> tuple[bool, serving.Snapshot]:
    """Whether there is something to write, and on what it rests which jobs have workers."""
    with database.read() as tx:
        return jobs.expired(tx), serving.snapshot(tx)


async def _write_logs(database: Database, writing: asyncio.Semaphore) -> None:
    outdated = await run_in_threadpool(_outdated, database)
    for first in range(0, len(outdated), AT_ONCE):
        async with writing:
            await run_in_threadpool(_tell, database, outdated[first : first + AT_ONCE])


def _outdated(database: Database) -> list[str]:
    with database.read() as tx:
        return serving.outdated(tx)


def _tell(database: Database, some: list[str]) -> None:
    with database.write() as tx:
        serving.tell(tx, some)


def expire(database: Database) -> None:
    """Write it down: trials first, then their jobs, in transactions of their own."""
    with database.write() as tx:
        leases.requeue(tx, now=clock(tx))
    with database.write() as tx:
        jobs.forsake(tx)
