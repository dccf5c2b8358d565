"""One run is one trial: trained in stages, paused, resumed, paid for once, stopped in the end. On both databases."""

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

import pytest
from sqlalchemy import text

from lrtune.errors import LeaseLost
from lrtune.store import Database, audits, budgets, events, jobs, leases, lookup, trials, warm_start
from lrtune.wire.job import Budget
from lrtune.wire.results import JobState, NextStep, Proposal, Report, Trial, TrialState
from tests.leasing import MINUTE, NOON, PLAIN, SPEC, claim

HOUR = timedelta(hours=1)


@pytest.fixture
def job(database: Database) -> str:
    """A job whose trial 0 waits to be trained until step 20."""
    with database.write() as tx:
        made, _ = jobs.create(tx, SPEC, now=NOON)
    decide(database, made.id, until=20, known=0)
    return made.id


def decide(database: Database, job: str, *, known: int, until: int | None = None, resume: int | None = None) -> bool:
    """Carry out a decision of the search; without `resume` it is a new trial."""
    reason = f"decision {known}"
    proposal = Proposal(
        configuration=PLAIN, role="search", seed=known, horizon=100, until=until, resume=resume, reason=reason
    )
    with database.write() as tx:
        return trials.propose(tx, job, proposal, known=known, now=NOON)


def report(database: Database, lease: leases.Lease, *steps: int, at: datetime = NOON) -> None:
    found = [Report(step=step, learning_rate=1e-3, metrics={"val_loss": 1.0 / step}) for step in steps]
    with database.write() as tx:
        leases.report(tx, lease, found, ttl=MINUTE, now=at)


def pause(database: Database, lease: leases.Lease, step: int, at: datetime = NOON) -> None:
    """As a worker ends a stage."""
    report(database, lease, step, at=at)
    with database.write() as tx:
        leases.pause(tx, lease, value=1.0 / step, step=step, reason=f"trained until step {step}, as planned", now=at)


def take_up(database: Database, lease: leases.Lease, step: int, reused: int = 0) -> None:
    with database.write() as tx:
        leases.take_up(tx, lease, step=step, reused=reused, whose=["job-x/1"], now=NOON)


def in_second_stage(database: Database, job: str, worker: str = "a") -> leases.Lease:
    """A lease on the trial, which was paused at step 20 and has now got to step 30 on its way to 50."""
    pause(database, claim(database), 20)
    decide(database, job, known=1, until=50, resume=0)
    lease = claim(database, worker)
    take_up(database, lease, 20)
    report(database, lease, 30)
    return lease


def only(database: Database, job: str) -> Trial:
    with database.read() as tx:
        (found,) = trials.history(tx, job)
    return found


def test_a_run_in_three_stages_is_one_trial_with_all_its_reports(database: Database, job: str) -> None:
    pause(database, claim(database), 20)
    paused = only(database, job)
    assert (paused.state, paused.step, paused.cost) == (TrialState.PAUSED, 20, 20)
    assert paused.reason == "trained until step 20, as planned"
    assert decide(database, job, known=1, until=50, resume=0)
    second = claim(database, "b")
    take_up(database, second, 20)
    report(database, second, 30)
    pause(database, second, 50)
    assert decide(database, job, known=2, resume=0)
    third = claim(database, "c")
    take_up(database, third, 50)
    with database.write() as tx:
        leases.finish(tx, third, TrialState.COMPLETE, value=0.01, step=100, now=NOON)
    done = only(database, job)
    assert (done.number, done.state, done.value, done.cost, done.decision) == (0, TrialState.COMPLETE, 0.01, 100, 2)
    assert [one.step for one in done.reports] == [20, 30, 50]
    assert [(s.start, s.until, s.step, s.cost, s.outcome, s.worker, s.why) for s in done.stages] == [
        (0, 20, 20, 20, "paused", "a", "decision 0"),
        (20, 50, 50, 30, "paused", "b", "decision 1"),
        (50, None, 100, 50, "finished", "c", "decision 2"),
    ]
    with database.read() as tx:
        assert jobs.get(tx, job).progress.trials == {TrialState.COMPLETE: 1}
        assert jobs.get(tx, job).progress.full_runs == 1.0
        log = [event.kind for event in events.page(tx, job, after=0, limit=100).items]
    assert [kind for kind in log if kind in ("trial-proposed", "trial-paused", "trial-resumed", "trial-complete")] == [
        "trial-proposed", "trial-paused", "trial-resumed", "trial-paused", "trial-resumed", "trial-complete",
    ]  # fmt: skip


def test_a_decision_that_rests_on_an_old_state_of_the_job_changes_nothing(database: Database, job: str) -> None:
    pause(database, claim(database), 20)
    assert decide(database, job, known=1, until=50, resume=0)
    assert not decide(database, job, known=1, until=50, resume=0)
    assert not decide(database, job, known=1)
    over = NextStep(over=True)
    assert not over.nothing_to_do
    with database.write() as tx:
        jobs.carry_out(tx, job, over, known=1)
    assert (only(database, job).until, only(database, job).decision) == (50, 1)
    with database.read() as tx:
        assert jobs.get(tx, job).state is not JobState.SUCCEEDED


def test_a_trial_that_waits_or_runs_is_not_resumed_once_more(database: Database, job: str) -> None:
    assert not decide(database, job, known=1, resume=0)
    claim(database)
    assert not decide(database, job, known=1, resume=0)
    assert decide(database, job, known=1), "the refused ones have used up no decision"


def test_a_worker_that_dies_costs_no_more_than_its_stage(database: Database, job: str) -> None:
    report(database, in_second_stage(database, job, "dying"), 40)
    later = NOON + HOUR
    again = claim(database, "heir", at=later)
    assert (again.trial.step, again.trial.until, again.trial.cost) == (20, 50, 50)
    assert [one.step for one in again.trial.reports] == [20], "what the dead one reported of its stage is trained again"
    assert [(s.outcome, s.start, s.step, s.cost, s.decision) for s in again.trial.stages] == [
        ("paused", 0, 20, 20, 0),
        ("lost", 20, 40, 20, 1),
        (None, 20, 20, 0, 1),
    ]


def test_a_stage_that_is_given_back_begins_again_where_the_trial_was_paused(database: Database, job: str) -> None:
    lease = in_second_stage(database, job)
    with database.write() as tx:
        leases.release(tx, lease, reason="the worker was asked to stop", now=NOON)
    found = only(database, job)
    assert (found.state, found.start, found.step, found.cost) == (TrialState.WAITING, 20, 20, 50)


def test_steps_of_other_trials_cost_nothing_and_lost_ones_cost_again(database: Database, job: str) -> None:
    lease = claim(database)
    take_up(database, lease, 10, reused=10)
    pause(database, lease, 20)
    assert only(database, job).cost == 10
    decide(database, job, known=1, until=50, resume=0)
    assert only(database, job).cost == 40, "a waiting stage counts as all that it may cost"
    lease = claim(database)  # its checkpoint is gone: nothing is taken up but the other trial's ten steps
    take_up(database, lease, 10, reused=10)
    pause(database, lease, 50)
    found = only(database, job)
    assert (found.step, found.cost, found.reused) == (50, 50, 0)
    assert [stage.cost for stage in found.stages] == [10, 40]
    with database.read() as tx:
        assert jobs.get(tx, job).progress.full_runs == 0.5


def test_a_trial_whose_every_checkpoint_is_lost_pays_for_all_of_it_again(database: Database, job: str) -> None:
    pause(database, claim(database), 20)
    decide(database, job, known=1, until=50, resume=0)
    lease = claim(database)
    take_up(database, lease, 0)
    assert (only(database, job).step, only(database, job).cost) == (0, 70)
    pause(database, lease, 50)
    assert (only(database, job).cost, [stage.cost for stage in only(database, job).stages]) == (70, [20, 50])


def test_what_a_trial_has_paid_for_stays_paid_however_it_ends(database: Database, job: str) -> None:
    pause(database, claim(database), 20)
    decide(database, job, known=1, resume=0)
    lease = claim(database)
    take_up(database, lease, 80, reused=60)  # another trial has gone on from step 20
    with database.write() as tx:  # and the pruner stops this one at a report that comes with the checkpoint
        leases.finish(tx, lease, TrialState.STOPPED, value=0.5, step=60, now=NOON)
    assert (only(database, job).cost, only(database, job).reused) == (20, 40)
    decide(database, job, known=2, resume=0)
    lease = claim(database)
    with database.write() as tx:
        leases.finish(tx, lease, TrialState.FAILED, value=None, step=0, now=NOON)
    assert only(database, job).cost == 20
    with database.read() as tx:
        assert jobs.get(tx, job).progress.full_runs == 0.2


def test_deaths_in_a_stage_that_has_ended_do_not_count_in_the_next(database: Database, job: str) -> None:
    for death in range(leases.MAX_DEATHS - 1):
        claim(database, at=NOON + death * HOUR)
    pause(database, claim(database, at=NOON + 4 * HOUR), 20)
    decide(database, job, known=1, until=50, resume=0)
    claim(database, at=NOON + 5 * HOUR)
    assert claim(database, at=NOON + 6 * HOUR).trial.number == 0, "one death more, and it is trained again"


def test_a_worker_that_dies_before_it_wrote_that_a_stage_was_over_leaves_it_to_the_next(
    database: Database, job: str
) -> None:
    dead = claim(database)
    report(database, dead, 10, 20)
    heir = claim(database, "heir", at=NOON + HOUR)
    take_up(database, heir, 20)  # the checkpoint of the end of the stage was there
    pause(database, heir, 20)
    found = only(database, job)
    assert (found.state, found.start, found.cost) == (TrialState.PAUSED, 20, 20)
    with pytest.raises(LeaseLost):
        pause(database, dead, 20)
    assert decide(database, job, known=1, until=50, resume=0)


def test_what_is_still_paused_when_the_search_ends_is_stopped_with_its_reason(database: Database, job: str) -> None:
    pause(database, claim(database), 20)
    step = NextStep(stopped={0: "0.41 forecast at its end, 0.37 is the best whole run"})
    assert NextStep().nothing_to_do
    assert not step.nothing_to_do
    with database.write() as tx:
        jobs.carry_out(tx, job, step, known=1)
    found = only(database, job)
    assert (found.state, found.reason) == (TrialState.STOPPED, "0.41 forecast at its end, 0.37 is the best whole run")
    assert found.finished_at is not None
    with database.read() as tx:
        assert events.latest(tx, job, before=None, limit=1).items[0].kind == "trial-stopped"
        assert audits.read(tx, job).stops == {0: "budget"}


def test_a_job_that_is_extended_resumes_what_it_had_stopped(database: Database, job: str) -> None:
    pause(database, claim(database), 20)
    with database.write() as tx:
        jobs.carry_out(tx, job, NextStep(stopped={0: "the search is over"}), known=1)
        jobs.carry_out(tx, job, NextStep(over=True), known=1)
        assert budgets.extend(tx, job, Budget(full_runs=40)).state is JobState.RUNNING
    assert decide(database, job, known=2, resume=0)
    found = only(database, job)
    assert (found.state, found.step, found.finished_at, found.cost) == (TrialState.WAITING, 20, None, 100)


def test_what_a_job_learned_from_a_trial_stays_as_it_was_when_that_one_is_resumed(database: Database, job: str) -> None:
    def taught() -> list[tuple[TrialState, int, int | None, list[Report]]]:
        with database.read() as tx:
            found = [one.trial for one in warm_start.read(tx, learner.spec, before=learner.created_at)]
        return [(trial.state, trial.step, trial.until, trial.reports) for trial in found]

    pause(database, claim(database), 20)
    with database.write() as tx:
        jobs.end(tx, job, JobState.SUCCEEDED, reason="", now=NOON)
        learner, _ = jobs.create(tx, SPEC.model_copy(update={"warm_start": [job]}), now=NOON + MINUTE)
    before = taught()
    assert [(state, step, len(reports)) for state, step, _, reports in before] == [(TrialState.STOPPED, 20, 1)]
    with database.write() as tx:
        budgets.extend(tx, job, Budget(full_runs=40), now=NOON + HOUR)
    decide(database, job, known=2, resume=0)
    decide(database, job, known=3)
    assert taught() == before
    pause(database, claim(database, at=NOON + HOUR), 50, at=NOON + HOUR)
    assert taught() == before


def test_the_stage_that_is_trained_when_a_job_is_cancelled_says_how_far_it_got_and_what_it_cost(
    database: Database, job: str
) -> None:
    in_second_stage(database, job)
    with database.write() as tx:
        jobs.cancel(tx, job, now=NOON)
    first, second = only(database, job).stages
    assert (first.outcome, first.step, first.cost) == ("paused", 20, 20)
    assert (second.outcome, second.step, second.cost, second.ended_at) == ("cancelled", 30, 10, NOON)


def test_a_cancelled_job_leaves_nothing_paused(database: Database, job: str) -> None:
    pause(database, claim(database), 20)
    decide(database, job, known=1)
    with database.write() as tx:
        jobs.cancel(tx, job)
        first, second = trials.history(tx, job)
    assert (first.state, second.state) == (TrialState.STOPPED, TrialState.CANCELLED)
    assert first.reason == "the job ended while it was paused: cancelled by the user"


def cancel(database: Database, job: str) -> JobState:
    with database.write() as tx:
        return jobs.cancel(tx, job, now=NOON).state


def until_somebody_waits(database: Database) -> None:
    """For a row that another transaction has locked."""
    deadline = time.monotonic() + 30
    waiting = text(
        "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    )
    while time.monotonic() < deadline:
        with database.read() as tx:
            if tx.scalar(waiting):
                return
    raise AssertionError("nobody waits")


def test_a_job_is_cancelled_while_a_paused_trial_of_it_is_resumed(postgres_url: str) -> None:
    database = Database(postgres_url)
    with database.write() as tx:
        job = jobs.create(tx, SPEC, now=NOON)[0].id
    decide(database, job, until=20, known=0)
    pause(database, claim(database), 20)
    resumed = Proposal(configuration=PLAIN, role="search", seed=0, horizon=100, resume=0)
    with ThreadPoolExecutor() as beside:
        with database.write() as tx:
            lookup.job(tx, job, lock=True)
            cancelled = beside.submit(cancel, database, job)
            until_somebody_waits(database)
            assert trials.propose(tx, job, resumed, known=1, now=NOON), "neither waits for the other for ever"
        assert cancelled.result() is JobState.CANCELLED
    assert only(database, job).state is TrialState.CANCELLED
    database.dispose()


def test_a_job_does_not_end_by_a_search_that_another_worker_was_ahead_of(postgres_url: str) -> None:
    database = Database(postgres_url)
    with database.write() as tx:
        job = jobs.create(tx, SPEC, now=NOON)[0].id
    asked = Proposal(configuration=PLAIN, role="search", seed=0, horizon=100)

    def end() -> None:
        with database.write() as tx:
            jobs.carry_out(tx, job, NextStep(over=True), known=0)

    with ThreadPoolExecutor() as beside:
        with database.write() as tx:
            assert trials.propose(tx, job, asked, known=0, now=NOON)
            ended = beside.submit(end)
            until_somebody_waits(database)
        ended.result()
    assert only(database, job).state is TrialState.WAITING
    database.dispose()


def test_an_attempt_that_died_got_as_far_as_its_checkpoint_and_stages_add_up_to_what_the_trial_cost(
    database: Database, job: str
) -> None:
    pause(database, claim(database), 20)
    decide(database, job, known=1, resume=0)
    dying = claim(database, "dying")
    take_up(database, dying, 20)
    report(database, dying, 30)
    heir = claim(database, "heir", at=NOON + HOUR)
    take_up(database, heir, 45)  # the dead one's last checkpoint, of which its reports had not said yet
    report(database, heir, 60, at=NOON + HOUR)
    found = only(database, job)
    assert [(s.outcome, s.start, s.step, s.cost) for s in found.stages] == [
        ("paused", 0, 20, 20),
        ("lost", 20, 45, 25),
        (None, 45, 60, 15),
    ]
    assert sum(stage.cost for stage in found.stages) == found.step - found.reused
