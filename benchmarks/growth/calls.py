"""The calls that are timed: those in the life of a trial, those of who looks at a job, and those about all jobs."""

import asyncio
import math
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path

from sqlalchemy.orm import Session

from app import external, reporting
from app.landscape import terrain
from app.reports import findings
from app.routes.charts import drawn
from app.turns import Turns
from benchmarks.growth import BUILT_IN, STEPS, proposal
from lrtune.export import export
from lrtune.store import Database, jobs, leases, listing, lookup, shares, trials, workers
from lrtune.store.census import census
from lrtune.store.database import clock
from lrtune.wire.external import Batch, Handout, Hold, Sent
from lrtune.wire.job import AdmittedJob

REPEATS, FEW = 15, 4  # of those that fit a model, few
MINUTE = timedelta(minutes=1)
ABLE = shares.Able(["digits"])
Timings = Iterator[tuple[str, float]]  # milliseconds of CPU


class Timer:
    """Times calls by the CPU that they take, of this process and of the children of a PostgreSQL server."""

    def __init__(self, postmaster: int | None = None) -> None:
        self._children = Path(f"/proc/{postmaster}/task/{postmaster}/children") if postmaster else None

    def __call__(self, call: Callable[[], object]) -> float:
        """In milliseconds: other processes that are in the way add nothing to it."""
        before = self._cpu()
        call()
        return (self._cpu() - before) * 1000

    def _cpu(self) -> float:
        others = self._children.read_text().split() if self._children else []
        spent = (int(Path(f"/proc/{one}/schedstat").read_text().split()[0]) for one in others)
        return time.process_time() + sum(spent) / 1e9


def of_a_job(timed: Timer, database: Database, job: str, count: int) -> Timings:
    """What is called all the time of a job with so many trials, again and again."""
    for number in range(count, count + REPEATS):
        with database.write() as tx:
            trials.propose(tx, job, proposal(number), known=number)
        held: list[Handout] = []
        yield "take a trial that waits", timed(lambda: held.append(taken(database, job)))  # noqa: B023
        for step, name in ((2, "report"), (3, "report"), (4, "report, pruner asked")):
            seen = [Sent(step=step, metrics={"val_loss": 2 * math.exp(-step / STEPS)})]
            batch = Batch(token=held[0].token, reports=seen)
            yield name, timed(partial(sent, database, job, held[0].trial.number, batch))
        yield "heartbeat", timed(partial(sent, database, job, held[0].trial.number, Batch(token=held[0].token)))
        yield "claim, none waits", timed(lambda: write(database, lambda tx: leases.claim(tx, "w", ttl=MINUTE)))
        yield from _looked_at(timed, database, job)
        if number < count + FEW:
            yield "landscape, model fitted", timed(partial(terrain, database, job))
            yield "report of the answer", timed(partial(findings, database, job))


def _looked_at(timed: Timer, database: Database, job: str) -> Timings:
    """What who looks at a job calls."""
    reading: dict[str, Callable[[Session], object]] = {
        "read the job": lambda tx: jobs.get(tx, job),
        "read a trial": lambda tx: trials.get(tx, job, 1),
        "read a page of trials": lambda tx: trials.page(tx, job, limit=50, cursor=None),
        "curves": lambda tx: drawn(job, tx),
        "answer": lambda tx: jobs.best(tx, job),
        "export": lambda tx: export(found := jobs.best(tx, job), trials.get(tx, job, found.trial), "pytorch").text,
    }
    for name, call in reading.items():
        yield name, timed(partial(read, database, call))


def of_a_trial(timed: Timer, database: Database, job: str, _count: int) -> Timings:
    """What a loop calls all the time whose trial has reported so often."""
    with database.read() as tx:
        row = lookup.trial(tx, lookup.job(tx, job), 0)
    for step in range(row.step + 1, row.step + REPEATS + 1):
        seen = [Sent(step=step, metrics={"val_loss": 2 + 1 / step})]
        for name, reports in (("report", seen), ("heartbeat", [])):
            batch = Batch(token=row.token or "", reports=reports)
            yield name, timed(partial(sent, database, job, 0, batch))


def of_jobs(timed: Timer, database: Database, job: str, count: int) -> Timings:
    """What is called all the time where there are so many jobs, again and again."""
    with database.write() as tx:
        workers.sign_in(tx, "w", host="h", pid=1, device="cpu", tasks=["digits"])
    spec, last = AdmittedJob.model_validate(BUILT_IN), count
    for _ in range(REPEATS):
        yield "submit", timed(lambda: write(database, lambda tx: jobs.create(tx, spec, owner="owner-1")))
        yield "read the job", timed(lambda: read(database, lambda tx: jobs.get(tx, job)))
        yield "list the jobs", timed(lambda: read(database, lambda tx: listing.page(tx, limit=50, cursor=None)))
        yield "whose turn", timed(lambda: read(database, lambda tx: shares.whose_turn(tx, ABLE, now=clock(tx))))
        with database.write() as tx:
            last += trials.propose(tx, job, proposal(last), known=last - count)
        yield "claim", timed(lambda: write(database, lambda tx: leases.claim(tx, "w", ttl=MINUTE, job_id=job)))
        yield "what has expired", timed(lambda: read(database, jobs.expired))
        yield "/metrics", timed(lambda: read(database, census))


def taken(database: Database, job: str) -> Handout:
    """A trial, as a loop is given it."""
    found = asyncio.run(external.hand_out(Turns(database, asyncio.Semaphore()), job, Hold()))
    if isinstance(found, int):
        raise RuntimeError("no trial waits")
    return found


def sent(database: Database, job: str, number: int, batch: Batch) -> None:
    """Reports, as a loop sends them."""
    asyncio.run(reporting.take(Turns(database, asyncio.Semaphore()), job, number, batch))


def read(database: Database, call: Callable[[Session], object]) -> None:
    """In a transaction that reads."""
    with database.read() as tx:
        call(tx)


def write(database: Database, call: Callable[[Session], object]) -> None:
    """In one that may write."""
    with database.write() as tx:
        call(tx)
