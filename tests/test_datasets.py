"""Uploads: every unsafe one is refused in a sentence and leaves nothing behind; good ones are described and kept."""

import hashlib
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.files import LARGEST, UNSAFE, UNUSUAL, csv, npz, parquet, zipped
from tests.people import someone, upload
from tests.serving import KEY, Done, served, signed_in, slug
from worker.loop import Worker
from worker.settings import Settings

REFUSED = {
    400: {"bad-request"},
    413: {"too-large"},
    422: {"invalid", "unusable-file"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def shared(folder: Path, sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """One server for all that is refused: none of it may leave a trace, so none can meet another's."""
    path = tmp_path_factory.mktemp("db") / "lrtune.db"
    path.write_bytes(sqlite_template.read_bytes())
    with served(f"sqlite:///{path}", data_dir=folder, max_upload_bytes=LARGEST) as client:
        yield client


@pytest.fixture
def service(database_url: str, tmp_path: Path) -> Iterator[httpx.Client]:
    with served(database_url, data_dir=tmp_path / "data", max_upload_bytes=LARGEST) as client:
        yield client


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def sent(service: httpx.Client, name: str, content: bytes) -> httpx.Response:
    return service.post("/v1/datasets", params={"name": name}, content=content)


@pytest.mark.parametrize("case", UNSAFE)
def test_an_unsafe_upload_is_refused_in_a_sentence_and_leaves_nothing(
    shared: httpx.Client, folder: Path, case: str
) -> None:
    name, content, said = UNSAFE[case]
    answer = sent(shared, name, content())
    assert slug(answer) in REFUSED[answer.status_code]
    assert said in answer.json()["detail"]
    assert files(folder) == []
    assert shared.get("/v1/datasets").json()["items"] == []


@pytest.mark.parametrize("case", UNUSUAL)
def test_an_unusual_upload_is_understood(shared: httpx.Client, folder: Path, case: str) -> None:
    name, content, found = UNUSUAL[case]
    answer = sent(shared, name, content())
    assert answer.status_code == 201, answer.text
    assert found in str(answer.json())
    assert shared.delete(f"/v1/datasets/{name}").status_code == 204
    assert files(folder) == []


def test_a_column_too_many_is_named_however_long_the_row(sqlite_url: str, tmp_path: Path) -> None:
    with served(sqlite_url, data_dir=tmp_path / "data") as service:
        answer = sent(service, "wide.csv", b",".join(b"c%d" % n for n in range(10**6)) + b"\n")
    assert slug(answer) == "unusable-file"
    assert "1000000 columns; at most 10000" in answer.json()["detail"]


@pytest.mark.parametrize("name", ["Größe.csv", "../a.csv", "a.csv\n", "a, b.csv"])
def test_a_name_that_is_not_plain_is_refused_with_what_one_is_made_of(
    shared: httpx.Client, folder: Path, name: str
) -> None:
    answer = sent(shared, name, csv())
    assert (answer.status_code, files(folder)) == (422, [])
    assert "accepted are letters without accents, digits, spaces and _ . ( ) + -" in answer.json()["detail"]


def test_a_form_is_refused_with_the_way_that_works(shared: httpx.Client, folder: Path) -> None:
    answer = shared.post("/v1/datasets", params={"name": "a.csv"}, files={"file": csv()})
    assert slug(answer) == "bad-request"
    assert "--data-binary" in answer.json()["detail"]
    assert files(folder) == []


def test_an_upload_without_the_key_is_refused(shared: httpx.Client, folder: Path) -> None:
    answer = shared.post("/v1/datasets", params={"name": "a.csv"}, content=csv(), headers={"Authorization": "Bearer x"})
    assert slug(answer) == "unauthorized"
    assert files(folder) == []


@pytest.mark.parametrize("length", [10 * LARGEST, 100], ids=["too large by its own word", "shorter than it says"])
def test_an_upload_that_breaks_off_or_lies_leaves_nothing(shared: httpx.Client, folder: Path, length: int) -> None:
    at = urlsplit(str(shared.base_url))
    head = f"POST /v1/datasets?name=a.csv HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
    with socket.create_connection((at.hostname, at.port)) as raw:
        raw.sendall(f"{head}Content-Length: {length}\r\n\r\na,b\n1,2\n".encode())
        if length < LARGEST:
            raw.shutdown(socket.SHUT_WR)
        answer = raw.recv(4096)
    assert answer.startswith(b"HTTP/1.1 413") == (length > LARGEST)
    assert shared.get("/v1/datasets").json()["items"] == []
    assert files(folder) == []


def test_a_body_without_a_length_is_cut_at_the_limit(shared: httpx.Client, folder: Path) -> None:
    answer = shared.post("/v1/datasets", params={"name": "a.txt"}, content=(b"ab" * 40_000 for _ in range(9)))
    assert slug(answer) == "too-large"
    assert files(folder) == []


def test_a_table_is_described_and_kept_under_its_digest(service: httpx.Client, tmp_path: Path) -> None:
    content = csv("3,,1")
    answer = sent(service, "fruit.csv", content)
    found = answer.json()
    assert answer.status_code == 201
    assert answer.headers["location"] == f"/v1/datasets/{found['id']}"
    assert found["id"] == hashlib.sha256(content).hexdigest()
    assert (tmp_path / "data" / found["file"]).read_bytes() == content
    assert (found["kind"], found["rows"], found["bytes"]) == ("csv", 21, len(content))
    assert [column["type"] for column in found["columns"]] == ["number", "text", "number"]
    colour = {"name": "colour", "type": "text", "missing": 1, "distinct": 1, "counts": {"red": 20}}
    assert found["columns"][1].items() >= colour.items()
    assert found["first"][0] == ["3", "", "1"]
    assert service.get(f"/v1/datasets/{found['id']}").json() == found == service.get("/v1/datasets/fruit.csv").json()


def test_the_same_bytes_are_the_same_dataset(service: httpx.Client, tmp_path: Path) -> None:
    first, again = sent(service, "a.csv", csv()), sent(service, "a.csv", csv())
    renamed = sent(service, "b.csv", csv())
    assert [one.status_code for one in (first, again, renamed)] == [201, 200, 200]
    assert first.json() == again.json() == renamed.json()
    assert len(files(tmp_path / "data")) == 1


def test_a_name_means_one_thing(service: httpx.Client, tmp_path: Path) -> None:
    sent(service, "a.csv", csv())
    assert slug(sent(service, "a.csv", csv("1,blue,0"))) == "name-taken"
    (tmp_path / "data" / "own.csv").write_bytes(csv())
    assert slug(sent(service, "own.csv", csv("2,blue,0"))) == "name-taken"
    assert len(files(tmp_path / "data")) == 2


def test_datasets_are_listed_newest_first_in_pages(service: httpx.Client) -> None:
    for name, content in (("a.csv", csv()), ("b.npz", npz()), ("c.parquet", parquet()), ("d.zip", zipped())):
        assert sent(service, name, content).status_code == 201
    first = service.get("/v1/datasets", params={"limit": 3}).json()
    second = service.get("/v1/datasets", params={"limit": 3, "cursor": first["next"]}).json()
    assert [one["kind"] for one in first["items"] + second["items"]] == ["zip", "parquet", "npz", "csv"]
    assert second["next"] is None


def test_a_dataset_that_a_job_needs_stays_until_the_job_is_over(service: httpx.Client, tmp_path: Path) -> None:
    file = sent(service, "fruit.csv", csv()).json()["file"]
    params = {"dataset": "fruit.csv", "target": "kind"}
    job = service.post("/v1/jobs", json={"task": {"name": "tabular", "params": params}}).json()
    assert job["spec"]["task"]["params"]["dataset"] == file
    for verb in ("pause", "resume"):
        refused = service.delete("/v1/datasets/fruit.csv")
        assert slug(refused) == "dataset-in-use"
        assert job["id"] in refused.json()["detail"]
        service.post(f"/v1/jobs/{job['id']}/{verb}")
    service.post(f"/v1/jobs/{job['id']}/cancel")
    assert service.delete("/v1/datasets/fruit.csv").status_code == 204
    assert slug(service.get("/v1/datasets/fruit.csv")) == "unknown-dataset"
    assert slug(service.delete("/v1/datasets/fruit.csv")) == "unknown-dataset"
    assert files(tmp_path / "data") == []


@pytest.mark.parametrize(("text", "lines"), [("one line", 1), ("one line\n", 1), ("two\nlines", 2), ("\n\ntwo\n", 3)])
def test_the_lines_of_a_text_are_its_rows(service: httpx.Client, text: str, lines: int) -> None:
    assert service.post("/v1/datasets?name=a.txt", content=text.encode()).json()["rows"] == lines


def test_a_dataset_that_a_job_measures_on_stays_as_well(service: httpx.Client) -> None:
    for name, rows in (("fruit.csv", csv()), ("more.csv", csv("30,red,1"))):
        sent(service, name, rows)
    params = {"dataset": "fruit.csv", "validation": {"dataset": "more.csv"}}
    job = service.post("/v1/jobs", json={"task": {"name": "tabular", "params": params}}).json()
    assert slug(service.delete("/v1/datasets/more.csv")) == "dataset-in-use"
    service.post(f"/v1/jobs/{job['id']}/cancel")
    assert service.delete("/v1/datasets/more.csv").status_code == 204


def test_a_job_may_name_a_dataset_by_its_id_or_lay_a_file_into_the_folder(
    service: httpx.Client, tmp_path: Path
) -> None:
    found = sent(service, "fruit.csv", csv()).json()
    (tmp_path / "data" / "own.csv").write_bytes(csv())
    for name, file in ((found["id"], found["file"]), (found["file"], found["file"]), ("own.csv", "own.csv")):
        job = service.post("/v1/jobs", json={"task": {"name": "tabular", "params": {"dataset": name}}})
        assert job.json()["spec"]["task"]["params"]["dataset"] == file


@pytest.mark.parametrize(
    ("task", "params", "pointer", "said"),
    [
        ("tabular", {"dataset": "fruits.csv"}, "/task/params/dataset", "found no 'fruits.csv'"),
        ("images", {"dataset": "fruit.csv"}, "/task/params/dataset", "reads npz and zip"),
        ("tabular", {"dataset": "pets.zip"}, "/task/params/dataset", "reads csv and parquet"),
        ("tabular", {"dataset": "fruit.csv", "target": "price"}, "/task/params/target", "size, colour, kind"),
        ("tabular", {"dataset": "fruit.csv", "target": 7}, "/task/params/target", "size, colour, kind"),
        ("tabular", {"dataset": "fruit.csv", "target": "colour"}, "/task/params/target", "the same in every row"),
    ],
)
def test_a_job_that_cannot_use_its_dataset_is_refused_at_once(
    service: httpx.Client, task: str, params: dict[str, object], pointer: str, said: str
) -> None:
    sent(service, "fruit.csv", csv())
    sent(service, "pets.zip", zipped())
    answer = service.post("/v1/jobs", json={"task": {"name": task, "params": params}})
    assert slug(answer) == "invalid"
    (rejected,) = answer.json()["errors"]
    assert rejected["pointer"] == pointer
    assert said in rejected["detail"]


def test_what_a_crash_left_is_swept_at_the_start(sqlite_url: str, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "uploads"
    folder.mkdir(parents=True)
    (folder / "tmp123.part").write_bytes(b"half")
    (folder / "whole.csv").write_bytes(csv())
    with served(sqlite_url, data_dir=tmp_path / "data") as started:
        assert started.get("/healthz").status_code == 200
        assert files(folder) == ["whole.csv"]


def test_a_text_too_short_for_its_context_is_refused_before_it_trains(service: httpx.Client) -> None:
    assert sent(service, "tiny.txt", b"to be or not to be\r\n" * 10).status_code == 201

    def submitted(**params: object) -> httpx.Response:
        return service.post("/v1/jobs", json={"task": {"name": "text", "params": {"dataset": "tiny.txt", **params}}})

    (wrong,) = submitted().json()["errors"]
    assert wrong == {
        "pointer": "/task/params/dataset",
        "detail": "it has 190 characters, 8 of them different; needed are two, and 65 in the training and in the "
        "validation part (one more than the context)",
    }
    assert submitted(context=18).status_code == 201
    assert submitted(context=19).status_code == 422


def test_a_trial_that_fails_on_uploaded_data_calls_it_as_its_owner_does(
    service: httpx.Client, database_url: str, tmp_path: Path
) -> None:
    kept = sent(service, "hamlet.txt", b"to be or not to be\n" * 100).json()
    task = {"name": "text", "params": {"dataset": "hamlet.txt"}}
    job = service.post("/v1/jobs", json={"task": task, "horizon": {"steps": 20}}).json()["id"]
    (tmp_path / "data" / kept["file"]).unlink()
    Worker(Settings(database_url=database_url, device="cpu", data_dir=tmp_path / "data"), Done()).work()
    found = service.get(f"/v1/jobs/{job}").json()
    assert found["state"] == "failed"
    assert "there is no 'hamlet.txt' below LRTUNE_DATA_DIR" in found["reason"]
    assert kept["id"] not in found["reason"]


def test_a_trial_that_fails_says_nothing_of_others_who_uploaded_the_same(database_url: str, tmp_path: Path) -> None:
    folder, text = tmp_path / "data", b"to be or not to be\n" * 100
    task = {"name": "text", "params": {"dataset": "hers.txt"}}
    with (
        served(database_url, data_dir=folder, shared=False) as service,
        someone(service, "ada") as ada,
        someone(service, "bob") as bob,
    ):
        kept = upload(ada, "hers.txt", text).json()
        assert upload(bob, "secret.txt", text).status_code == 201
        job = ada.post("/v1/jobs", json={"task": task, "horizon": {"steps": 20}}).json()["id"]
        assert ada.delete("/v1/datasets/hers.txt").status_code == 204
        (folder / kept["file"]).unlink()
        Worker(Settings(database_url=database_url, device="cpu", data_dir=folder), Done()).work()
        found = ada.get(f"/v1/jobs/{job}").json()
    assert found["state"] == "failed"
    assert "there is no 'hers.txt' below LRTUNE_DATA_DIR" in found["reason"]


@pytest.mark.skipif(sys.platform == "darwin", reason="file names are UTF-8 there")
def test_names_of_files_that_are_no_text_end_neither_an_answer_nor_a_worker(
    service: httpx.Client, database_url: str, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    folder.mkdir(exist_ok=True)
    (folder / "hamlet.txt").write_bytes(b"to be or not to be\n" * 100)
    task = {"name": "text", "params": {"dataset": "hamlet.txt"}}
    job = service.post("/v1/jobs", json={"task": task, "horizon": {"epochs": 1}}).json()["id"]
    (folder / "hamlet.txt").unlink()
    (folder / os.fsdecode(b"\xff\x1b[2J.txt")).touch()
    Worker(Settings(database_url=database_url, device="cpu", data_dir=folder), Done()).work()
    found = service.get(f"/v1/jobs/{job}").json()
    assert found["state"] == "failed"
    (wrong,) = service.post("/v1/jobs", json={"task": task}).json()["errors"]
    for said in (found["reason"], wrong["detail"]):
        assert "there are '\\udcff\\x1b[2J.txt'" in said


def test_a_plan_says_of_a_file_that_the_workers_alone_could_see_that_nobody_has_looked(service: httpx.Client) -> None:
    planned = service.post(
        "/v1/jobs", params={"validate_only": True}, json={"task": {"name": "text", "params": {"dataset": "odes.txt"}}}
    )
    (note,) = planned.json()["notes"]
    assert note == "this server has no data folder: whether the workers have 'odes.txt' shows as the first trial begins"
    assert sent(service, "hamlet.txt", b"To be, or not to be\n" * 400).is_success
    refused = service.post("/v1/jobs", json={"task": {"name": "text", "params": {"dataset": "odes.txt"}}})
    assert "found no 'odes.txt' in the data folder" in refused.json()["errors"][0]["detail"]


def test_a_folder_is_no_text_and_a_link_in_a_loop_is_told_without_a_path_of_the_servers(
    service: httpx.Client, tmp_path: Path
) -> None:
    (tmp_path / "data" / "poems").mkdir(parents=True, exist_ok=True)
    (tmp_path / "data" / "loop").symlink_to("loop")
    accepted = {"poems": "found the folder 'poems'; accepted is one file", "loop": "a link in a loop of links"}
    for name, said in accepted.items():
        answer = service.post("/v1/jobs", json={"task": {"name": "text", "params": {"dataset": name}}})
        (wrong,) = answer.json()["errors"]
        assert wrong["pointer"] == "/task/params/dataset"
        assert said in wrong["detail"]
        assert str(tmp_path) not in answer.text


def test_a_table_of_one_row_is_told_of_in_the_singular(service: httpx.Client) -> None:
    answer = sent(service, "one.csv", b"a,b\n1,2\n")
    assert answer.json()["notes"] == [
        f"'{name}' has 1 value in 1 row, so it says next to nothing; it is used all the same" for name in "ab"
    ]
    with signed_in(service) as browser:
        assert "1 row ·" in browser.get("/datasets/one.csv").text


def test_a_server_that_starts_leaves_the_uploads_of_another_alone(sqlite_url: str, tmp_path: Path) -> None:
    settings = {"data_dir": tmp_path / "data", "max_upload_bytes": 16 * LARGEST}

    def slowly() -> Iterator[bytes]:
        yield b"half of it, " * 100_000
        with served(sqlite_url, **settings) as another:
            assert another.get("/healthz").status_code == 200, "it has started, and looked through the folder"
            assert len(files(tmp_path / "data")) == 1
        yield b"and the rest"

    with served(sqlite_url, **settings) as service:
        service.get("/healthz")  # FastAPI builds its routes at the first call, and not in two threads at once
        answer = service.post("/v1/datasets", params={"name": "a.txt"}, content=slowly())
    assert answer.status_code == 201
    assert files(tmp_path / "data") == [answer.json()["file"]]


def test_a_data_folder_that_cannot_be_written_is_told_in_words(sqlite_url: str, tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"a file where the folder should be")
    with served(sqlite_url, data_dir=tmp_path / "data") as service:
        answer = sent(service, "a.csv", csv())
    assert slug(answer) == "unavailable"
    assert "the data folder cannot be written" in answer.json()["detail"]
