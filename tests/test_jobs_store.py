"""What the store promises about jobs, on both databases."""

import threading
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import DBAPIError

from lrtune.errors import IdempotencyKeyReused, Invalid, JobFinished, JobNotFinished, NoResultYet, UnknownJob
from lrtune.optimizers import Adamw
from lrtune.schedules import Cosine, Linear
from lrtune.store import Database, budgets, events, jobs, leases, listing, trials, workers
from lrtune.store.listing import Wanted
from lrtune.store.tables import Base
from lrtune.wire.configuration import Configuration
from lrtune.wire.job import AdmittedJob, Budget, Confirm, Horizon, Objective
from lrtune.wire.results import JobState, Proposal, TrialState

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
SPEC = AdmittedJob(
    task="digits",
    metric=Objective(name="val_loss", goal="minimize"),
    horizon=Horizon(steps=100),
    confirm=Confirm(top=1, seeds=2),
)
PLAIN = Configuration(optimizer=Adamw(), learning_rate=1e-3, schedule=Cosine(), warmup=0.05)
OTHER = Configuration(optimizer=Adamw(), learning_rate=2e-3, schedule=Linear())


def submit(database: Database, spec: AdmittedJob = SPEC, key: str | None = None) -> str:
    with database.write() as tx:
        return jobs.create(tx, spec, idempotency_key=key)[0].id


def run(database: Database, job: str, role: str, configuration: Configuration, seed: int, value: float | None) -> None:
    """One trial from proposal to end; `None` diverges half-way."""
    with database.write() as tx:
        number = len(trials.history(tx, job))
        assert trials.propose(
            tx, job, Proposal(configuration=configuration, role=role, seed=seed, horizon=100), known=number
        )
        lease = leases.claim(tx, "a", ttl=HOUR)
        assert lease is not None
        state = TrialState.DIVERGED if value is None else TrialState.COMPLETE
        leases.finish(tx, lease, state, value=value, step=50 if value is None else 100)


def test_the_same_key_and_body_give_the_same_job_and_another_body_is_refused(database: Database) -> None:
    first = submit(database, key="k")
    assert submit(database, key="k") == first
    with pytest.raises(IdempotencyKeyReused):
        submit(database, SPEC.model_copy(update={"name": "other"}), key="k")
    assert submit(database) != submit(database)


def test_two_submissions_with_one_key_at_the_same_moment_make_one_job(database: Database) -> None:
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(submit(database, key="k"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1


def test_paging_sees_every_job_once_although_jobs_arrive_meanwhile(database: Database) -> None:
    made = [submit(database) for _ in range(7)]
    seen: list[str] = []
    cursor: str | None = None
    while True:
        with database.read() as tx:
            page = listing.page(tx, limit=3, cursor=cursor)
        seen += [job.id for job in page.items]
        submit(database)
        if (cursor := page.next) is None:
            break
    assert seen == made[::-1]


def test_a_made_up_cursor_is_refused_in_words(database: Database) -> None:
    for cursor in ("x", "é", "LTU", "////", "a" * 500):
        with pytest.raises(Invalid, match="the `next` of an earlier page"), database.read() as tx:
            listing.page(tx, limit=3, cursor=cursor)


def test_jobs_are_found_by_state_and_tag(database: Database) -> None:
    risk = submit(database, SPEC.model_copy(update={"tags": {"team": "risk"}}))
    other = submit(database, SPEC.model_copy(update={"tags": {"team": "ads"}}))
    with database.write() as tx:
        jobs.cancel(tx, other)
        found = {
            tag: [job.id for job in listing.page(tx, Wanted(tag=tag), limit=9, cursor=None).items]
            for tag in ("team:risk", "team", "nobody")
        }
        queued = listing.page(tx, Wanted(state=JobState.QUEUED), limit=9, cursor=None)
    assert found == {"team:risk": [risk], "team": [other, risk], "nobody": []}
    assert [job.id for job in queued.items] == [risk]


def test_progress_counts_full_runs_of_every_kind_of_trial(database: Database) -> None:
    job = submit(database)
    run(database, job, "baseline", PLAIN, 0, 0.5)
    run(database, job, "search", OTHER, 0, None)
    with database.read() as tx:
        progress = jobs.get(tx, job).progress
    assert progress.trials == {TrialState.COMPLETE: 1, TrialState.DIVERGED: 1}
    assert (progress.phase, progress.full_runs, progress.planned_full_runs) == ("search", 1.5, 24.0)


def test_there_is_no_answer_before_the_first_whole_run_and_fresh_seeds_decide_it(database: Database) -> None:
    job = submit(database)
    with pytest.raises(NoResultYet), database.read() as tx:
        jobs.best(tx, job)
    run(database, job, "baseline", PLAIN, 0, 0.5)
    run(database, job, "search", OTHER, 0, 0.3)
    with database.read() as tx:
        lucky = jobs.best(tx, job)
    assert (lucky.value, lucky.trial, lucky.interval, lucky.confirmed) == (0.3, 1, None, False)
    for seed, (plain, other) in enumerate([(0.4, 0.6), (0.42, 0.5)], start=1):
        run(database, job, "confirm", PLAIN, seed, plain)
        run(database, job, "confirm", OTHER, seed, other)
    with database.read() as tx:
        sure = jobs.best(tx, job)
    assert (sure.configuration, sure.value, sure.trial, sure.confirmed) == (PLAIN, pytest.approx(0.41), 0, True)
    assert sure.interval == (pytest.approx(0.19900, abs=1e-4), pytest.approx(0.62100, abs=1e-4))
    assert sure.full_runs == 6.0


def test_a_finished_job_takes_no_more_changes_but_an_extension(database: Database) -> None:
    job = submit(database)
    run(database, job, "baseline", PLAIN, 0, 0.5)
    with database.write() as tx:
        jobs.end(tx, job, JobState.SUCCEEDED, reason="")
    for verb in (jobs.cancel, jobs.pause, jobs.resume):
        with pytest.raises(JobFinished), database.write() as tx:
            verb(tx, job)
    larger = Budget(full_runs=50)
    with database.write() as tx:
        assert budgets.extend(tx, job, SPEC.budget).state is JobState.SUCCEEDED
        assert budgets.extend(tx, job, larger).state is JobState.RUNNING
        again = budgets.extend(tx, job, larger)
        log = [event.kind for event in events.page(tx, job, after=0, limit=99).items]
    assert (again.spec.budget, again.finished_at) == (larger, None)
    assert log.count("job-extended") == 1


def test_cancelling_pausing_and_resuming_twice_is_once(database: Database) -> None:
    job = submit(database)
    with database.write() as tx:
        for _ in range(2):
            jobs.pause(tx, job)
        for _ in range(2):
            jobs.resume(tx, job)
        for _ in range(2):
            assert jobs.cancel(tx, job).state is JobState.CANCELLED
        log = [event.kind for event in events.page(tx, job, after=0, limit=99).items]
    assert log == ["job-submitted", "job-paused", "job-queued", "job-cancelled"]


def test_only_a_finished_job_is_deleted_and_nothing_of_it_stays(database: Database) -> None:
    job = submit(database, SPEC.model_copy(update={"tags": {"a": "b"}}))
    run(database, job, "baseline", PLAIN, 0, 0.5)
    with pytest.raises(JobNotFinished), database.write() as tx:
        jobs.delete(tx, job)
    with database.write() as tx:
        jobs.cancel(tx, job)
        jobs.delete(tx, job)
    with pytest.raises(UnknownJob), database.read() as tx:
        jobs.get(tx, job)
    with database.read() as tx:
        left = {table.name: tx.scalar(select(func.count()).select_from(table)) for table in Base.metadata.sorted_tables}
    assert left.pop("audit")  # which says who did it
    assert {name for name, count in left.items() if count} <= {"shares"}, "of their owners, who stay"


def test_many_claimers_at_once_never_get_the_same_trial(database: Database) -> None:
    job = submit(database)
    with database.write() as tx:
        for number in range(40):
            assert trials.propose(
                tx, job, Proposal(configuration=PLAIN, role="search", seed=number, horizon=100), known=number
            )
    claimed: list[int] = []

    def work(name: str) -> None:
        while True:
            with database.write() as tx:
                lease = leases.claim(tx, name, ttl=HOUR)
            if lease is None:
                return
            claimed.append(lease.trial.number)

    threads = [threading.Thread(target=work, args=(f"w{n}",)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # With SKIP LOCKED a claimer may come away empty while others still hold rows, but none is given out twice.
    assert sorted(claimed) == sorted(set(claimed))
    with database.write() as tx:
        while lease := leases.claim(tx, "last", ttl=HOUR):
            claimed.append(lease.trial.number)
    assert sorted(claimed) == list(range(40))


def test_a_reader_cannot_write(database: Database) -> None:
    with pytest.raises(DBAPIError), database.read() as tx:
        jobs.create(tx, SPEC)


def test_workers_are_listed_while_they_are_heard_of(database: Database) -> None:
    with database.write() as tx:
        workers.sign_in(tx, "w", host="h", pid=1, device="cpu", tasks=["digits"], now=NOON)
        workers.seen(tx, "w", job="j", trial=3, now=NOON + timedelta(seconds=30))
    with database.read() as tx:
        found = workers.alive(tx, now=NOON + timedelta(minutes=1))
        silent = workers.alive(tx, now=NOON + HOUR)
    assert [(w.id, w.device, w.job, w.trial) for w in found] == [("w", "cpu", "j", 3)]
    assert silent == []


@pytest.mark.parametrize(
    ("end", "words"),
    [
        (JobState.FAILED, "the job failed, so there is no answer: the data is gone"),
        (JobState.CANCELLED, r"the job is over \(cancelled by ada\), and no trial of it has finished"),
        (None, "No trial of this job has finished over the whole horizon yet"),
    ],
)
def test_where_there_is_no_answer_it_is_said_whether_there_will_be_one(
    database: Database, end: JobState | None, words: str
) -> None:
    with database.write() as tx:
        job = jobs.create(tx, SPEC)[0].id
        if end is JobState.FAILED:
            jobs.end(tx, job, end, reason="the data is gone")
        elif end is JobState.CANCELLED:
            jobs.cancel(tx, job, by="ada")
    with pytest.raises(NoResultYet, match=words), database.read() as tx:
        jobs.best(tx, job)
