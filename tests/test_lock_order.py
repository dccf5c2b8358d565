"""On PostgreSQL, people change a job while workers take trials of it: neither waits for the other for ever.

Who takes a trial has its row, then its owner's share, then its job.
"""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import update

from lrtune.store import Database, attempts, budgets, jobs, lookup, trials
from lrtune.store.tables import ShareRow, TrialRow
from lrtune.wire.job import Budget
from lrtune.wire.results import Job, JobState, Proposal, TrialState
from tests.leasing import PLAIN, SPEC
from tests.test_stages import until_somebody_waits

ASKED = Proposal(configuration=PLAIN, role="search", seed=0, horizon=100)
LONG = 200  # seconds after which somebody waits for ever
TAKEN = {"state": TrialState.RUNNING, "worker": "w"}


@pytest.fixture
def database(postgres_url: str) -> Iterator[Database]:
    opened = Database(postgres_url)
    yield opened
    opened.dispose()


@pytest.fixture
def job(database: Database) -> str:
    with database.write() as tx:
        return jobs.create(tx, SPEC)[0].id


def propose(database: Database, job: str) -> None:
    with database.write() as tx:
        assert trials.propose(tx, job, ASKED, known=jobs.outline(tx, job).row.decisions)


def test_a_job_is_extended_while_a_worker_takes_a_trial_of_it(database: Database, job: str) -> None:
    def extend() -> Job:
        with database.write() as tx:
            return budgets.extend(tx, job, Budget(full_runs=50))

    with ThreadPoolExecutor() as beside:
        with database.write() as tx:
            tx.execute(update(ShareRow).values(taken=ShareRow.taken + 1))
            extended = beside.submit(extend)
            until_somebody_waits(database)
            lookup.job(tx, job, lock=True)
        assert extended.result(LONG).spec.budget.full_runs == 50


def test_a_search_is_stopped_while_a_worker_takes_a_trial_of_it_which_it_then_trains(
    database: Database, job: str
) -> None:
    def stop() -> Job:
        with database.write() as tx:
            return budgets.stop(tx, job)

    propose(database, job)
    propose(database, job)
    with ThreadPoolExecutor() as beside, database.write() as tx:
        tx.execute(update(TrialRow).where(TrialRow.number == 0).values(TAKEN))
        beside.submit(stop).result(LONG)
        lookup.job(tx, job, lock=True)
    with database.read() as tx:
        states = [trial.state for trial in trials.history(tx, job)]
    assert states == [TrialState.RUNNING, TrialState.CANCELLED]


def test_a_job_is_cancelled_while_a_worker_takes_what_was_proposed_a_moment_ago(
    database: Database, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken, close, takes = threading.Event(), attempts.close, []

    def take() -> None:
        with database.write() as tx:
            tx.execute(update(TrialRow).values(TAKEN))
            taken.set()
            until_somebody_waits(database)
            lookup.job(tx, job, lock=True)

    def overtaken(*given: Any) -> None:
        """All that was open is cancelled, and the job not yet."""
        monkeypatch.setattr(attempts, "close", close)
        close(*given)
        propose(database, job)
        takes.append(beside.submit(take))
        assert taken.wait(LONG)

    monkeypatch.setattr(attempts, "close", overtaken)
    with ThreadPoolExecutor() as beside:
        with database.write() as tx:
            assert jobs.cancel(tx, job).state is JobState.CANCELLED
        takes[0].result(LONG)
    with database.read() as tx:
        assert [trial.state for trial in trials.history(tx, job)] == [TrialState.CANCELLED]
        assert jobs.get(tx, job).progress.trials == {TrialState.CANCELLED: 1}
