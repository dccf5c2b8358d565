"""A job whose row cannot be read stands in nobody's way, and is said in words, on both databases."""

from pathlib import Path

import httpx
import pytest
from sqlalchemy import text

import app.settings
from app.backup import backup
from lrtune import __version__
from lrtune.client import Client
from lrtune.errors import Conflict
from lrtune.store import Database, trials
from lrtune.wire.configuration import Configuration
from lrtune.wire.results import Proposal
from tests.serving import KEY, Done, served, signed_in, slug
from worker.loop import Worker
from worker.settings import Settings

NO_JSON, NO_JOB = '{"task": ', '{"task": {"name": "digits", "params": {}}, "tasks": 2}'


def damaged(database_url: str, job_id: str, written: str, release: str = "") -> None:
    said = {"spec": written, "release": release} if release else {"spec": written}
    database = Database(database_url)
    with database.write() as tx:
        to = ", ".join(f"{name} = :{name}" for name in said)
        tx.execute(text(f"update jobs set {to} where id = :id"), said | {"id": job_id})
    database.dispose()


@pytest.fixture(params=[("sqlite_url", NO_JSON), ("sqlite_url", NO_JOB), ("postgres_url", NO_JOB)])
def damage(request: pytest.FixtureRequest) -> tuple[str, str]:
    """A database, and what stands in place of what a job asks for; PostgreSQL keeps nothing that is no JSON."""
    return request.getfixturevalue(request.param[0]), request.param[1]


def test_a_job_that_cannot_be_read_is_said_and_the_others_are_listed(
    damage: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    url, written = damage
    with served(url) as service, signed_in(service) as browser:
        first, bad, last = (service.post("/v1/jobs", json={"task": "digits"}).json()["id"] for _ in range(3))
        damaged(url, bad, written)
        for query in ({}, {"sort": "name"}, {"search": "digits"}, {"limit": 3}):
            page = service.get("/v1/jobs", params=query).json()
            assert {one["id"] for one in page["items"]} == {first, last}, query
            (said,) = page["unreadable"]
            assert said["id"] == bad
            assert bad in said["words"]
            assert "cannot be read" in said["words"]
        listed = browser.get("/").text
        assert first in listed
        assert last in listed
        assert f"what {bad} asks for cannot be read" in listed
        with Client(str(service.base_url), KEY) as client:
            assert {job.id for job in client.list()} == {first, last}
        assert f"what {bad} asks for cannot be read" in caplog.text

        alone = service.get(f"/v1/jobs/{bad}")
        assert (alone.status_code, slug(alone)) == (500, "unreadable-job")
        assert all(words in alone.json()["detail"] for words in (bad, "backup", "lrtune delete"))
        assert service.get(f"/v1/jobs/{first}").status_code == 200
        assert service.delete(f"/v1/jobs/{bad}").status_code == 204, "nobody can go on with it"
        assert slug(service.get(f"/v1/jobs/{bad}")) == "unknown-job"
        assert slug(service.delete(f"/v1/jobs/{first}")) == "job-not-finished"


def test_a_backup_says_which_jobs_stand_in_its_way(sqlite_url: str, tmp_path: Path) -> None:
    with served(sqlite_url) as service:
        damaged(sqlite_url, service.post("/v1/jobs", json={"task": "digits"}).json()["id"], NO_JSON)
    with pytest.raises(Conflict, match=r"the table jobs has a damaged row .* `lrtune list` names the jobs"):
        backup(app.settings.Settings(database_url=sqlite_url, data_dir=tmp_path), tmp_path / "all.zip")
    assert not [*tmp_path.glob("*all.zip*")], "and leaves no half of one"


def two_beside_a_good_one(
    service: httpx.Client, url: str, written: str, release: str | None = None
) -> tuple[str, str, str]:
    """Three jobs: a new one and one that is begun, with this written in their rows, and a good one; their ids."""
    small = {"task": "digits", "horizon": {"steps": 4}, "budget": {"full_runs": 1}, "confirm": {"top": 0}}
    new, begun, good = (service.post("/v1/jobs", json=small | {"name": str(at)}).json()["id"] for at in range(3))
    database = Database(url)
    chosen = Configuration(optimizer="adamw", learning_rate=0.01, schedule="linear")
    with database.write() as tx:
        first = Proposal(configuration=chosen, role="baseline", seed=0, horizon=4)
        assert trials.propose(tx, begun, first, known=0)
    database.dispose()
    for job in (new, begun):
        damaged(url, job, written, release)
    return new, begun, good


def test_a_worker_fails_a_job_that_it_cannot_read_and_trains_the_others(
    damage: tuple[str, str], tmp_path: Path
) -> None:
    url, written = damage
    with served(url) as service:
        new, begun, good = two_beside_a_good_one(service, url, written)
        database = Database(url)
        settings = Settings(database_url=url, state_dir=str(tmp_path), device="cpu", poll_seconds=0.1)
        Worker(settings, Done()).work()
        assert service.get(f"/v1/jobs/{good}").json()["state"] == "succeeded"
        with database.read() as tx:
            for job in (new, begun):
                found = tx.execute(text("select state, reason from jobs where id = :id"), {"id": job}).one()
                assert found.state == "failed"
                assert f"what {job} asks for cannot be read" in found.reason
        database.dispose()


def test_a_job_of_a_newer_release_is_left_to_that_one(
    database_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with served(database_url) as service, signed_in(service) as browser:
        new, begun, good = two_beside_a_good_one(service, database_url, NO_JOB, release="99.1.0")
        database = Database(database_url)
        settings = Settings(database_url=database_url, state_dir=str(tmp_path), device="cpu", poll_seconds=0.1)
        Worker(settings, Done()).work()
        assert service.get(f"/v1/jobs/{good}").json()["state"] == "succeeded"
        with database.read() as tx:
            states = tx.execute(text("select id, state, thinker from jobs"))
            left = {found.id: (found.state, found.thinker) for found in states if found.id != good}
            assert left == {new: ("queued", None), begun: ("queued", None)}, "a newer worker finds it untouched"
            waits = tx.execute(text("select state, attempt from trials where job = 2")).one()
            assert tuple(waits) == ("waiting", 0)
        for job in (new, begun):
            words = f"what {job} asks for cannot be read here"
            assert caplog.text.count(words) == 1, "the worker's log says it once"
            alone = service.get(f"/v1/jobs/{job}")
            assert (alone.status_code, slug(alone)) == (503, "newer-job")
            said = (words, "lrtune 99.1.0 wrote it, and this is", "lrtune delete")
            assert all(one in alone.json()["detail"] for one in said)
            assert "damaged" not in alone.json()["detail"]
            assert words in browser.get("/").text
        assert service.delete(f"/v1/jobs/{new}").status_code == 204, "who has no such release any more gives it up"
        database.dispose()


def test_what_this_release_wrote_or_an_older_one_is_damaged_where_it_cannot_be_read(sqlite_url: str) -> None:
    with served(sqlite_url) as service:
        for release in ("0.0.9", __version__):
            job = service.post("/v1/jobs", json={"task": "digits"}).json()["id"]
            damaged(sqlite_url, job, NO_JOB, release=release)
            assert slug(service.get(f"/v1/jobs/{job}")) == "unreadable-job"
