"""What is old goes, where a setting says so: reports beyond twenty a trial, then whole jobs, into an archive."""

import gzip
import json
import logging
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from sqlalchemy import update

from app import retention as door
from app.settings import Settings
from lrtune.errors import UnknownJob
from lrtune.store import Database, budgets, jobs, leases, retention, trials
from lrtune.store.database import clock
from lrtune.store.tables import JobRow
from lrtune.uploads import mirror
from lrtune.wire.results import Proposal, Report, TrialState, report_points
from tests.leasing import MINUTE, PLAIN, SPEC
from tests.serving import served, slug


def old(database: Database, steps: list[int], *, days: float = 40) -> str:
    """A job that ended so many days ago, with one trial that was reported after these steps of a hundred."""
    with database.write() as tx:
        job = jobs.create(tx, SPEC)[0].id
        trials.propose(tx, job, Proposal(configuration=PLAIN, role="search", seed=0, horizon=100), known=0)
        lease = leases.claim(tx, "a", ttl=MINUTE)
        assert lease is not None
        leases.report(
            tx, lease, [Report(step=n, learning_rate=0.1, metrics={"val_loss": 1 / n}) for n in steps], ttl=MINUTE
        )
        leases.finish(tx, lease, TrialState.COMPLETE, value=0.01, step=100)
        jobs.end(tx, job, "succeeded", reason="")
        tx.execute(update(JobRow).where(JobRow.id == job).values(finished_at=clock(tx) - timedelta(days=days)))
    return job


def swept(database: Database, folder: Path, **given: Any) -> None:
    settings = Settings(data_dir=folder, **given)
    while door._thinned(database, settings):
        pass
    kept = set[str]()
    while door._archived(database, settings, kept):
        pass


def steps_of(database: Database, job: str) -> list[int]:
    with database.read() as tx:
        return [report.step for report in trials.history(tx, job)[0].reports]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (list(range(1, 101)), report_points(100)),
        (list(range(7, 101, 3)), [*range(10, 96, 5), 100]),
        (report_points(100), report_points(100)),
    ],
    ids=["each step", "elsewhere", "as asked for"],
)
def test_of_an_old_job_about_twenty_reports_a_trial_are_kept(
    database: Database, tmp_path: Path, before: list[int], after: list[int]
) -> None:
    job, young = old(database, before), old(database, before, days=5)
    with database.read() as tx:
        best = jobs.get(tx, job).best
    swept(database, tmp_path, reports_days=30)
    kept = steps_of(database, job)
    assert len(kept) <= 21
    assert kept[-1] == before[-1]
    assert all(any(point - 5 < step <= point for step in kept) for point in report_points(100)[1:])
    assert set(kept) <= set(before)
    assert kept == after or before[0] == 7
    assert steps_of(database, young) == before
    with database.read() as tx:
        assert jobs.get(tx, job).best == best
        assert retention.ended(tx, before=clock(tx) - timedelta(days=30), whole=True) is None, "it is done once"


def test_a_job_that_is_extended_as_it_was_found_keeps_its_reports_until_it_is_old_again(
    database: Database, tmp_path: Path
) -> None:
    job = old(database, list(range(1, 101)))
    with database.write() as tx:
        found = retention.ended(tx, before=clock(tx) - timedelta(days=30), whole=True)
    with database.write() as tx:
        budgets.extend(tx, job, SPEC.budget.model_copy(update={"full_runs": 99.0}))
    with database.write() as tx:
        assert found == job
        assert retention.thin(tx, job) == 0
    assert steps_of(database, job) == list(range(1, 101))
    with database.write() as tx:
        jobs.end(tx, job, "succeeded", reason="")
        tx.execute(update(JobRow).where(JobRow.id == job).values(finished_at=clock(tx) - timedelta(days=40)))
    swept(database, tmp_path, reports_days=30)
    assert steps_of(database, job) == report_points(100)


def test_an_older_job_is_archived_whole_and_forgotten_and_the_servers_log_says_so(
    database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="uvicorn.error")  # what `lrtune serve` shows
    job, young = old(database, report_points(100)), old(database, [100], days=5)
    with database.read() as tx:
        known, history = jobs.get(tx, job), trials.history(tx, job)
    swept(database, tmp_path, jobs_days=30)
    assert f"{job} is forgotten, and stands in {tmp_path}/archived/{job}.json.gz" in caplog.text
    archived = json.loads(gzip.decompress((tmp_path / "archived" / f"{job}.json.gz").read_bytes()))
    assert archived["job"] == known.model_dump(mode="json")
    assert archived["trials"] == [one.model_dump(mode="json") for one in history]
    assert archived["events"][0]["kind"] == "job-submitted"
    with database.read() as tx:
        with pytest.raises(UnknownJob):
            jobs.get(tx, job)
        assert jobs.get(tx, young).id == young


def test_who_asks_for_an_archived_job_is_told_where_it_is_and_since_when(database_url: str, tmp_path: Path) -> None:
    database = Database(database_url)
    job = old(database, [100])
    swept(database, tmp_path, jobs_days=30)
    with database.read() as tx:
        today = clock(tx)
    database.dispose()
    with served(database_url) as service:
        for path in (f"/v1/jobs/{job}", f"/v1/jobs/{job}/trials", f"/v1/jobs/{job}/best"):
            answer = service.get(path)
            assert (answer.status_code, slug(answer)) == (404, "unknown-job")
            assert f"{job} was archived on {today:%Y-%m-%d}" in answer.json()["detail"]
            assert f"archived/{job}.json.gz below the server's LRTUNE_DATA_DIR" in answer.json()["detail"]
        (change,) = service.get("/v1/audit", params={"subject": job}).json()["items"][:1]
        assert (change["actor"], change["action"]) == ("(server)", "job-archived")
        assert service.get("/v1/jobs/job-0").json()["detail"] == "there is no job 'job-0'"


def test_a_job_that_cannot_be_archived_is_kept(database: Database, tmp_path: Path) -> None:
    job = old(database, [100])
    (tmp_path / "archived").write_text("in the way")
    swept(database, tmp_path, jobs_days=30)
    with database.read() as tx:
        assert jobs.get(tx, job).id == job


def test_a_job_that_cannot_be_archived_keeps_no_other_from_it(database: Database, tmp_path: Path) -> None:
    bad, good = old(database, [100], days=200), old(database, [100], days=100)
    (tmp_path / "archived" / f"{bad}.json.gz").mkdir(parents=True)
    swept(database, tmp_path, jobs_days=30)
    with database.read() as tx:
        assert jobs.get(tx, bad).id == bad
        with pytest.raises(UnknownJob):
            jobs.get(tx, good)


def test_without_a_setting_everything_is_kept(database: Database, tmp_path: Path) -> None:
    job = old(database, list(range(1, 101)), days=4000)
    swept(database, tmp_path)
    assert len(steps_of(database, job)) == 100


def test_no_days_are_no_setting() -> None:
    with pytest.raises(ValidationError):
        Settings(jobs_days=0)


def test_two_servers_that_look_at_once_archive_each_another_job(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    database, other, write = Database(postgres_url), Database(postgres_url), door._write
    for days in (50, 60):
        old(database, [100], days=days)
    settings, kept = Settings(data_dir=tmp_path, jobs_days=30), set[str]()

    def meanwhile(path: Path, text: str) -> Path:
        """As one of them writes its job, the other archives all that it finds."""
        monkeypatch.setattr(door, "_write", write)
        while door._archived(other, settings, set()):
            pass
        return write(path, text)

    monkeypatch.setattr(door, "_write", meanwhile)
    assert door._archived(database, settings, kept)
    assert not door._archived(database, settings, kept)
    assert not caplog.messages, "none is said to be kept"
    assert len(list((tmp_path / "archived").iterdir())) == 2
    for one in (database, other):
        one.dispose()


def test_whatever_keeps_a_job_from_its_archive_keeps_no_other_from_it(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = old(database, [100], days=200), old(database, [100], days=100)

    def refused(_: Path, name: str) -> None:
        """As object storage does, whose errors are of its own classes."""
        if bad in name:
            raise ValueError("no such bucket")

    monkeypatch.setattr(mirror, "keep", refused)
    swept(database, tmp_path, jobs_days=30)
    with database.read() as tx:
        assert jobs.get(tx, bad).id == bad
        with pytest.raises(UnknownJob):
            jobs.get(tx, good)
