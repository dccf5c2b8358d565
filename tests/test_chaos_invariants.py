"""What `make chaos` asks of the database in the end finds whoever breaks it."""

import pytest
from sqlalchemy import text

from benchmarks.chaos.invariants import OFFENCES, broken
from lrtune.store import Database, jobs, leases, trials
from lrtune.wire.results import Proposal
from tests.leasing import MINUTE, NOON, PLAIN, SPEC, claim
from tests.serving import trained

NOT_SO = {
    "a job that has not succeeded": "update jobs set state = 'failed'",
    "a trial that is still open": "update trials set token = 'x' where number = 0",
    "a trial that has failed": "update trials set state = 'failed' where number = 0",
    "trials whose numbers have gaps": "update trials set number = 7 where number = 1",
    "an attempt without an end": "update attempts set ended_at = null",
    "two attempts at a trial at once": (
        "insert into attempts (token, trial, number, worker, started_at, ended_at) "
        "select token || '2', trial, 2, 'other', started_at, ended_at from attempts"
    ),
    "a trial that has ended twice": (
        "insert into events (job, number, at, kind, message, trial, data) "
        "select job, number + 100, at, kind, message, trial, data from events where kind = 'trial-complete'"
    ),
    "an end that is not in the log": "update events set kind = 'other' where kind = 'trial-complete'",
    "a log with gaps": "update events set number = number + 50 where number > 3",
    "a complete trial that lacks reports": "delete from reports",
    "a report beyond its trial": "update reports set step = step + 1000",
    "progress that is not the sum of its trials": "update tallies set steps = steps + 1",
    "trials that are not counted as they ended": "update tallies set trials = trials + 1",
    "a trial that cost more than was trained": "update trials set reused = reused - 1",
}


def test_every_invariant_has_somebody_who_breaks_it() -> None:
    assert set(NOT_SO) == set(OFFENCES)


@pytest.mark.parametrize("offence", OFFENCES)
def test_an_invariant_finds_who_breaks_it(offence: str, sqlite_url: str) -> None:
    database = Database(sqlite_url)
    with database.write() as tx:
        job = jobs.create(tx, SPEC)[0].id
    trained(sqlite_url, job, [0.5, 0.25], steps=100)
    with database.write() as tx:
        before = broken(tx)
        tx.execute(text(NOT_SO[offence]))
        after = broken(tx)
    database.dispose()
    assert offence in after
    assert after[offence] != before.get(offence)


def test_a_report_by_a_stranger_and_a_trial_of_a_clock_that_is_off_are_found(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    with database.write() as tx:
        job = jobs.create(tx, SPEC)[0].id
    trained(sqlite_url, job, [0.5], steps=100)
    with database.write() as tx:
        tx.execute(text("update jobs set task = 'external'"))
        tx.execute(text("""update reports set metrics = '{"val_loss": 1.0, "who": 17}'"""))
        tx.execute(text("update attempts set worker = 'host-17'"))
        assert "a report by somebody who did not hold the trial there" not in broken(tx)
        tx.execute(text("update attempts set worker = 'host-99-beef'"))
        found = broken(tx, strangers=[99])
    database.dispose()
    assert "a report by somebody who did not hold the trial there" in found
    assert found["a trial of a worker whose clock is off"] == ["host-99-beef"]


def test_a_lease_that_was_taken_away_before_its_end_is_found_unless_a_fault_has_ended_it(sqlite_url: str) -> None:
    database, offence = Database(sqlite_url), "a lease that was taken away before its end"
    with database.write() as tx:
        job = jobs.create(tx, SPEC)[0].id
        trials.propose(tx, job, Proposal(configuration=PLAIN, role="baseline", seed=0, horizon=100), known=0)
    lease = claim(database)
    with database.write() as tx:
        leases.requeue(tx, now=NOON + 2 * MINUTE)
        assert offence not in broken(tx, lease=120)
        assert offence not in broken(tx, lease=121, expired=[lease.token])
        assert offence in broken(tx, lease=121)
    database.dispose()
