"""What stopped a trial is a word of its own; of trials of before it is read from how their reasons began."""

import pytest
from sqlalchemy import create_engine, text

import migrations
from lrtune.store import Database, jobs, leases, trials
from lrtune.wire.configuration import Configuration
from lrtune.wire.job import AdmittedJob, Horizon, Objective
from lrtune.wire.results import JobState, NextStep, Proposal, TrialState
from tests.leasing import MINUTE

SPEC = AdmittedJob(
    task="digits", metric=Objective(name="val_loss", goal="minimize", range=(0.0, None)), horizon=Horizon(steps=40)
)
CHOSEN = Configuration(optimizer="adamw", learning_rate=0.01, schedule="linear")


def paused(database: Database, numbers: range) -> str:
    """A job with trials that pause after half of their steps."""
    with database.write() as tx:
        job = jobs.create(tx, SPEC)[0].id
    for number in numbers:
        with database.write() as tx:
            half = Proposal(configuration=CHOSEN, role="search", seed=number, horizon=40, until=20)
            assert trials.propose(tx, job, half, known=number)
            lease = leases.claim(tx, "worker", ttl=MINUTE, job_id=job)
            assert lease is not None
            leases.pause(tx, lease, value=0.5, step=20, reason="paused")
    return job


def test_a_trial_says_what_stopped_it_until_it_goes_on(database: Database) -> None:
    job = paused(database, range(4))
    with database.write() as tx:
        jobs.carry_out(tx, job, NextStep(stopped={0: "far behind", 1: "the budget is spent"}, behind=[0]), known=4)
        again = Proposal(configuration=CHOSEN, role="search", seed=2, horizon=40, resume=2)
        assert trials.propose(tx, job, again, known=4)
    with database.write() as tx:
        lease = leases.claim(tx, "worker", ttl=MINUTE, job_id=job)
        assert lease is not None
        leases.finish(tx, lease, TrialState.STOPPED, value=0.5, step=30, by="loop")
        jobs.end(tx, job, JobState.FAILED, reason="no more")
        assert [trial.stopped_by for trial in trials.history(tx, job)] == ["forecast", "budget", "loop", "budget"]
    with database.write() as tx:
        tx.execute(text("update jobs set state = 'running'"))
        again = Proposal(configuration=CHOSEN, role="search", seed=1, horizon=40, resume=1)
        assert trials.propose(tx, job, again, known=5)
        assert trials.get(tx, job, 1).stopped_by is None


@pytest.mark.parametrize(
    ("reason", "by"),
    [
        ("its loop ended it at step 20 of 40", "loop"),
        ("the search is over; it was paused at step 20 of 40", "budget"),
        ("nothing was left to train it: 0.3 forecast at its end", "budget"),
        ("the job ended while it was paused", "budget"),
        ("0.41 forecast at its end, 0.37 is the best whole run", None),
    ],
)
def test_of_trials_of_before_it_is_read_from_their_reasons(database_url: str, reason: str, by: str | None) -> None:
    database = Database(database_url)
    job = paused(database, range(2))
    with database.write() as tx:
        jobs.carry_out(tx, job, NextStep(stopped={0: reason}), known=2)
    database.dispose()
    migrations.downgrade(database_url, "0022")
    engine = create_engine(database_url)
    with engine.connect() as connection:
        assert "stopped_by" not in connection.execute(text("select * from trials")).keys()  # noqa: SIM118 - its columns
    engine.dispose()
    migrations.upgrade(database_url)
    database = Database(database_url)
    with database.read() as tx:
        assert [trial.stopped_by for trial in trials.history(tx, job)] == [by, None]
    database.dispose()
