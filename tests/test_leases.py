"""What the five verbs of a worker promise, on both databases, with a clock of our own."""

from datetime import timedelta

import pytest
from sqlalchemy import update

from lrtune.errors import LeaseLost
from lrtune.store import Database, events, jobs, leases, trials
from lrtune.store.tables import TrialRow
from lrtune.wire.results import JobState, Proposal, Report, TrialState
from tests.leasing import MINUTE, NOON, PLAIN, SPEC, claim, claimed


@pytest.fixture
def job(database: Database) -> str:
    """A job with two trials waiting."""
    with database.write() as tx:
        made, _ = jobs.create(tx, SPEC, now=NOON)
        for number in range(2):
            proposal = Proposal(configuration=PLAIN, role="search", seed=number, horizon=100, reason="a draw")
            assert trials.propose(tx, made.id, proposal, known=number, now=NOON)
    return made.id


def report(step: int) -> Report:
    return Report(step=step, learning_rate=1e-3, metrics={"val_loss": 1.0 / step})


def state(database: Database, job: str, number: int) -> TrialState:
    with database.read() as tx:
        return trials.get(tx, job, number).state


def test_two_workers_get_two_trials_and_a_third_gets_none(database: Database, job: str) -> None:
    assert {claim(database, "a").trial.number, claim(database, "b").trial.number} == {0, 1}
    with database.write() as tx:
        assert leases.claim(tx, "c", ttl=MINUTE, now=NOON) is None


def test_the_first_claim_sets_the_job_running(database: Database, job: str) -> None:
    claim(database)
    with database.read() as tx:
        found = jobs.get(tx, job)
    assert (found.state, found.started_at) == (JobState.RUNNING, NOON)


def test_an_expired_lease_is_claimed_again_as_attempt_two(database: Database, job: str) -> None:
    first, _ = claim(database, "a"), claim(database, "b")
    again = claim(database, "c", at=NOON + 2 * MINUTE)
    assert (again.trial.number, again.trial.attempt) == (first.trial.number, 2)


def test_renewing_keeps_a_lease_alive(database: Database, job: str) -> None:
    first, _ = claim(database, "a"), claim(database, "b")
    with database.write() as tx:
        leases.renew(tx, first, ttl=10 * MINUTE, now=NOON + MINUTE / 2)
    assert claim(database, "c", at=NOON + 5 * MINUTE).trial.number == 1


def test_what_no_database_keeps_of_a_reason_is_written_as_it_is_escaped(database: Database, job: str) -> None:
    """The names of files that are not UTF-8, and whatever somebody's code says as it fails."""
    lease = claim(database)
    with database.write() as tx:
        said = {"reason": "no \udcff\0 here", "traceback": "at \udcff\0"}
        leases.finish(tx, lease, TrialState.FAILED, value=None, step=0, **said)
    with database.write() as tx:
        jobs.end(tx, job, JobState.FAILED, reason="no \udcff\0 here")
    with database.read() as tx:
        assert (jobs.get(tx, job).reason, trials.get(tx, job, 0).reason) == ("no \\udcff\\x00 here",) * 2
        assert events.traceback(tx, job) == "at \\udcff\\x00"
        assert "no \\udcff\\x00 here" in events.page(tx, job, after=0, limit=50).items[-1].message


@pytest.mark.parametrize("verb", ["renew", "report", "finish", "release"])
def test_a_zombie_can_do_nothing_to_a_trial_that_was_claimed_again(database: Database, job: str, verb: str) -> None:
    zombie, other = claim(database, "a"), claim(database, "b")
    with database.write() as tx:
        leases.finish(tx, other, TrialState.COMPLETE, value=1.0, step=100, now=NOON)
    heir = claim(database, "c", at=NOON + 2 * MINUTE)
    assert heir.trial.number == zombie.trial.number
    calls = {
        "renew": lambda tx: leases.renew(tx, zombie, ttl=MINUTE),
        "report": lambda tx: leases.report(tx, zombie, [report(50)], ttl=MINUTE),
        "finish": lambda tx: leases.finish(tx, zombie, TrialState.COMPLETE, value=0.1, step=100),
        "release": lambda tx: leases.release(tx, zombie, reason="going"),
    }
    with pytest.raises(LeaseLost), database.write() as tx:
        calls[verb](tx)
    with database.read() as tx:
        found = trials.get(tx, job, heir.trial.number)
    assert (found.state, found.attempt, found.worker, found.reports) == (TrialState.RUNNING, 2, "c", [])


def test_a_trial_cannot_be_finished_twice(database: Database, job: str) -> None:
    lease = claim(database)
    with database.write() as tx:
        leases.finish(tx, lease, TrialState.COMPLETE, value=0.5, step=100)
    with pytest.raises(LeaseLost), database.write() as tx:
        leases.finish(tx, lease, TrialState.COMPLETE, value=0.4, step=100)


def test_a_second_attempt_starts_with_no_reports(database: Database, job: str) -> None:
    lease, _ = claim(database, "a"), claim(database, "b")
    with database.write() as tx:
        leases.report(tx, lease, [report(10), report(20)], ttl=MINUTE, now=NOON)
    again = claim(database, "c", at=NOON + 2 * MINUTE)
    with database.read() as tx:
        found = trials.get(tx, job, again.trial.number)
    assert (found.reports, found.step) == ([], 0)


@pytest.mark.parametrize("how", ["its lease runs out", "its device is lost", "it is given back", "it is released"])
def test_a_trial_that_is_cancelled_has_no_reports_of_an_attempt_that_does_not_count(
    database: Database, job: str, how: str
) -> None:
    lease, later = claim(database, "a"), NOON + 2 * MINUTE
    with database.write() as tx:
        leases.report(tx, lease, [report(10), report(20)], ttl=MINUTE, now=NOON)
    with database.write() as tx:
        match how:
            case "its lease runs out":
                assert leases.requeue(tx, now=later)
            case "its device is lost":
                leases.lose(tx, lease, reason="gone", now=NOON)
            case "it is given back":
                leases.give_back(tx, lease, reason="gone", now=NOON)
            case _:
                leases.release(tx, lease, reason="gone", now=NOON)
    with database.write() as tx:
        jobs.cancel(tx, job, now=later)
        found = trials.get(tx, job, lease.trial.number)
    assert (found.state, found.step, found.reports) == (TrialState.CANCELLED, 0, [])


def test_a_trial_that_is_cancelled_as_it_trains_keeps_its_reports(database: Database, job: str) -> None:
    lease = claim(database)
    with database.write() as tx:
        leases.report(tx, lease, [report(10), report(20)], ttl=MINUTE, now=NOON)
    with database.write() as tx:
        jobs.cancel(tx, job)
        found = trials.get(tx, job, lease.trial.number)
    assert (found.state, found.step, [one.step for one in found.reports]) == (TrialState.CANCELLED, 20, [10, 20])


def reported(database: Database, job: str, number: int) -> list[tuple[int, float | None]]:
    with database.read() as tx:
        return trials.get(tx, job, number).values("val_loss")


def test_reports_are_a_set_by_step_and_the_first_of_a_step_stands(database: Database, job: str) -> None:
    lease = claim(database)
    for batch in (
        [report(30), report(10)],
        [report(20)],
        [Report(step=20, learning_rate=9.0, metrics={"val_loss": 9.0})],
    ):
        with database.write() as tx:
            leases.report(tx, lease, batch, ttl=MINUTE, now=NOON)
    assert reported(database, job, 0) == [(10, 0.1), (20, 0.05), (30, 1 / 30)]
    with database.read() as tx:
        assert trials.get(tx, job, 0).step == 30


def test_what_an_attempt_trains_again_of_earlier_stages_is_reported_anew(database: Database, job: str) -> None:
    lease = claim(database)
    with database.write() as tx:
        leases.report(tx, lease, [report(10), report(20)], ttl=MINUTE, now=NOON)
        leases.pause(tx, lease, value=0.05, step=20, reason="as planned", now=NOON)
        proposal = Proposal(configuration=PLAIN, role="search", seed=0, horizon=100, resume=0)
        assert trials.propose(tx, job, proposal, known=2, now=NOON)
    anew = [Report(step=step, learning_rate=1e-3, metrics={"val_loss": 7.0}) for step in (10, 20, 30)]
    lease = claim(database, "b")
    assert (lease.trial.number, lease.trial.start) == (0, 20)
    with database.write() as tx:
        leases.take_up(tx, lease, step=0, reused=0, whose=(), now=NOON)
        leases.report(tx, lease, anew, ttl=MINUTE, now=NOON)
        leases.report(tx, lease, [report(30)], ttl=MINUTE, now=NOON)
    assert reported(database, job, 0) == [(10, 7.0), (20, 7.0), (30, 7.0)]


def test_a_released_trial_waits_again_and_spends_no_attempt(database: Database, job: str) -> None:
    lease = claim(database)
    with database.write() as tx:
        leases.release(tx, lease, reason="the worker was asked to stop")
    assert state(database, job, 0) is TrialState.WAITING
    assert claim(database, "b").trial.attempt == 1


def test_an_attempt_that_its_own_worker_gives_up_for_lost_counts_like_a_dead_worker(
    database: Database, job: str
) -> None:
    lease = claim(database)
    with database.write() as tx:
        leases.report(tx, lease, [report(30)], ttl=MINUTE, now=NOON)
        leases.lose(tx, lease, reason="the process on device 2 of 2 died (SIGKILL)", now=NOON)
    with database.read() as tx:
        found, last = trials.get(tx, job, 0), events.latest(tx, job, before=None, limit=1).items[0]
    assert (found.state, found.step, found.cost) == (TrialState.WAITING, 0, 100)
    assert [(one.outcome, one.step, one.cost) for one in found.stages] == [("lost", 30, 30)]
    assert (last.kind, last.message) == ("trial-waiting", "trial 0: the process on device 2 of 2 died (SIGKILL)")
    with database.write() as tx, pytest.raises(LeaseLost):
        leases.lose(tx, lease, reason="again", now=NOON)
    for _ in range(leases.MAX_DEATHS - 1):
        lease = claim(database)
        with database.write() as tx:
            leases.lose(tx, lease, reason="again", now=NOON)
    assert state(database, job, 0) is TrialState.FAILED


def test_a_trial_whose_workers_keep_dying_fails_with_a_reason(database: Database, job: str) -> None:
    with database.write() as tx:
        leases.finish(tx, leases.claim(tx, "x", ttl=MINUTE, now=NOON), TrialState.COMPLETE, value=1.0, step=100)  # type: ignore[arg-type]
    for attempt in range(leases.MAX_DEATHS):
        assert claim(database, at=NOON + attempt * 2 * MINUTE).trial.number == 1
    assert claimed(database, "z", at=NOON + timedelta(hours=1)) is None
    with database.read() as tx:
        found = trials.get(tx, job, 1)
    assert found.state is TrialState.FAILED
    assert found.reason.startswith("its workers died 5 times and got no further; the last time: ")


def test_deaths_of_workers_count_only_while_the_trial_gets_no_further(database: Database, job: str) -> None:
    with database.write() as tx:
        leases.finish(tx, leases.claim(tx, "x", ttl=MINUTE, now=NOON), TrialState.COMPLETE, value=1.0, step=100)  # type: ignore[arg-type]
    starts = [0] * 4 + [10] * 4 + [20, 10, 20, 0, 20]  # where each attempt starts: only a new record forgives
    for attempt, step in enumerate(starts):
        at = NOON + attempt * 2 * MINUTE
        lease = claim(database, at=at)
        assert (lease.trial.number, lease.trial.attempt) == (1, attempt + 1)
        with database.write() as tx:
            leases.take_up(tx, lease, step=step, reused=0, whose=(), now=at)
    assert claimed(database, "z", at=NOON + timedelta(hours=1)) is None
    assert state(database, job, 1) is TrialState.FAILED


def test_cancelling_takes_trials_from_their_workers(database: Database, job: str) -> None:
    lease = claim(database)
    with database.write() as tx:
        jobs.cancel(tx, job)
    with pytest.raises(LeaseLost), database.write() as tx:
        leases.renew(tx, lease, ttl=MINUTE)
    assert [state(database, job, number) for number in (0, 1)] == [TrialState.CANCELLED] * 2


def test_renewing_brings_the_news_of_a_pause_and_a_paused_job_is_not_claimed(database: Database, job: str) -> None:
    lease = claim(database)
    with database.write() as tx:
        jobs.pause(tx, job)
    with database.write() as tx:
        assert leases.renew(tx, lease, ttl=MINUTE) is JobState.PAUSED
        leases.release(tx, lease, reason="paused")
        assert leases.claim(tx, "b", ttl=MINUTE) is None
        jobs.resume(tx, job)
        assert leases.claim(tx, "b", ttl=MINUTE) is not None


def test_a_decision_is_carried_out_once(database: Database, job: str) -> None:
    proposal = Proposal(configuration=PLAIN, role="search", seed=0, horizon=100)
    with database.write() as tx:
        assert trials.propose(tx, job, proposal, known=2)
        assert not trials.propose(tx, job, proposal, known=2)


def test_the_log_is_numbered_without_gaps(database: Database, job: str) -> None:
    lease = claim(database)
    with database.write() as tx:
        leases.finish(tx, lease, TrialState.DIVERGED, value=None, step=7, reason="loss became nan")
    with database.read() as tx:
        log = events.page(tx, job, after=0, limit=100).items
    assert [event.id for event in log] == list(range(1, 6))
    assert [event.kind for event in log] == [
        "job-submitted", "trial-proposed", "trial-proposed", "trial-started", "trial-diverged",
    ]  # fmt: skip


def test_reused_reports_are_marked_and_a_trial_that_failed_reused_no_more_than_it_ran(
    database: Database, job: str
) -> None:
    lease = claim(database)
    with database.write() as tx:
        leases.report(tx, lease, [report(10).model_copy(update={"reused": True}), report(20)], ttl=MINUTE, now=NOON)
        tx.execute(update(TrialRow).where(TrialRow.id == lease.id).values(reused=10))
    with database.read() as tx:
        found = trials.get(tx, job, lease.trial.number)
        assert jobs.get(tx, job).progress.full_runs == 0.1
    assert [one.reused for one in found.reports] == [True, False]
    with database.write() as tx:
        leases.finish(tx, lease, TrialState.FAILED, value=None, step=0, reason="out of memory", now=NOON)
    with database.read() as tx:
        assert trials.get(tx, job, lease.trial.number).cost == 0
