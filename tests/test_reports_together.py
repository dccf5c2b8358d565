"""Reports of many loops at the same moment: written together, and to each loop as if it were alone."""

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import pytest
from sqlalchemy import select

from app import reporting
from app.turns import Turns
from lrtune import search
from lrtune.errors import Invalid, LeaseLost, LrtuneError, NotExternal, UnknownJob, UnknownTrial
from lrtune.search.curve.pruner import PruneVerdict
from lrtune.store import Database, holds, jobs, leases, trials
from lrtune.store.tables import TrialRow
from lrtune.wire.configuration import Configuration
from lrtune.wire.external import Batch, Sent, Verdict
from lrtune.wire.job import AdmittedJob
from lrtune.wire.results import Proposal, Report, Trial, TrialState
from tests.external import JOB, report, submit, take
from tests.leasing import MINUTE
from tests.serving import served
from tests.test_statements import counted

POINT = Configuration(optimizer="adamw", learning_rate=0.01, schedule="cosine")
Asked = tuple[str, int, Batch]


def held(database: Database, loops: int, **fields: Any) -> tuple[str, list[leases.Lease]]:
    """A job, and so many of its trials that are held."""
    with database.write() as tx:
        job = jobs.create(tx, AdmittedJob.model_validate(JOB | {"search": {"pruner": "none"}} | fields))[0].id
        for seed in range(loops):
            asked = Proposal(configuration=POINT, role="search", seed=seed, horizon=40)
            assert trials.propose(tx, job, asked, known=seed)
        found = [leases.claim(tx, "w", ttl=MINUTE, job_id=job) for _ in range(loops)]
    return job, [one for one in found if one is not None]


def batch(lease: leases.Lease, *steps: int, value: float | None = 1.0, **more: Any) -> Batch:
    reports = [Sent(step=step, metrics={"val_loss": value}) for step in steps]
    return Batch(token=lease.token, reports=reports, **more)


def at_once(database: Database, asked: Sequence[Asked]) -> list[Verdict | BaseException]:
    """What each hears of those that are sent while the first is written."""

    async def all_of_them() -> list[Verdict | BaseException]:
        turns = Turns(database, asyncio.Semaphore())
        return await asyncio.gather(*(reporting.take(turns, *one) for one in asked), return_exceptions=True)

    return asyncio.run(all_of_them())


def test_reports_of_many_loops_at_once_cost_the_statements_of_two(database: Database) -> None:
    job, found = held(database, 9)
    with counted() as seen:
        heard = at_once(database, [(job, one.trial.number, batch(one, 2, 4)) for one in found])
    assert len(seen) <= 8  # of the first, and of the eight that came while it was written
    assert {one.decision for one in heard if isinstance(one, Verdict)} == {"continue"}
    with database.read() as tx:
        history = trials.history(tx, job)
    assert [[one.step for one in trial.reports] for trial in history] == [[2, 4]] * 9
    assert {trial.step for trial in history} == {4}


def test_a_report_reads_none_of_those_before_it_however_many_there_are(database: Database) -> None:
    """A loop that reports each of ten thousand steps would read fifty million."""
    job, (lease,) = held(database, 1, search={"pruner": "forecast"})
    number = lease.trial.number
    for first in (1, 9, 17):
        with counted() as seen:
            heard = at_once(database, [(job, number, batch(lease, *range(first, first + 8), value=2.0))])
    assert [one for one in heard if isinstance(one, BaseException)] == []
    assert not any("FROM reports" in statement for statement in seen)
    late, known, other = batch(lease, 23, 15, value=9.0), batch(lease, 24, 25, value=8.0), batch(lease, 30)
    said = at_once(database, [(job, number, late), (job, number, known), (job, number, other)])
    assert [one.step for one in said if isinstance(one, Verdict)] == [24, 25, 30]
    with database.read() as tx:
        reports = trials.history(tx, job)[0].reports
    assert [one.step for one in reports] == [*range(1, 26), 30]
    assert [one.metrics["val_loss"] for one in reports] == [*[2.0] * 24, 8.0, 1.0]


def test_what_a_loop_reports_beside_the_metric_reads_no_other_reports_either(database: Database) -> None:
    """Its training loss at each step, the metric now and then."""
    job, (lease,) = held(database, 1)
    number = lease.trial.number
    at_once(database, [(job, number, batch(lease, 2))])
    for step in (4, 6, 8):
        loss = Batch(token=lease.token, reports=[Sent(step=step, metrics={"loss": 1.0})])
        with counted() as seen:
            assert isinstance(at_once(database, [(job, number, loss)])[0], Verdict)
        assert not any("FROM reports" in statement for statement in seen)


def test_a_batch_that_is_sent_again_beside_a_newer_one_hinders_no_other(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    job, (one, other) = held(database, 2)
    first, second = one.trial.number, other.trial.number
    for steps in ((1, 2), (3, 4)):
        at_once(database, [(job, second, batch(other, *steps))])
    again, newer = (job, second, batch(other, 3, 4)), (job, second, batch(other, 5))
    said = at_once(database, [(job, first, batch(one, 1)), again, newer, (job, first, batch(one, 2))])
    assert [found.step for found in said if isinstance(found, Verdict)] == [1, 4, 5, 2]
    assert not caplog.records


def test_rates_that_a_late_report_changes_back_are_said(database: Database) -> None:
    """A reduced rate is taken back where the report that was awaited comes after all."""
    job, _ = held(database, 0)
    plateau = Configuration(
        optimizer="adamw", learning_rate=0.01, schedule={"family": "plateau", "patience": 1, "factor": 0.1}
    )
    with database.write() as tx:
        trials.propose(tx, job, Proposal(configuration=plateau, role="search", seed=0, horizon=40), known=0)
        lease = leases.claim(tx, "w", ttl=MINUTE, job_id=job)
    assert lease is not None
    sent = [(2, 1.0), (4, 1.0), (8, 1.0), (6, 0.5)]
    said = [at_once(database, [(job, 0, batch(lease, step, value=value))])[0] for step, value in sent]
    rates = [one.learning_rates and one.learning_rates[0] for one in said if isinstance(one, Verdict)]
    assert rates == [None, None, pytest.approx(0.001), pytest.approx(0.01)]


def test_what_another_server_has_written_meanwhile_is_known_before_the_next_report(database: Database) -> None:
    job, (lease,) = held(database, 1, search={"pruner": "forecast"})
    number = lease.trial.number
    at_once(database, [(job, number, batch(lease, 2, 4))])
    with database.write() as tx:
        leases.report(tx, lease, [Report(step=6, learning_rate=0.1, metrics={"val_loss": 3.0})], ttl=MINUTE)
    at_once(database, [(job, number, batch(lease, 6, 8))])
    with database.read() as tx:
        reports = trials.history(tx, job)[0].reports
    assert [(one.step, one.metrics["val_loss"]) for one in reports] == [(2, 1.0), (4, 1.0), (6, 3.0), (8, 1.0)]


def test_a_metric_that_was_never_measured_is_named_however_long_a_loop_goes_on(database: Database) -> None:
    job, (lease,) = held(database, 1)
    number = lease.trial.number

    def other(step: int) -> Batch:
        return Batch(token=lease.token, reports=[Sent(step=step, metrics={"loss": 1.0})])

    said = [at_once(database, [(job, number, one)])[0] for one in (other(2), other(4), batch(lease, 6), other(8))]
    assert [type(one) for one in said] == [Invalid, Invalid, Verdict, Verdict]


def test_what_is_wrong_with_one_report_is_said_to_its_loop_alone(database: Database) -> None:
    job, found = held(database, 8)
    numbers = [one.trial.number for one in found]
    spent, good, far, gone, diverged, again, noted, known = found
    with database.write() as tx:
        leases.finish(tx, known, TrialState.COMPLETE, value=1.0, step=40)
    heard = at_once(
        database,
        [
            (job, numbers[0], batch(spent, 2)),
            (job, numbers[1], batch(good, 2)),
            (job, numbers[2], batch(far, 41)),
            (job, numbers[3], batch(gone, 2).model_copy(update={"token": "another"})),
            (job, numbers[4], batch(diverged, 2, value=None)),
            (job, numbers[5], batch(again, 2, value=3.0)),
            (job, numbers[5], batch(again, 2, value=4.0)),
            (job, numbers[6], batch(noted, 2, note="its process was killed")),
            (job, numbers[7], batch(known, 2)),
            (job, 99, batch(good, 2)),
            ("job-0123456789abcdef", numbers[1], batch(good, 2)),
        ],
    )
    said = [one.decision if isinstance(one, Verdict) else type(one) for one in heard]
    before, same = ["continue", "continue", Invalid, LeaseLost, "stop"], ["continue", "continue"]
    assert said == [*before, *same, "continue", "stop", UnknownTrial, UnknownJob]
    with database.read() as tx:
        history = {trial.number: trial for trial in trials.history(tx, job)}
    assert history[numbers[1]].step == history[numbers[6]].step == 2
    assert history[numbers[4]].state is TrialState.DIVERGED
    assert history[numbers[5]].reports[0].metrics == {"val_loss": 3.0}  # the first of a step stands
    assert history[numbers[2]].reports == history[numbers[3]].reports == []


def test_nobody_waits_for_a_trial_that_somebody_else_writes_to(postgres_url: str) -> None:
    """Another server may stand still in the midst of it: the reports of all others go on, and this one when it may."""
    database, other = Database(postgres_url), ExitStack()
    job, found = held(database, 4)

    async def reported() -> None:
        turns = Turns(database, asyncio.Semaphore(10))
        asked = [asyncio.create_task(reporting.take(turns, job, one.trial.number, batch(one, 2))) for one in found]
        done, waiting = await asyncio.wait(asked[1:], timeout=60)
        assert not waiting
        assert {one.result().decision for one in done} == {"continue"}
        assert not asked[0].done()
        other.close()
        assert (await asyncio.wait_for(asked[0], 60)).decision == "continue"

    with other:
        tx = other.enter_context(database.write())
        tx.execute(select(TrialRow.id).where(TrialRow.id == found[0].id).with_for_update())
        asyncio.run(reported())
    database.dispose()


def test_a_report_that_cannot_be_written_hinders_no_other(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    job, found = held(database, 4)
    write = holds.write

    def broken(tx: Any, heard: Sequence[holds.Heard]) -> None:
        write(tx, heard)
        if any(one.held.lease.id == found[2].id for one in heard):
            raise ZeroDivisionError

    monkeypatch.setattr(holds, "write", broken)
    heard = at_once(database, [(job, one.trial.number, batch(one, 2)) for one in found])
    assert [isinstance(one, Verdict) for one in heard] == [True, True, False, True]
    with database.read() as tx:
        assert [len(trial.reports) for trial in trials.history(tx, job)] == [1, 1, 0, 1]


@pytest.mark.usefixtures("thinking_here")
def test_a_verdict_that_cannot_be_given_hinders_no_other(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    job, found = held(database, 4, search={"pruner": "median"})
    broken = found[2].trial.number

    def given(_spec: object, _history: object, asked: Sequence[Trial], **_: object) -> list[PruneVerdict]:
        if any(trial.number == broken for trial in asked):
            raise ZeroDivisionError
        return [PruneVerdict(stop=f"trial {trial.number} is stopped") for trial in asked]

    monkeypatch.setattr(search, "may_act", lambda *_: True)
    monkeypatch.setattr(search, "verdicts", given)
    heard = at_once(database, [(job, one.trial.number, batch(one, 2)) for one in found])
    assert isinstance(heard[2], ZeroDivisionError)
    reasons = [one.reason for one in heard if isinstance(one, Verdict)]
    assert reasons == [f"trial {one.trial.number} is stopped" for one in found if one.trial.number != broken]


def test_a_token_is_good_for_the_trial_of_its_own_job_alone(database: Database) -> None:
    (one, mine), (other, theirs) = held(database, 2), held(database, 2)
    with database.write() as tx:
        built_in = jobs.create(tx, AdmittedJob.model_validate({"task": "digits", "horizon": {"steps": 40}} | METRIC))[0]
    asked = [(other, mine[0].trial.number, batch(mine[0], 2)), (built_in.id, 0, batch(mine[1], 2))]
    heard = at_once(database, [*asked, (other, theirs[1].trial.number, batch(theirs[1], 2))])
    assert [type(found) for found in heard] == [LeaseLost, NotExternal, Verdict]
    assert all(isinstance(found, LrtuneError) for found in heard[:2])
    with database.read() as tx:
        assert [trial.reports for trial in trials.history(tx, one)] == [[], []]


METRIC = {"metric": {"name": "val_loss", "goal": "minimize"}}


def test_a_job_that_is_polled_again_shows_what_was_reported_and_what_has_ended_since(database_url: str) -> None:
    with served(database_url) as door:
        job = submit(door, search={"pruner": "none"}, budget={"trials": 9})
        first, second = take(door, job), take(door, job)
        seen = [door.get(f"/v1/jobs/{job}")]
        for held, value in ((first, 0.5), (second, 0.25)):
            report(door, job, held, 20, value)
            seen.append(door.get(f"/v1/jobs/{job}"))
            report(door, job, held, 40, value)
            path = f"/v1/jobs/{job}/trials/{held['trial']['number']}/finish"
            assert door.post(path, json={"token": held["token"]}).status_code == 200
            seen.append(door.get(f"/v1/jobs/{job}"))
        bests = [answer.json()["best"] for answer in seen]
        assert [best and best["value"] for best in bests] == [None, None, 0.5, 0.5, 0.25]
        assert [best["full_runs"] for best in bests[2:]] == [1.0, 1.5, 2.0]
        assert [answer.json()["progress"]["full_runs"] for answer in seen] == [0.0, 0.5, 1.0, 1.5, 2.0]
        assert len({answer.headers["etag"] for answer in seen}) == 5
        again = door.get(f"/v1/jobs/{job}", headers={"If-None-Match": seen[-1].headers["etag"]})
        assert again.status_code == 304
