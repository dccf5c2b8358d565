"""What PostgreSQL goes through for an answer: the rows that each statement meets, as EXPLAIN ANALYZE counts them.

SQLite's plans are held in `test_statements.py` and `test_fairness.py`.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from sqlalchemy import Engine, event, insert, text
from sqlalchemy.orm import Session

from lrtune.store import Database, charts, events, findings, jobs, lookup, serving, shares, tallies
from lrtune.store.tables import EventRow, JobRow, TrialRow
from lrtune.wire.job import AdmittedJob
from lrtune.wire.results import TrialState
from tests.external import JOB
from tests.leasing import NOON, SPEC
from tests.test_statements import FORECAST, POINT

MANY, FEW = 3000, 300  # rows that there are, and that one statement may meet


@pytest.fixture
def postgres(postgres_url: str) -> Iterator[Database]:
    database = Database(postgres_url)
    yield database
    database.dispose()


def met(database: Database, call: Callable[[Session], object]) -> Mapping[str, Counter[str]]:
    """Of each statement the rows of each table that it meets, whether it wants them or not."""
    found: dict[str, Counter[str]] = {}

    def explained(connection: Any, _cursor: object, statement: str, parameters: Any, *_: Any) -> None:
        if statement.startswith(("SELECT", "WITH")):
            cursor = connection.connection.dbapi_connection.cursor()
            cursor.execute(f"explain (analyze, timing off, format json) {statement}", parameters)
            rows = cursor.fetchone()[0]
            plan = rows if isinstance(rows, list) else json.loads(rows)
            found[statement] = Counter()
            for node in nodes(plan[0]["Plan"]):
                seen = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
                found[statement][node.get("Relation Name", "")] += round(seen * node["Actual Loops"])

    event.listen(Engine, "before_cursor_execute", explained)
    try:
        with database.read() as tx:
            call(tx)
    finally:
        event.remove(Engine, "before_cursor_execute", explained)
    return found


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", ()):
        yield from nodes(part)


def too_much(found: Mapping[str, Counter[str]], table: str) -> dict[str, int]:
    return {statement: rows[table] for statement, rows in found.items() if rows[table] > FEW}


def filled(database: Database, count: int) -> str:
    """A job with so many ended trials, one in four of which its pruner stopped half-way."""
    run = {"role": "search", "horizon": 40, "created_at": NOON, "finished_at": NOON}
    with database.write() as tx:
        job = jobs.create(tx, AdmittedJob.model_validate(JOB | FORECAST))[0].id
        row = lookup.job(tx, job, lock=True)
        tx.execute(insert(TrialRow), [run | {"job": row.seq} | trial(number, count) for number in range(count)])
        tallies.ended(tx, TrialRow.job == row.seq)
        row.decisions = count
        for number in range(0, min(count, 400), 4):
            events.add(tx, row.seq, "trial-stopped", "stopped", now=NOON, trial=number, by="pruner")
    return job


def trial(number: int, count: int) -> dict[str, Any]:
    whole, place = number % 4, number * 7 % count / count
    configuration = POINT.model_copy(update={"learning_rate": 10 ** (-4 * place) / 10})
    run = {"number": number, "seed": 0, "decision": number, "configuration": configuration.model_dump(mode="json")}
    run |= {"state": TrialState.COMPLETE, "step": 40} if whole else {"state": TrialState.STOPPED, "step": 20}
    return run | {"value": 1 + abs(place - 0.4)}


def test_no_picture_of_a_job_goes_through_its_trials(postgres: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, few in {"FEW_ENOUGH": 60, "MODELLED": 20, "TERRAIN": 60, "LATELY": 100}.items():
        monkeypatch.setattr(charts, name, few)
    job_id = filled(postgres, MANY)
    with postgres.write() as tx:
        tx.execute(text("analyze trials"))

    def pictures(tx: Session) -> None:
        job = jobs.get(tx, job_id)
        drawn = [trial for _, trial in charts.lines(tx, job)]
        band = charts.rest(tx, job, "val_loss", drawn)
        charts.telling(tx, job)
        charts.modelled(tx, job)
        assert len(findings.read(tx, job).trials) < FEW
        assert charts.on_the_map(tx, job) == MANY
        assert len(drawn) > 10
        assert band is None  # of no reports

    found = met(postgres, pictures)
    assert len(found) > 15
    assert not too_much(found, "trials")


def test_statistics_of_trials_are_renewed_by_what_has_changed_and_not_by_a_share_of_all(postgres: Database) -> None:
    """A new job among a million trials is known before it is a tenth of them: without, its pictures go through it."""
    with postgres.read() as tx:
        settings = tx.scalar(text("select reloptions from pg_class where relname = 'trials'"))
    kept = dict(one.split("=") for one in settings)
    assert float(kept["autovacuum_analyze_scale_factor"]) == 0
    assert int(kept["autovacuum_analyze_threshold"]) <= 5000


def test_whose_turn_it_is_meets_few_jobs_though_nothing_is_known_of_any(postgres: Database) -> None:
    """Before PostgreSQL has statistics of jobs and owners; those that are over are not met, the others in order."""
    body, owners = SPEC.model_dump(mode="json"), [f"owner-{number}" for number in range(30)]
    with postgres.write() as tx:
        for owner in owners:
            shares.join(tx, owner)
        row = {"task": "digits", "steps": 40, "spec": body, "events": 1, "size": 40, "created_at": NOON}
        states = [{"state": state} for state in ("succeeded", "queued")]
        tx.execute(
            insert(JobRow),
            [
                row | states[n % 2] | {"id": f"job-{n}", "owner": owners[n % 30], "digest": f"{n:064x}"}
                for n in range(MANY)
            ],
        )
    found = met(postgres, lambda tx: shares.whose_turn(tx, shares.Able(["digits"]), now=NOON))
    assert len(found) == 1
    assert not too_much(found, "jobs")


def test_what_a_log_says_last_of_workers_is_found_without_going_through_it(postgres: Database) -> None:
    with postgres.write() as tx:
        job = jobs.create(tx, SPEC)[0].id
        row = lookup.job(tx, job, lock=True)
        line = {"job": row.seq, "at": NOON, "kind": "trial-noted", "message": "", "data": {}}
        tx.execute(insert(EventRow), [line | {"number": number} for number in range(row.events + 1, MANY)])
        row.events = MANY - 1
    with postgres.write() as tx:
        tx.execute(text("analyze events"))
    found = met(postgres, serving.outdated)
    assert sum(rows["events"] for rows in found.values()) == 1
