"""What a call costs the database: so many statements, however many trials the job has."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Engine, event

from app import external, reporting
from app.turns import Turns
from lrtune.errors import LeaseLost
from lrtune.store import Database, charts, findings, jobs, leases, listing, serving, trials, workers
from lrtune.wire.configuration import Configuration
from lrtune.wire.external import Batch, Handout, Hold, Sent, Verdict
from lrtune.wire.job import AdmittedJob
from lrtune.wire.results import NextStep, Proposal, Report, TrialState
from tests.external import JOB, report, submit, take
from tests.leasing import MINUTE, NOON, SPEC
from tests.serving import served

POINT = Configuration(optimizer="adamw", learning_rate=0.01, schedule="cosine")
FORECAST = {"search": {"sampler": "random", "pruner": "forecast"}, "budget": {"full_runs": 500}}


pytestmark = pytest.mark.usefixtures("thinking_here")


@contextmanager
def counted() -> Iterator[list[str]]:
    """The statements of this process, but for the beginnings of transactions."""
    seen: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: Any) -> None:
        if not statement.startswith(("BEGIN", "pragma")):
            seen.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(Engine, "before_cursor_execute", note)


def job_of(database: Database, count: int, *, waiting: bool = False) -> str:
    """A job of a loop of the user's own with so many complete runs, and one more that waits."""
    spec = AdmittedJob.model_validate(JOB | FORECAST)
    with database.write() as tx:
        job = jobs.create(tx, spec)[0].id
        for number in range(count + waiting):
            asked = Proposal(configuration=POINT, role="search", seed=number, horizon=40, reason="a draw")
            trials.propose(tx, job, asked, known=number)
            if number == count:
                break
            lease = leases.claim(tx, "w", ttl=MINUTE, job_id=job)
            assert lease is not None
            seen = [Report(step=s, learning_rate=0.1, metrics={"val_loss": 1 / s}) for s in range(2, 41, 2)]
            leases.report(tx, lease, seen, ttl=MINUTE)
            leases.finish(tx, lease, TrialState.COMPLETE, value=1 / 40, step=40)
    return job


def taken(database: Database, job: str, hold: Hold | None = None) -> Handout:
    found = asyncio.run(external.hand_out(Turns(database, asyncio.Semaphore()), job, hold or Hold()))
    assert isinstance(found, Handout)
    return found


def sent(database: Database, job: str, held: Handout, batch: Batch) -> Verdict:
    return asyncio.run(reporting.take(Turns(database, asyncio.Semaphore()), job, held.trial.number, batch))


def reported(database: Database, job: str, held: Handout, step: int) -> int:
    """How many statements a report takes."""
    reports = [Sent(step=step, metrics={"val_loss": 1 / step})]
    with counted() as seen:
        said = sent(database, job, held, Batch(token=held.token, reports=reports))
    assert said.decision == "continue"
    return len(seen)


def test_a_report_is_four_statements_and_four_more_where_the_pruner_may_act(database: Database) -> None:
    for count in (3, 30):
        job = job_of(database, count, waiting=True)
        held = taken(database, job)
        costs = {step: reported(database, job, held, step) for step in range(2, 40, 2)}
        asked = {step: cost for step, cost in costs.items() if cost > 4}
        assert set(asked) <= {4, 10, 20, 30}
        assert max(asked.values()) <= 8
        with counted() as seen:
            sent(database, job, held, Batch(token=held.token))
        assert len(seen) <= 3  # a heartbeat


def test_a_take_is_as_many_statements_however_many_trials_there_are(database: Database) -> None:
    for waiting, most in ((True, 20), (False, 55)):
        found = []
        for count in (3, 30):
            job = job_of(database, count, waiting=waiting)
            with counted() as seen:
                taken(database, job)
            found.append(len(seen))
        assert found[0] == found[1] <= most


def test_no_picture_goes_through_all_trials_of_a_job(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FEW", "FEW_ENOUGH", "MODELLED", "REST", "TERRAIN"):
        monkeypatch.setattr(charts, name, 4)
    monkeypatch.setattr(findings, "WHOLE", 30)
    database, plans = Database(sqlite_url), list[str]()
    job_id = job_of(database, 40)

    def planned(_connection: object, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.startswith("SELECT") and not statement.startswith("SELECT max("):  # which looks at one end alone
            found = [row[3] for row in cursor.connection.execute(f"explain query plan {statement}", parameters)]
            plans.extend(found if " LIMIT " in statement else (plan.replace("value>?", "") for plan in found))

    with database.read() as tx:
        job = jobs.get(tx, job_id)
        event.listen(Engine, "before_cursor_execute", planned)
        try:
            drawn = [trial for _, trial in charts.lines(tx, job)]
            band, known = charts.rest(tx, job, "val_loss", drawn), charts.telling(tx, job)
            modelled, seen = charts.modelled(tx, job), charts.on_the_map(tx, job)
            assert len(findings.read(tx, job).trials) < 40
        finally:
            event.remove(Engine, "before_cursor_execute", planned)
    assert seen == 40
    assert band is not None
    assert band.trials == 40 - len(drawn)
    assert len(known) + len(modelled) < 40
    narrow = [plan for plan in plans if "trials" in plan and ("SCAN" in plan or plan.endswith(("(job=?)", "AND )")))]
    assert not narrow


def test_what_all_logs_say_of_workers_is_asked_and_told_at_once(database: Database) -> None:
    costs = []
    with database.write() as tx:
        workers.sign_in(tx, "w", host="h", pid=1, device="cpu", tasks=["digits"])
    for count in (2, 9):
        with database.write() as tx:
            for _ in range(count):
                jobs.create(tx, SPEC)
        with counted() as seen, database.read() as tx:
            assert not serving.outdated(tx)
        costs.append(len(seen))
    assert costs[0] == costs[1] <= 3


def test_many_jobs_are_listed_or_polled_for_the_statements_of_a_few(database: Database) -> None:
    costs = []
    for count in (2, 9):
        with database.write() as tx:
            made = [jobs.create(tx, SPEC)[0].id for _ in range(count)]
        with database.read() as tx:  # whoever asks first has the answers so far looked for
            assert set(jobs.several(tx, made)) == set(made)
        with counted() as seen, database.read() as tx:
            assert set(jobs.several(tx, made)) == set(made)
            assert len(listing.page(tx, limit=count, cursor=None).items) == count
        costs.append(len(seen))
    assert costs[0] == costs[1] <= 8


def test_leases_that_ran_out_are_found_by_an_index_of_those_that_run(sqlite_url: str) -> None:
    database, seen = Database(sqlite_url), list[str]()
    with database.write() as tx, counted() as statements:
        leases.requeue(tx, now=NOON)
        jobs.expired(tx)
        seen = [one for one in statements if "lease_until <" in one]
        plans = [
            row[3]
            for one in seen
            for row in tx.connection().exec_driver_sql(f"explain query plan {one.replace('?', '1')}")
        ]
    assert len(seen) == 2
    assert not [plan for plan in plans if "trials" in plan and "ix_trials_leased" not in plan and "SCAN" in plan]


def test_a_report_after_the_lease_is_lost_says_what_became_of_the_trial(database: Database) -> None:
    job = job_of(database, 0)
    held = taken(database, job)
    with database.write() as tx:
        other = leases.claim(tx, "w", ttl=MINUTE, job_id=job)
        assert other is None
        jobs.end(tx, job, jobs.JobState.CANCELLED, reason="enough")
    said = sent(database, job, held, Batch(token=held.token))
    assert (said.decision, said.state) == ("stop", TrialState.CANCELLED)
    with pytest.raises(LeaseLost, match="never handed out"):
        sent(database, job, held, Batch(token="other"))


def test_nobody_waits_for_a_search_that_thinks_and_one_job_is_thought_of_once(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite has one writer: a report, and the page of the jobs, must go on while a loop is found its next trial."""
    thinking, go_on, at_once = threading.Event(), threading.Event(), list[int]()

    def slow(*args: Any, **named: Any) -> NextStep:
        at_once.append(1)
        thinking.set()
        assert go_on.wait(60)
        return advance(*args, **named)

    advance = external.search.advance
    with served(database_url) as door, ThreadPoolExecutor(2) as loops:
        job = submit(door, budget={"trials": 9})
        held = take(door, job)
        monkeypatch.setattr(external.search, "advance", slow)
        asked = [loops.submit(take, door, job) for _ in range(2)]
        assert thinking.wait(60)
        assert report(door, job, held, 2, 1.0)["decision"] == "continue"
        assert len(at_once) == 1
        go_on.set()
        numbers = [one.result(60)["trial"]["number"] for one in asked]
    assert sorted(numbers) == [1, 2]
    assert len(at_once) <= 2  # once for both, or for each: nothing is thought of and thrown away
