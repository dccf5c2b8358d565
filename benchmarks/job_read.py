"""Reading a job must not get slower with its trials: `python -m benchmarks.job_read`.

Fills a database with a job of 10 trials and one of 2,000, 50 reports each, through the store, and times
`GET /v1/jobs/{id}` on both through the real app. Exit code 1 if the large one takes more than three times as long.
`LRTUNE_BENCH_DATABASE_URL` names a migrated, empty database in place of a temporary SQLite file.
"""

import os
import platform
import random
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from statistics import median

import httpx
import uvicorn
from pydantic import SecretStr
from sqlalchemy.orm import Session

import migrations
from app.admission import admit
from app.main import create_app
from app.settings import Settings
from lrtune.optimizers import Adamw
from lrtune.schedules import Cosine
from lrtune.store import Database, jobs, leases, trials
from lrtune.wire.configuration import Configuration
from lrtune.wire.job import AdmittedJob, Budget, Horizon, JobSpec, TaskSpec
from lrtune.wire.results import Proposal, Report, Role, TrialState

KEY = "a-key-for-a-benchmark"
SMALL, LARGE, REPORTS, STEPS = 10, 2_000, 50, 1_000
READS = 200
LIMIT = 3.0
TTL = timedelta(hours=1)


def proposal(number: int, count: int, chance: random.Random) -> Proposal:
    """A baseline, then the search, then three fresh seeds of one configuration."""
    role: Role = "baseline" if number == 0 else "confirm" if number >= count - 3 else "search"
    rate = 1e-3 if role != "search" else 10 ** chance.uniform(-4, -1)
    configuration = Configuration(optimizer=Adamw(), learning_rate=rate, schedule=Cosine())
    return Proposal(configuration=configuration, role=role, seed=number, horizon=STEPS, reason=f"number {number}")


def train(tx: Session, job_id: str, number: int, count: int, chance: random.Random) -> None:
    """One trial from its proposal to its end, as a worker would write it."""
    trials.propose(tx, job_id, proposal(number, count, chance), known=number)
    lease = leases.claim(tx, "benchmark", ttl=TTL)
    if lease is None:
        raise RuntimeError("nothing to claim")
    value = chance.random()
    steps = [STEPS * (report + 1) // REPORTS for report in range(REPORTS)]
    reports = [Report(step=s, learning_rate=1e-3, metrics={"val_loss": value + 1 / s}) for s in steps]
    leases.report(tx, lease, reports, ttl=TTL)
    leases.finish(tx, lease, TrialState.COMPLETE, value=value, step=STEPS)


def fill(database: Database, spec: AdmittedJob, count: int) -> str:
    """A job with `count` finished trials; its id."""
    chance = random.Random(count)
    with database.write() as tx:
        job, _ = jobs.create(tx, spec)
    for start in range(0, count, 100):
        with database.write() as tx:
            for number in range(start, min(start + 100, count)):
                train(tx, job.id, number, count, chance)
    return job.id


def milliseconds(client: httpx.Client, job_id: str) -> float:
    """How long one read takes."""
    started = time.perf_counter()
    client.get(f"/v1/jobs/{job_id}").raise_for_status()
    return (time.perf_counter() - started) * 1000


@contextmanager
def served(settings: Settings) -> Iterator[httpx.Client]:
    """A client of the real server, on a port of its own."""
    server = uvicorn.Server(uvicorn.Config(create_app(settings), log_level="warning"))
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        door.listen()  # so that a first request waits instead of being refused
        thread = threading.Thread(target=server.run, args=([door],))
        thread.start()
        base = f"http://127.0.0.1:{door.getsockname()[1]}"
        with httpx.Client(base_url=base, headers={"Authorization": f"Bearer {KEY}"}, trust_env=False) as client:
            yield client
        server.should_exit = True
        thread.join()


def measure(url: str, data_dir: Path) -> float:
    """Print both medians; the ratio."""
    database = Database(url)
    asked = JobSpec(task=TaskSpec(name="digits"), horizon=Horizon(steps=STEPS), budget=Budget(full_runs=10 * LARGE))
    with database.read() as tx:
        spec = admit(tx, asked, data_dir, hold=False)
    small, large = (fill(database, spec, count) for count in (SMALL, LARGE))
    database.dispose()
    times: dict[str, list[float]] = {small: [], large: []}
    with served(Settings(database_url=url, api_key=SecretStr(KEY), data_dir=data_dir)) as client:
        for read in range(2 * READS + 20):
            job_id = (small, large)[read % 2]
            times[job_id].append(milliseconds(client, job_id))
    few, many = (median(times[job_id][10:]) for job_id in (small, large))
    print(f"GET /v1/jobs/{{id}}, median of {READS} reads, {REPORTS} reports a trial, {url.partition(':')[0]}")
    print(f"  {SMALL:>5} trials  {few:7.2f} ms\n  {LARGE:>5} trials  {many:7.2f} ms\n  ratio {many / few:.2f}")
    print(f"  on {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    return many / few


def main() -> int:
    """Run the benchmark; the exit status."""
    with tempfile.TemporaryDirectory() as folder:
        url = os.environ.get("LRTUNE_BENCH_DATABASE_URL")
        if url is None:
            url = f"sqlite:///{folder}/lrtune.db"
            migrations.upgrade(url)
        return int(measure(url, Path(folder)) > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
