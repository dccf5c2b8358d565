"""Data of one's own, from the upload to the answer: a real server, a worker that really trains, every kind of file."""

import io
import json
import re
import shlex
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from lrtune.cli import commands
from lrtune.client import Client
from lrtune.uploads import describe, kind_of
from lrtune.uploads.tables import read
from lrtune.wire.results import JobState
from tests.files import UNUSUAL, csv, parquet, zipped
from tests.serving import KEY, served
from worker.loop import Worker
from worker.settings import Settings

TUTORIAL = Path(__file__).parent.parent / "docs/tutorials/your-data.md"
TABLES = ("csv", "tsv", "csv.gz", "parquet")
SMALL = {"horizon": {"steps": 4}, "budget": {"trials": 1}, "confirm": {"top": 1, "seeds": 1}}


@pytest.fixture
def service(sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx.Client]:
    """A server and a worker with one data folder; the client finds the server in its environment."""
    torch.set_num_threads(1)
    data_dir, stop = tmp_path / "data", threading.Event()
    with served(sqlite_url, data_dir=data_dir) as client:
        settings = Settings(database_url=sqlite_url, data_dir=data_dir, device="cpu", poll_seconds=0.01)
        working = threading.Thread(target=Worker(settings, stop).work)
        working.start()
        monkeypatch.setenv("LRTUNE_URL", str(client.base_url))
        monkeypatch.setenv("LRTUNE_API_KEY", KEY)
        monkeypatch.chdir(tmp_path)
        yield client
        stop.set()
        working.join()


def pictures_as_arrays() -> bytes:
    made = io.BytesIO()
    np.savez(made, x=np.random.default_rng(0).normal(size=(40, 8, 8)), y=np.array(["cat", "dog"] * 20))
    return made.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "task"),
    [
        ("fruit.csv", b"\xef\xbb\xbf" + csv("3,,1").replace(b"\n", b"\r\n"), {"name": "tabular", "params": {}}),
        ("bare.tsv", csv().replace(b",", b"\t").partition(b"\n")[2], {"name": "tabular", "params": {"target": 2}}),
        ("fruit.parquet", parquet(c=["red", None] * 10), {"name": "tabular", "params": {"target": "b"}}),
        ("small.npz", pictures_as_arrays(), {"name": "images", "params": {}}),
        ("pets.zip", zipped({"__MACOSX/cat/._x": b""}), {"name": "images", "params": {"size": 8, "validation": 0.5}}),
        ("words.txt", "Über allen Gipfeln ist Ruh. ".encode() * 40, {"name": "text", "params": {"context": 8}}),
    ],
)
def test_every_kind_of_file_is_tuned_with(service: httpx.Client, name: str, content: bytes, task: Any) -> None:
    Path(name).write_bytes(content)
    with Client() as client:
        found = client.add_dataset(name)
        params = {**task["params"], "dataset": name, "batch_size": 8}
        job = client.submit({"task": {"name": task["name"], "params": params}, **SMALL})
        done = client.wait(job.id)
        assert done.state is JobState.SUCCEEDED, done.reason
        assert client.best(job.id).confirmed
        client.remove_dataset(found.id)
        assert list(client.datasets()) == []


@pytest.mark.parametrize(
    ("file", "name"),
    [("mixed name ü.csv", "mixed name u.csv"), ("Größe.csv", "Gro_e.csv"), ("(1) a,b.csv", "1) a_b.csv")],
)
def test_a_file_that_nobody_names_has_its_own_name_in_characters_that_names_may_have(
    service: httpx.Client, file: str, name: str
) -> None:
    Path(file).write_bytes(csv())
    with Client() as client:
        assert client.add_dataset(file).name == name


@pytest.mark.parametrize("case", [case for case, (name, _, _) in UNUSUAL.items() if name.partition(".")[2] in TABLES])
def test_the_server_sees_the_table_that_the_worker_will_see(tmp_path: Path, case: str) -> None:
    name, content, _ = UNUSUAL[case]
    path = tmp_path / name
    path.write_bytes(content())
    seen, table = describe(path, kind_of(name), largest=10**6), read(path)
    assert seen == table.description
    for column in seen.columns:
        values = table.values[column.name]
        missing = sum(value is None for value in values) if values.dtype == object else int(np.isnan(values).sum())
        assert (len(values), missing) == (seen.rows, column.missing)


def test_the_command_line_adds_lists_shows_and_removes(service: httpx.Client) -> None:
    Path("pets.zip").write_bytes(zipped())

    def run(*arguments: str, code: int = 0) -> str:
        found = CliRunner().invoke(commands.app, ["datasets", *arguments])
        assert found.exit_code == code, found.output
        assert "Traceback" not in found.output
        return found.output

    assert "classes: cat (6), dog (6)" in run("add", "pets.zip")
    assert [one["name"] for one in json.loads(run("list", "--json"))] == ["pets.zip"]
    assert "pets.zip" in run("list")
    assert json.loads(run("show", "pets.zip", "--json"))["classes"] == {"cat": 6, "dog": 6}
    Path("fruit.csv").write_bytes(csv("oops,red,1"))
    assert "(row 1 (line 2 of the file): 'oops')" in " ".join(run("add", "fruit.csv").split())
    assert "is removed" in run("remove", "pets.zip")
    assert "there is no dataset 'pets.zip'" in run("show", "pets.zip", code=2)
    assert "nowhere.csv" in run("add", "nowhere.csv", code=2)
    Path("a.csv").write_bytes(b"")
    assert "0 bytes" in run("add", "a.csv", code=2)


def test_the_tutorial_does_what_it_says(service: httpx.Client, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    for language, block in re.findall(r"^```(\w+)\n(.*?)^```", TUTORIAL.read_text(), re.MULTILINE | re.DOTALL):
        if language == "python":
            exec(compile(block, "your-data.md", "exec"), names)
        elif block.startswith("curl"):
            assert sent_by_curl(block, str(service.base_url)) == httpx.codes.OK
        else:
            for line in block.splitlines():
                command, *arguments = shlex.split(line)
                done = CliRunner().invoke(commands.app, arguments)
                assert (command, done.exit_code) == ("lrtune", 0), done.output
                print(done.output)
    said = capsys.readouterr().out
    assert "178 rows" in said
    assert "untuned" in said
    assert "wine.csv is removed" in said


def sent_by_curl(block: str, address: str) -> int:
    """What curl would send, sent."""
    written = block.replace("$(cat .lrtune/credentials)", KEY).replace("http://127.0.0.1:8000", address)
    command, binary, file, url, header, key = shlex.split(written.replace("\\\n", " "))
    assert (command, binary, header) == ("curl", "--data-binary", "-H")
    headers = {"Content-Type": "application/x-www-form-urlencoded", **dict([key.split(": ", 1)])}
    return httpx.post(url, content=Path(file[1:]).read_bytes(), headers=headers, trust_env=False).status_code
