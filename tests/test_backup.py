"""`lrtune backup` and `lrtune restore`: what was destroyed comes back with the same answers, on either database."""

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Column, Integer, LargeBinary, MetaData, Table, create_engine, insert
from sqlalchemy.schema import CreateTable
from typer.testing import CliRunner

import migrations
from app.backup import backup, restore
from app.settings import Settings
from lrtune.cli.commands import app as cli
from lrtune.errors import Conflict, Invalid, LrtuneError
from lrtune.store import schema
from tests.serving import finished, served

CSV = b"a,b,label\n" + b"".join(f"{n},{n * 7 % 5},{'yes' if n % 2 else 'no'}\n".encode() for n in range(40))
THEIRS = Table("theirs", MetaData(), Column("id", Integer, primary_key=True), Column("content", LargeBinary))
READ = ("", "/best", "/trials", "/events", "/report", "/curves")


def settings(url: str, folder: Path) -> Settings:
    return Settings(database_url=url, data_dir=folder)


def fresh(request: pytest.FixtureRequest, kind: str, folder: Path) -> str:
    """An empty database: without its tables on SQLite, with them on PostgreSQL."""
    return (
        f"sqlite:///{folder / 'new' / 'lrtune.db'}"
        if kind == "sqlite"
        else str(request.getfixturevalue("postgres_url"))
    )


def answers(service: httpx.Client, job: str) -> list[Any]:
    found = [service.get(f"/v1/jobs/{job}{path}") for path in READ] + [service.get(f"/v1/jobs/{job}/trials/1")]
    assert [one.status_code for one in found] == [200] * len(found)
    return [one.json() for one in found] + [service.get("/v1/datasets").json()]


def filled(url: str, folder: Path) -> tuple[str, list[Any]]:
    """A service with a finished job, a dataset, and a job of a loop that holds a trial; what it answers."""
    with served(url, data_dir=folder) as service:
        job = finished(service, url)
        assert service.post("/v1/datasets", params={"name": "mine.csv"}, content=CSV).status_code == 201
        loop = {"task": "external", "horizon": {"steps": 20}, "metric": {"name": "loss", "goal": "minimize"}}
        held = service.post("/v1/jobs", json=loop).json()["id"]
        assert service.post(f"/v1/jobs/{held}/trials").status_code == 200
        return job, answers(service, job)


@pytest.mark.parametrize("target", ["sqlite", "postgresql"])
def test_a_service_comes_back_from_its_archive_in_either_database_with_the_same_answers(
    sqlite_url: str, target: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    job, before = filled(sqlite_url, tmp_path / "data")
    backup(settings(sqlite_url, tmp_path / "data"), archive := tmp_path / "lrtune.zip")
    assert archive.stat().st_mode & 0o077 == 0, "others may read it"
    Path(sqlite_url.removeprefix("sqlite:///")).unlink()
    shutil.rmtree(tmp_path / "data")
    url = fresh(request, target, tmp_path)
    restore(settings(url, tmp_path / "data"), archive)
    with served(url, data_dir=tmp_path / "data") as service:
        assert answers(service, job) == before
        using = {
            "task": {"name": "tabular", "params": {"dataset": "mine.csv", "target": "label"}},
            "horizon": {"steps": 20},
        }
        assert service.post("/v1/jobs", json=using).status_code == 201, "new rows are numbered after those that came"
        assert service.get("/v1/jobs").json()["items"][0]["spec"]["task"]["name"] == "tabular"


def test_an_archive_of_postgresql_is_the_same_as_one_of_sqlite(postgres_url: str, tmp_path: Path) -> None:
    job, before = filled(postgres_url, tmp_path / "data")
    backup(settings(postgres_url, tmp_path / "data"), archive := tmp_path / "one.zip")
    url = f"sqlite:///{tmp_path / 'lrtune.db'}"
    restore(settings(url, tmp_path / "other"), archive)
    with served(url, data_dir=tmp_path / "other") as service:
        assert answers(service, job) == before
    backup(settings(url, tmp_path / "other"), again := tmp_path / "two.zip")
    with zipfile.ZipFile(archive) as one, zipfile.ZipFile(again) as two:
        assert one.namelist() == two.namelist()
        for name in set(one.namelist()) - {"manifest.json", "tables/loops.jsonl"}:
            assert read(one, name) == read(two, name), name


@pytest.mark.parametrize("target", ["sqlite", "postgresql"])
def test_tables_of_others_in_the_database_are_neither_in_an_archive_nor_in_its_way(
    target: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = str(request.getfixturevalue("postgres_url" if target == "sqlite" else "sqlite_url"))
    job, before = filled(url, tmp_path / "data")
    (tmp_path / "new").mkdir()
    there = fresh(request, target, tmp_path)
    for one in (url, there):
        engine = create_engine(one)
        with engine.begin() as connection:
            connection.execute(CreateTable(THEIRS))
            connection.execute(insert(THEIRS).values(id=1, content=b"theirs"))
        engine.dispose()
    backup(settings(url, tmp_path / "data"), archive := tmp_path / "lrtune.zip")
    restore(settings(there, tmp_path / "other"), archive)
    with served(there, data_dir=tmp_path / "other") as service:
        assert answers(service, job) == before
    with zipfile.ZipFile(archive) as packed:
        assert "tables/theirs.jsonl" not in packed.namelist()


def read(packed: zipfile.ZipFile, name: str) -> Any:
    content = packed.read(name)
    return [json.loads(line) for line in content.splitlines()] if name.endswith(".jsonl") else content


def test_no_archive_is_written_over_another_file(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    filled(sqlite_url, tmp_path / "data")
    monkeypatch.setenv("LRTUNE_DATABASE_URL", sqlite_url)
    monkeypatch.setenv("LRTUNE_DATA_DIR", str(tmp_path / "data"))
    asked = ["backup", str(tmp_path / "lrtune.zip")]
    assert CliRunner().invoke(cli, asked).exit_code == 0
    before, said = (tmp_path / "lrtune.zip").read_bytes(), capfd.readouterr().out
    assert "2 jobs, " in said
    assert said.endswith(", 1 uploaded file\n")
    assert CliRunner().invoke(cli, asked).exit_code == 2
    assert "lrtune.zip is there already and stays as it is: name another file" in capfd.readouterr().err
    assert (tmp_path / "lrtune.zip").read_bytes() == before


def test_nothing_is_restored_over_what_is_there(sqlite_url: str, tmp_path: Path) -> None:
    job, before = filled(sqlite_url, tmp_path / "data")
    mine = settings(sqlite_url, tmp_path / "data")
    backup(mine, archive := tmp_path / "lrtune.zip")
    with pytest.raises(Conflict, match="not empty"):
        restore(mine, archive)
    with served(sqlite_url, data_dir=tmp_path / "data") as service:
        assert answers(service, job) == before


@pytest.mark.parametrize("how", ["no zip", "cut short", "a row lost", "another format", "newer", "leads out"])
def test_what_is_no_whole_archive_is_refused_and_leaves_nothing(sqlite_url: str, tmp_path: Path, how: str) -> None:
    filled(sqlite_url, tmp_path / "data")
    backup(settings(sqlite_url, tmp_path / "data"), archive := tmp_path / "lrtune.zip")
    spoil(archive, how)
    url = f"sqlite:///{tmp_path / 'new.db'}"
    with pytest.raises((Invalid, LrtuneError)):
        restore(settings(url, tmp_path / "new"), archive)
    assert not (tmp_path / "out.csv").exists()
    with served(url, data_dir=tmp_path / "new") as service:
        assert service.get("/v1/jobs").json()["items"] == []


def spoil(archive: Path, how: str) -> None:
    if how in ("no zip", "cut short"):
        archive.write_bytes(b"no zip" if how == "no zip" else archive.read_bytes()[:-200])
        return
    with zipfile.ZipFile(archive) as packed:
        found = {name: packed.read(name) for name in packed.namelist()}
    manifest = json.loads(found["manifest.json"])
    manifest |= {"another format": {"format": 9}, "newer": {"schema": "9999"}}.get(how, {})
    found["manifest.json"] = json.dumps(manifest).encode()
    if how == "a row lost":
        found["tables/trials.jsonl"] = found["tables/trials.jsonl"].split(b"\n", 1)[1]
    if how == "leads out":
        found["data/uploads/../../out.csv"] = b"x"
    with zipfile.ZipFile(archive, "w") as packed:
        for name, content in found.items():
            packed.writestr(name, content)


def test_an_archive_of_an_older_release_is_brought_up_to_date(sqlite_url: str, tmp_path: Path) -> None:
    """As one of that release would be: with its tables alone, and its revision."""
    job, before = filled(sqlite_url, tmp_path / "data")
    backup(settings(sqlite_url, tmp_path / "data"), archive := tmp_path / "lrtune.zip")
    with zipfile.ZipFile(archive) as packed:
        found = {name: packed.read(name) for name in packed.namelist() if "tables/webhooks" not in name}
    manifest = json.loads(found["manifest.json"]) | {"schema": "0016"}
    del manifest["tables"]["webhooks"]
    with zipfile.ZipFile(archive, "w") as packed:
        for name, content in (found | {"manifest.json": json.dumps(manifest).encode()}).items():
            packed.writestr(name, content)
    url = f"sqlite:///{tmp_path / 'new.db'}"
    restore(settings(url, tmp_path / "data"), archive)
    with served(url, data_dir=tmp_path / "data") as service:
        assert answers(service, job) == before


def test_a_database_of_another_schema_is_not_backed_up(sqlite_url: str, tmp_path: Path) -> None:
    migrations.downgrade(sqlite_url, "0015")
    with pytest.raises(Conflict, match=f"older than the {schema.REVISION}"):
        backup(settings(sqlite_url, tmp_path / "data"), tmp_path / "lrtune.zip")
    assert list(tmp_path.glob("*.zip")) == []
