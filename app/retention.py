"""Each hour, what need not be kept any longer goes: see `LRTUNE_REPORTS_DAYS` and `LRTUNE_JOBS_DAYS`.

A job that is forgotten is written to `archived/<job>.json.gz` below LRTUNE_DATA_DIR first.
"""

import asyncio
import gzip
import json
import logging
from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from app.settings import Settings
from app.streams import pause
from lrtune.store import Database, retention
from lrtune.store.database import AWAY, clock
from lrtune.uploads import mirror

SECONDS, FOLDER = 3600.0, "archived"
MOST_KEPT = 20  # jobs that cannot be archived, in an hour: with more it is not the jobs
log = logging.getLogger("uvicorn.error")  # where an operator looks for what the server does of itself


async def forgetting(
    database: Database, writing: asyncio.Semaphore, settings: Settings, stopping: asyncio.Event
) -> None:
    """Look each hour, and write one job at a time and in turn, until the server stops."""
    while settings.reports_days or settings.jobs_days:
        with suppress(SQLAlchemyError):  # the database is away: in an hour
            for step in (_thinned, partial(_archived, kept=set())):
                more = True
                while more and not stopping.is_set():
                    async with writing:
                        more = await run_in_threadpool(step, database, settings)
        await pause(stopping, SECONDS)
        if stopping.is_set():
            return


def _thinned(database: Database, settings: Settings) -> bool:
    """Whether a job was there whose reports were to be thinned."""
    if settings.reports_days is None:
        return False
    with database.write() as tx:
        job = retention.ended(tx, before=clock(tx) - timedelta(days=settings.reports_days), whole=True)
        if job and (gone := retention.thin(tx, job)):
            log.info("%s of the reports of %s were thinned out", gone, job)
        return job is not None


def _archived(database: Database, settings: Settings, kept: set[str]) -> bool:
    """Whether a job was there that was to be forgotten; what cannot be is `kept`, and the others come after it."""
    if settings.jobs_days is None:
        return False
    job = None
    try:
        with database.write() as tx:
            before = clock(tx) - timedelta(days=settings.jobs_days)
            job = retention.ended(tx, before=before, but=kept, hold=True)  # another server sees to the others
            if job is None:
                return False
            name = f"{FOLDER}/{job}.json.gz"
            path = _write(settings.data_dir / name, json.dumps(retention.written(tx, job)))
            mirror.keep(settings.data_dir, name)
            retention.forget(tx, job, file=name)
        log.info("%s is forgotten, and stands in %s", job, path)
    except Exception as error:  # of storage behind a URL each has classes of its own
        if job is None or isinstance(error, AWAY):
            raise
        log.warning("%s could not be archived, and is kept: %s", job, error)
        kept.add(job)
    return len(kept) < MOST_KEPT


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with gzip.open(part, "wt", encoding="utf-8") as file:
        file.write(text)
    return part.replace(path)
