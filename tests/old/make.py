"""Makes `database.json`: a database before 0009, filled by the code of commit 090b74b, and what that code answered.

The names imported here are of that commit, and so it runs there:

    git worktree add ../old 090b74b && cd ../old && PYTHONPATH=. python THIS_FILE OUT/database.json

Four jobs: `finished` in stages; `in_flight` in stages, stopped with trials that run, one that waits and some that were
looked at; `plain`, of a sampler and a pruner that know no stages; `external`, two trials of a user's own loop.
"""

import json
import socket
import sys
import tempfile
import threading
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from lrtune.external import Batch, Ending, Hold
from lrtune.results import OVER, Trial
from lrtune.spec import JobSpec
from sqlalchemy import select

import migrations
from app import admission
from app.external import finish, hand_out, take
from lrtune import report as findings
from lrtune import search
from lrtune.export import export
from lrtune.store import Database, audits, jobs, leases, trials
from lrtune.store.tables import Base
from worker.loop import Worker
from worker.settings import Settings

STAGED = {
    "task": "digits",
    "metric": {"name": "val_loss"},
    "horizon": {"steps": 200},
    "budget": {"full_runs": 4},
    "confirm": {"top": 1, "seeds": 2},
}
PLAIN = STAGED | {
    "budget": {"full_runs": 8},
    "search": {"sampler": "tpe", "pruner": "median"},
    "horizon": {"steps": 60},
}
EXTERNAL = {
    "task": "external",
    "metric": {"name": "val_loss", "goal": "minimize"},
    "horizon": {"steps": 40},
    "budget": {"trials": 3},
    "confirm": {"top": 0},
}
DECISIONS = 15  # after which the job in flight is interrupted


def main(path: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        database = Database(f"sqlite:///{folder}/lrtune.db")
        migrations.upgrade(database.url)
        ids = {"finished": work(database, folder, STAGED), "plain": work(database, folder, PLAIN)}
        ids["external"] = loop(database, folder)
        ids["in_flight"] = work(database, folder, STAGED | {"search": {"seed": 1}}, decisions=DECISIONS)
        interrupt(database, ids["in_flight"])
        text = written(database, {name: answered(database, job) for name, job in ids.items()})
        path.write_text(text.replace(socket.gethostname(), "host"))


def submit(database: Database, folder: Path, body: dict[str, Any]) -> str:
    with database.write() as tx:
        return jobs.create(tx, admission.admit(JobSpec.model_validate(body), folder))[0].id


def work(database: Database, folder: Path, body: dict[str, Any], *, decisions: int | None = None) -> str:
    """Let a worker train a job until it is over, or has so many rows of trials."""
    job, stop = submit(database, folder, body), threading.Event()
    settings = {"data_dir": folder, "device": "cpu", "poll_seconds": 0.05, "state_dir": f"{folder}/states"}
    worker = threading.Thread(target=Worker(Settings(database_url=database.url, **settings), stop).work)
    worker.start()
    while worker.is_alive():
        worker.join(0.02)
        with database.read() as tx:
            found = jobs.get(tx, job)
        if found.state in OVER or sum(found.progress.trials.values()) == decisions:
            break
    stop.set()
    worker.join()
    return job


def interrupt(database: Database, job: str) -> None:
    """Leave a job with two trials that run, each after a first worker has died, and one that waits."""
    for _ in range(2):
        propose(database, job)  # unless the worker gave one back as it stopped
        with database.write() as tx:
            leases.claim(tx, "another worker", ttl=timedelta(seconds=-1), job_id=job)
        with database.write() as tx:
            lease = leases.claim(tx, "a worker", ttl=timedelta(hours=1), job_id=job)
            past = [trial for trial in trials.history(tx, job) if trial.number < lease.trial.number]
            had = [trial for trial in past if same(trial, lease.trial)][-1:]
            step = sum(trial.step for trial in had)
            leases.take_up(tx, lease, step=step, credited=step, whose=[])
            if known := [one.model_copy(update={"credited": True}) for trial in had for one in trial.reports]:
                leases.report(tx, lease, known, ttl=timedelta(hours=1))
    propose(database, job)


def same(one: Trial, other: Trial) -> bool:
    return (one.configuration, one.seed, one.horizon) == (other.configuration, other.seed, other.horizon)


def propose(database: Database, job: str) -> None:
    with database.write() as tx:
        found, past = jobs.get(tx, job), trials.history(tx, job)
        if not any(trial.state == "waiting" for trial in past):
            step = search.advance(found.spec, past, steps=found.steps, seconds=1.0)
            trials.propose(tx, job, step.proposal, number=len(past))


def loop(database: Database, folder: Path) -> str:
    """Two trials of a loop that nobody but its user has: one complete, one that it still trains."""
    job = submit(database, folder, EXTERNAL)
    for complete in (True, False):
        held = hand_out(database, job, Hold(worker="a notebook", lease_seconds=3600.0))
        for step in held.report_at[:: 1 if complete else 4]:
            sent = [{"step": step, "metrics": {"val_loss": 1.0 / step}}]
            batch = Batch(token=held.token, lease_seconds=3600.0, reports=sent)
            take(database, job, held.trial.number, batch)
        if complete:
            with database.write() as tx:
                finish(tx, job, held.trial.number, Ending(token=held.token))
    return job


def answered(database: Database, job: str) -> dict[str, Any]:
    """What was said of a job when it was asked for, and of its answer if there was one."""
    with database.read() as tx:
        found, past = jobs.get(tx, job), trials.history(tx, job)
        said = {"job": found.model_dump(mode="json"), "trials": [t.model_dump(mode="json") for t in past]}
        for trial in said["trials"]:
            del trial["reports"]  # which stand in the tables
        if found.best is not None:
            told = findings.report(found.spec, found.best, past, audits.read(tx, job))
            said["report"] = told.model_dump(mode="json")
            said["export"] = export(found.best, trials.get(tx, job, found.best.trial), "pytorch").text
        return said


def written(database: Database, answers: dict[str, Any]) -> str:
    """{"answers": {job: ...}, "tables": {name: {"columns": [...], "rows": [[...]]}}} as JSON, a row a line."""
    tables = []
    with database.read() as tx:
        for table in Base.metadata.sorted_tables:
            columns = json.dumps([column.name for column in table.columns])
            rows = tx.execute(select(*table.columns).order_by(*table.primary_key)).all()
            lines = ",\n".join(json.dumps(list(row), default=datetime.isoformat) for row in rows)
            tables.append(f'"{table.name}": {{"columns": {columns}, "rows": [\n{lines}]}}')
    said, kept = (",\n".join(parts) for parts in ([f'"{k}": {json.dumps(v)}' for k, v in answers.items()], tables))
    return f'{{"answers": {{{said}}},\n"tables": {{{kept}}}}}\n'


if __name__ == "__main__":
    main(Path(sys.argv[1]))
