"""On PostgreSQL, people change a job while workers take trials of it: neither waits for the other for ever.

Who takes a trial has its row, then its owner's share, then its job.
"""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from sqlalchemy import select, update

from app.external import hand_out
from app.turns import Turns
from lrtune.store import Database, attempts, budgets, checkpoints, jobs, leases, lookup, trials
from lrtune.store.database import clock
from lrtune.store.tables import AttemptRow, ShareRow, TrialRow
from lrtune.wire.external import Handout, Hold
from lrtune.wire.job import AdmittedJob, Budget
from lrtune.wire.results import Job, JobState, Proposal, TrialState
from tests.leasing import MINUTE, PLAIN, SPEC
from tests.serving import served, slug
from tests.test_stages import until_somebody_waits

ASKED = Proposal(configuration=PLAIN, role="search", seed=0, horizon=100)
LONG = 200  # seconds after which somebody waits for ever
LOOPED = AdmittedJob.model_validate(
    {"task": "external", "metric": {"name": "loss", "goal": "minimize"}, "horizon": {"steps": 9}}
)
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


def asks(service: httpx.Client, job: str) -> httpx.Response:
    """As a loop that has no name of its own does, and goes on from checkpoints."""
    return service.post(f"/v1/jobs/{job}/trials", json={"checkpoints": "own"})


def looped(service: httpx.Client) -> str:
    """A job of a loop of the user's own."""
    return str(service.post("/v1/jobs", json=LOOPED.model_dump(mode="json")).json()["id"])


def test_two_loops_of_one_name_ask_for_their_first_trials_at_the_same_moment(postgres_url: str) -> None:
    database = Database(postgres_url)
    with ThreadPoolExecutor() as beside, served(postgres_url) as service:
        job = looped(service)
        with database.write() as tx:
            checkpoints.seen(tx, lookup.job(tx, job).seq, Hold(checkpoints="own"))
            asked = beside.submit(asks, service, job)
            until_somebody_waits(database)
        assert asked.result(LONG).status_code == 200
    database.dispose()


def test_a_loop_asks_for_its_first_trial_as_its_job_is_deleted(postgres_url: str) -> None:
    database = Database(postgres_url)
    with ThreadPoolExecutor() as beside, served(postgres_url) as service:
        job = looped(service)
        with database.write() as tx:
            jobs.cancel(tx, job)
            jobs.delete(tx, job)
            asked = beside.submit(asks, service, job)
            until_somebody_waits(database)
        assert slug(asked.result(LONG)) == "unknown-job"
    database.dispose()


def test_a_loop_that_puts_back_what_ran_out_elsewhere_holds_up_nobody_who_does_the_same(database: Database) -> None:
    """As several do where many leases run out at once: each may wait for a job that another has put a trial back of."""
    ids = []
    for _ in range(2):
        with database.write() as tx:
            ids.append(jobs.create(tx, LOOPED)[0].id)
            trials.propose(tx, ids[-1], ASKED, known=0)
    with database.write() as tx:
        assert leases.claim(tx, "gone", ttl=-MINUTE, job_id=ids[1])
    with ThreadPoolExecutor() as beside:
        with database.write() as tx:
            lookup.job(tx, ids[0], lock=True)
            asked = beside.submit(asyncio.run, hand_out(Turns(database, asyncio.Semaphore()), ids[0], Hold()))
            until_somebody_waits(database)
            lookup.job(tx, ids[1], lock=True)
        assert isinstance(asked.result(LONG), Handout)
    with database.read() as tx:
        assert trials.get(tx, ids[1], 0).state is TrialState.WAITING


def test_two_trials_of_one_worker_are_put_back_by_two_at_the_same_moment(database: Database) -> None:
    """Each shares what they took together out anew, and leaves the other's alone."""

    def put_back() -> bool:
        with database.write() as tx:
            return leases.requeue(tx, now=clock(tx))

    with database.write() as tx:
        for owner, ttl in (("ada", -MINUTE), ("bob", MINUTE)):
            job = jobs.create(tx, SPEC, owner=owner)[0].id
            trials.propose(tx, job, ASKED, known=0)
            assert leases.claim(tx, "w", ttl=ttl, job_id=job)
    with ThreadPoolExecutor() as beside:
        with database.write() as tx:
            gone, stays = tx.scalars(select(TrialRow.id).order_by(TrialRow.lease_until)).all()
            tx.execute(select(TrialRow.id).where(TrialRow.id == stays).with_for_update())
            tx.execute(select(AttemptRow.token).where(AttemptRow.trial == gone).with_for_update())
            asked = beside.submit(put_back)
            until_somebody_waits(database)
            tx.execute(select(AttemptRow.token).where(AttemptRow.trial == stays).with_for_update())
        assert asked.result(LONG)


def test_a_job_is_deleted_as_it_is_found_that_its_loop_is_gone(database: Database) -> None:
    def forsake() -> None:
        with database.write() as tx:
            jobs.forsake(tx)

    with database.write() as tx:
        job = jobs.create(tx, LOOPED)[0].id
        lookup.job(tx, job).state = JobState.RUNNING
    with ThreadPoolExecutor() as beside:
        with database.write() as tx:
            jobs.cancel(tx, job)
            jobs.delete(tx, job)
            forsaken = beside.submit(forsake)
            until_somebody_waits(database)
        forsaken.result(LONG)
