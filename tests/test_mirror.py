"""A data folder behind a URL: what is named is fetched, whole and as it is now; what is kept is put there."""

import uuid
from pathlib import Path
from typing import Any

import fsspec
import httpx
import pytest
import torch
from pydantic import ValidationError

from app import backup
from app.settings import Settings as ServerSettings
from lrtune.errors import Unavailable
from lrtune.uploads import mirror
from lrtune.wire.job import TaskSpec
from tests.serving import Done, served
from worker.loop import Worker
from worker.settings import Settings
from worker.tasks import prepare

ROWS = "a,b,y\n" + "\n".join(f"{n % 7},{n % 3},{'yes' if n % 2 else 'no'}" for n in range(60))
JOB = {
    "horizon": {"steps": 20},
    "budget": {"full_runs": None, "trials": 1},
    "confirm": {"top": 0},
}


@pytest.fixture(params=["memory", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty folder behind a URL; this host's copies of such folders lie below the test's own folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "this host"))
    place = f"memory://{uuid.uuid4().hex}" if request.param == "memory" else f"file://{tmp_path / 'bucket'}"
    fsspec.open(f"{place}/there", "w", auto_mkdir=True).open().close()
    return place


def written(url: str, name: str, text: str) -> None:
    with fsspec.open(f"{url}/{name}", "w", auto_mkdir=True) as file:
        file.write(text)


def there(url: str) -> list[str]:
    files, root = fsspec.core.url_to_fs(url)
    return sorted(path[len(root.rstrip("/")) + 1 :] for path in files.find(root) if not path.endswith("/there"))


def submitted(door: httpx.Client, **params: Any) -> httpx.Response:
    return door.post("/v1/jobs", json=JOB | {"task": {"name": "tabular", "params": {"target": "y", **params}}})


def test_what_is_uploaded_on_one_host_is_trained_on_by_another_and_goes_when_it_is_removed(
    url: str, sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    with served(sqlite_url, data_dir=url) as door:
        sent = door.post("/v1/datasets", params={"name": "rows.csv"}, content=ROWS.encode())
        assert sent.status_code == 201, sent.text
        (file,) = there(url)
        assert file == f"uploads/{sent.json()['id']}.csv"
        written(url, "own.csv", ROWS)
        jobs = [submitted(door, dataset=name) for name in ("rows.csv", "own.csv")]
        assert [job.status_code for job in jobs] == [201, 201], [job.text for job in jobs]
        missing = submitted(door, dataset="other.csv")
        assert "found no 'other.csv' in the data folder; there are own.csv, there" in missing.text
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another host"))
        states = str(tmp_path / "states")
        Worker(Settings(database_url=sqlite_url, data_dir=url, device="cpu", state_dir=states), Done()).work()  # type: ignore[arg-type]
        found = [door.get(f"/v1/jobs/{job.json()['id']}").json() for job in jobs]
        assert [(job["state"], job["reason"]) for job in found] == [("succeeded", "")] * 2
        assert door.delete("/v1/datasets/rows.csv").status_code == 204
        assert there(url) == ["own.csv"]


def test_an_archive_has_what_was_uploaded_and_brings_it_back_behind_another_url(
    url: str, sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(sqlite_url, data_dir=url) as door:
        assert door.post("/v1/datasets", params={"name": "rows.csv"}, content=ROWS.encode()).status_code == 201
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another host"))
    archive = tmp_path / "archive.zip"
    assert backup.backup(ServerSettings(database_url=sqlite_url, data_dir=url), archive)["files"] == 1  # type: ignore[arg-type]
    into = ServerSettings(database_url=f"sqlite:///{tmp_path / 'new.db'}", data_dir=f"memory://{uuid.uuid4().hex}")  # type: ignore[arg-type]
    backup.restore(into, archive)
    assert there(mirror.said(into.data_dir)) == there(url)


def test_a_file_is_fetched_once_and_again_when_it_has_changed(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = mirror.place(url)
    assert isinstance(folder, Path)
    got, kind = list[str](), type(fsspec.core.url_to_fs(url)[0])
    get = kind.get_file
    monkeypatch.setattr(kind, "get_file", lambda *given, **named: (got.append(given[1]), get(*given, **named))[1])
    written(url, "one.csv", "a")
    for text in ("a", "a", "bb", "bb"):
        if text == "bb" and len(got) == 1:
            written(url, "one.csv", "bb")
        mirror.fetch(folder, ["one.csv"])
        assert (folder / "one.csv").read_text() == text
    assert len(got) == 2
    fsspec.core.url_to_fs(url)[0].rm(f"{url}/one.csv")
    mirror.fetch(folder, ["one.csv"])
    assert not (folder / "one.csv").exists()


def test_a_folder_is_fetched_as_it_is_now_and_what_is_being_received_here_stays(url: str) -> None:
    folder = mirror.place(url)
    assert isinstance(folder, Path)
    for name in ("set/a/1.txt", "set/a/2.txt", "set/b.txt", "uploads/x.csv", "more/c.txt"):
        written(url, name, name)
    (folder / "set").mkdir()
    (folder / "set" / "half.part").write_text("on its way")
    mirror.fetch(
        folder,
        [
            "set",
            None,
            7,
            "../bucket",
            "/etc/passwd",
            "set/../../this",
            "memory://other/x",
            "no\0name",
            "",
            "uploads",
            "./uploads/",
        ],
    )
    assert sorted(str(one.relative_to(folder)) for one in folder.rglob("*.txt")) == [
        "set/a/1.txt",
        "set/a/2.txt",
        "set/b.txt",
    ]
    files = fsspec.core.url_to_fs(url)[0]
    files.rm(f"{url}/set/a/1.txt")
    files.rm(f"{url}/set/b.txt")
    written(url, "set/b.txt/now-a-folder.txt", "inside")
    mirror.fetch(folder, ["set"])
    here = sorted(str(one.relative_to(folder)) for one in folder.rglob("*") if one.is_file())
    assert here == ["set/a/2.txt", "set/b.txt/now-a-folder.txt", "set/half.part"]


def test_a_task_of_ones_own_finds_all_but_what_was_uploaded_by_others(url: str) -> None:
    folder = mirror.place(url)
    assert isinstance(folder, Path)
    for name in ("mine/x.txt", "y.txt", "uploads/named.csv", "uploads/others.csv", "archived/old.json.gz"):
        written(url, name, name)
    mirror.fetch_all(folder, {"files": ["uploads/named.csv"], "rate": 3})
    here = sorted(str(one.relative_to(folder)) for one in folder.rglob("*") if one.is_file())
    assert here == ["mine/x.txt", "there", "uploads/named.csv", "y.txt"]


def test_a_url_that_cannot_be_reached_is_said_in_words_and_one_of_no_use_as_the_service_starts(
    tmp_path: Path, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def away(*_: object, **__: object) -> None:
        raise ConnectionError("the secret name of a bucket")

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "info", away)
    url = f"memory://{uuid.uuid4().hex}"
    with served(sqlite_url, data_dir=url) as door:
        answer = submitted(door, dataset="rows.csv")
    assert (answer.status_code, answer.json()["detail"]) == (
        503,
        "the data folder cannot be reached (ConnectionError); try again soon",
    )
    folder = Settings(data_dir=url).data_dir  # type: ignore[arg-type]
    with pytest.raises(Unavailable, match="cannot be reached"):
        prepare(TaskSpec(name="tabular", params={"dataset": "rows.csv", "target": "y"}), folder)
    for kind in (Settings, ServerSettings):
        with pytest.raises(ValidationError, match="accepted is a folder or a URL of fsspec's"):
            kind(data_dir="nothing-known://bucket")
