"""A program of one release beside a database of another: it says so, does nothing, and goes on once they agree."""

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

import migrations
from lrtune.store import Database, schema, workers
from tests.serving import served, slug
from worker.loop import Worker
from worker.settings import Settings


class Until(threading.Event):
    """A stop that waits for nothing: the third look finds the schema as it should be, and later waits are the end."""

    def __init__(self, database_url: str, *, waited: int = 0) -> None:
        super().__init__()
        self._url, self._waited = database_url, waited

    def wait(self, timeout: float | None = None) -> bool:
        self._waited += 1
        if self._waited == 2:
            revise(self._url, schema.REVISION)
        if self._waited > 2:
            self.set()
        return self.is_set()


def revise(database_url: str, revision: str) -> None:
    database = Database(database_url)
    with database.write() as tx:
        tx.execute(text(f"update {schema.VERSION_TABLE} set version_num = '{revision}'"))
    database.dispose()


def test_the_code_knows_the_newest_migration() -> None:
    assert migrations.newest() == schema.REVISION


def test_the_newest_migration_only_adds_so_that_the_release_before_goes_on_beside_it(database_url: str) -> None:
    there = columns(database_url)
    before = ScriptDirectory.from_config(migrations.config("")).get_revision("head").down_revision
    migrations.downgrade(database_url, str(before))
    for place, old in columns(database_url).items():
        assert there.get(place) == old, f"{place} is gone, or another"
        del there[place]
    tables = {table for table, _ in columns(database_url)}
    must = [place for place, new in there.items() if place[0] in tables and not (new.nullable or new.has_default)]
    assert not must, "a row of the release before has none of these"


class Column(NamedTuple):
    type: str
    nullable: bool
    has_default: bool


def columns(database_url: str) -> dict[tuple[str, str], Column]:
    """Every column of a database, by its table and its name."""
    database = Database(database_url)
    with database.read() as tx:
        seen = inspect(tx.connection())
        found = {
            (table, one["name"]): Column(str(one["type"]), one["nullable"], one["default"] is not None)
            for table in seen.get_table_names()
            for one in seen.get_columns(table)
        }
    database.dispose()
    return found


@pytest.mark.parametrize(("found", "words"), [("0015", "older than"), ("9999", "newer than")])
def test_a_worker_of_another_schema_says_so_once_and_waits(
    database_url: str, found: str, words: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    revise(database_url, found)
    Worker(Settings(database_url=database_url, data_dir=tmp_path), Until(database_url)).work()
    said = [line for line in caplog.messages if "schema" in line]
    assert [words in line for line in said] == [True, False]
    assert caplog.messages.index(said[1]) < next(n for n, line in enumerate(caplog.messages) if "is ready" in line)


def test_a_worker_before_its_tables_says_what_to_do(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stop = Until(url := f"sqlite:///{tmp_path / 'new.db'}", waited=2)
    Worker(Settings(database_url=url, data_dir=tmp_path), stop).work()
    database = Database(url)
    with database.read() as tx:
        assert schema.found(tx) is None
    database.dispose()
    assert "no tables of lrtune's yet" in caplog.text
    assert "lrtune migrate" in caplog.text


def test_a_worker_whose_database_is_upgraded_under_it_claims_no_more(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("worker.schemas.AGAIN", 0.0)
    stop = Until(sqlite_url, waited=2)
    revised = workers.sign_in

    def then(*args: object, **named: object) -> None:
        revised(*args, **named)  # type: ignore[arg-type]
        args[0].execute(text(f"update {schema.VERSION_TABLE} set version_num = '9999'"))  # type: ignore[attr-defined]

    monkeypatch.setattr(workers, "sign_in", then)
    worker = Worker(Settings(database_url=sqlite_url, data_dir=tmp_path), stop)
    monkeypatch.setattr(worker, "_turn", lambda: pytest.fail("it claimed"))
    worker.work()
    assert "newer than" in caplog.text


@pytest.mark.parametrize(("found", "words"), [("0015", "lrtune migrate"), ("9999", "this program is the older")])
def test_a_server_of_another_schema_is_not_ready_and_says_which_is_older(
    database_url: str, found: str, words: str
) -> None:
    with served(database_url) as service:
        assert service.get("/readyz").status_code == 200, "it has started"
        revise(database_url, found)
        answer = service.get("/readyz")
        assert (answer.status_code, words in answer.json()["detail"]) == (503, True)


def test_a_server_beside_a_newer_sqlite_database_starts_leaves_it_alone_and_says_so(
    sqlite_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    revise(sqlite_url, "9999")
    with served(sqlite_url) as service:
        assert service.get("/healthz").status_code == 200
        assert service.get("/readyz").status_code == 503
    assert "newer than" in caplog.text


def test_schemas_are_brought_up_to_date_by_several_threads_at_once(tmp_path: Path) -> None:
    urls = [f"sqlite:///{tmp_path / str(number)}.db" for number in range(4)]
    with ThreadPoolExecutor(len(urls)) as threads:
        list(threads.map(migrations.upgrade, urls))
    for url in urls:
        database = Database(url)
        with database.read() as tx:
            assert schema.found(tx) == schema.REVISION
        database.dispose()


def test_a_server_whose_schema_was_never_made_says_so_at_its_start_and_to_every_request(
    postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    migrations.downgrade(postgres_url, "base")
    with served(postgres_url) as service:
        for answer in (service.get("/v1/jobs"), service.post("/v1/jobs", json={"task": "digits"})):
            assert (answer.status_code, slug(answer)) == (503, "unavailable")
            assert "lrtune migrate" in answer.json()["detail"]
        assert [one.message for one in caplog.records if one.name == "lrtune.server"] == [answer.json()["detail"]]
        migrations.upgrade(postgres_url)
        assert service.post("/v1/jobs", json={"task": "digits"}).status_code == 201
