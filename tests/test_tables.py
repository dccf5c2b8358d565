"""Tables as people have them: each is described and trained on as what it is, or refused in a sentence."""

import gzip
import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from lrtune.client import Client
from lrtune.errors import TaskError
from lrtune.store import Database
from lrtune.store.tables import DatasetRow
from lrtune.wire.job import TaskSpec
from lrtune.wire.results import JobState
from tests.serving import KEY, served, slug
from tests.table_kinds import KINDS, A, B, N, Y, comma, framed, rows
from worker.digest import task_digest
from worker.loop import Worker
from worker.settings import Settings
from worker.tasks import prepare
from worker.tasks.supervised import Supervised

PLAIN = rows("a,b,y", A, B, Y)
PARTS = ["train"] * 30 + ["val"] * 10 + ["test"] * 8


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def url(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("db") / "lrtune.db"
    path.write_bytes(sqlite_template.read_bytes())
    return f"sqlite:///{path}"


@pytest.fixture(scope="module")
def service(url: str, data_dir: Path) -> Iterator[httpx.Client]:
    """A server and a worker with one data folder."""
    torch.set_num_threads(1)
    stop = threading.Event()
    with served(url, data_dir=data_dir) as client:
        settings = Settings(database_url=url, data_dir=data_dir, device="cpu", poll_seconds=0.01)
        working = threading.Thread(target=Worker(settings, stop).work)
        working.start()
        yield client
        stop.set()
        working.join()


def added(service: httpx.Client, name: str, content: bytes) -> dict[str, Any]:
    for known in (name, hashlib.sha256(content).hexdigest()):
        service.delete(f"/v1/datasets/{known}")
    answer = service.post("/v1/datasets", params={"name": name}, content=content)
    assert answer.status_code in (200, 201), answer.text
    found: dict[str, Any] = answer.json()
    return found


def asked(service: httpx.Client, dataset: str, *, metric: str | None = None, **params: Any) -> httpx.Response:
    job: dict[str, Any] = {"task": {"name": "tabular", "params": {"dataset": dataset, "batch_size": 16, **params}}}
    job |= {"horizon": {"steps": 3}, "budget": {"trials": 1}, "confirm": {"top": 1, "seeds": 1}}
    return service.post("/v1/jobs", json=job | ({"metric": {"name": metric}} if metric else {}))


def task_of(data_dir: Path, **params: Any) -> Supervised:
    task = prepare(TaskSpec(name="tabular", params=params), data_dir)
    assert isinstance(task, Supervised)
    return task


@pytest.mark.parametrize("case", KINDS)
def test_a_table_becomes_what_it_is_and_is_trained_on(service: httpx.Client, data_dir: Path, case: str) -> None:
    kind = KINDS[case]
    name = f"{list(KINDS).index(case)}{kind.name}"
    found = added(service, name, kind.content())
    names = [f"[{one['name']}]" if one["left_out"] else one["name"] for one in found["columns"]]
    assert dict(zip(names, (one["type"] for one in found["columns"]), strict=True)) == kind.columns
    assert all(one["why"] for one in found["columns"])
    for note in kind.notes:
        assert any(note in said for said in found["notes"]), found["notes"]
    answer = asked(service, name, metric=kind.metric, **kind.params)
    assert answer.status_code == 201, answer.text
    assert task_of(data_dir, dataset=found["file"], **kind.params).train[0].shape[1] == kind.inputs
    with Client(str(service.base_url), KEY) as client:
        done = client.wait(answer.json()["id"])
    assert done.state is JobState.SUCCEEDED, done.reason


REFUSED = {
    "as many classes as rows": (
        rows("a,y", A, [f"x{i}" for i in range(N)]),
        {},
        "/target",
        "'y' has 48 classes in 48 rows, too many",
    ),
    "numbers in a way that nobody writes": (
        rows("a;y", A, [f"{v:.3f}".replace(".", ":.") for v in A], mark=";"),
        {},
        "/target",
        "say how they are written (`decimal`",
    ),
    "one number far off": (
        rows("a,b,y", A, [1e300 if i == 7 else v for i, v in enumerate(B)], Y),
        {},
        "/dataset",
        "'b' cannot be trained on: its numbers are too large to be scaled (row 8 (line 9 of the file): 1e+300)",
    ),
    "a number that fits no float32 when scaled": (
        rows("a,b,y", A, [3e38 if i == 7 else v for i, v in enumerate(B)], Y),
        {},
        "/dataset",
        "'b' cannot be trained on: most of its numbers are below",
    ),
    "a target with a number far off": (
        rows("a,y", A, [1e300 if i == 7 else v for i, v in enumerate(B)]),
        {},
        "/target",
        "'y' cannot be learned",
    ),
    "a target that nobody has": (PLAIN, {"target": "price"}, "/target", "columns a, b, y, or a position from -3 to 2"),
    "a target of words to regress": (PLAIN, {"kind": "regression"}, "/target", "regression needs numbers"),
    "nothing to learn from": (rows(",y", range(N), Y), {}, "/target", "'y' is the only column that says something"),
    "too few rows": (rows("a,y", A[:8], Y[:8]), {}, "/dataset", "it has 8 rows with a target; 10 are needed"),
    "another separator": (PLAIN, {"separator": ";"}, "/dataset", "the table has one column"),
    "another encoding": (rows("a,y", A, ["ü"] * N), {"encoding": "ascii"}, "/dataset", "the file is not ascii"),
    "no such encoding": (PLAIN, {"encoding": "klingon"}, "/encoding", "found 'klingon'; accepted is an encoding"),
    "no such decimal mark": (PLAIN, {"decimal": ";"}, "/decimal", "accepted is '.' or ','"),
    "two separators": (PLAIN, {"separator": ",;"}, "/separator", "at most 1 character"),
    "a share of all": (PLAIN, {"validation": 1.5}, "/validation", "less than 1"),
    "two splits": (PLAIN, {"validation": {"last": 0.2, "groups": "a"}}, "/validation", "found last and groups"),
    "no split": (PLAIN, {"validation": {}}, "/validation", "accepted is one of dataset, column, last, groups"),
    "a split by nothing known": (PLAIN, {"validation": {"fold": 1}}, "/validation/fold", "unknown field"),
    "too much of the last": (PLAIN, {"validation": {"last": 2}}, "/validation/last", "less than 1"),
    "a split by a column that is not there": (
        PLAIN,
        {"validation": {"column": "split"}},
        "/validation/column",
        "accepted is one of the columns a, b, y",
    ),
    "a split by the target": (PLAIN, {"validation": {"column": "y"}}, "/validation/column", "'y' is the target"),
    "a split by a column that marks nothing": (
        rows("a,s,y", A, "uv" * 24, Y),
        {"validation": {"column": "s"}},
        "/validation/column",
        "'s' has 'u', 'v'; say with `value`",
    ),
    "a split by a value that is not there": (
        rows("a,s,y", A, "uv" * 24, Y),
        {"validation": {"column": "s", "value": "w"}},
        "/validation/value",
        "no row of 's' has 'w'; it has 'u', 'v'",
    ),
    "time in words": (
        rows("a,s,y", A, "uv" * 24, Y),
        {"validation": {"last": 0.2, "by": "s"}},
        "/validation/by",
        "order",
    ),
    "one group": (rows("a,s,y", A, "u" * N, Y), {"validation": {"groups": "s"}}, "/validation/groups", "two groups"),
    "groups that are not there": (PLAIN, {"validation": {"groups": "s"}}, "/validation/groups", "the columns a, b, y"),
    "a dataset that is not there": (
        PLAIN,
        {"validation": {"dataset": "b.csv"}},
        "/validation/dataset",
        "found no 'b.csv' in the data folder",
    ),
    "a metric of the other kind": (
        PLAIN,
        {"metric": "val_mae"},
        "metric",
        "the task tabular has val_loss, val_accuracy",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_table_that_cannot_be_learned_from_is_refused_before_anything_is_trained(
    service: httpx.Client, data_dir: Path, case: str
) -> None:
    content, params, field, words = REFUSED[case]
    added(service, "bad.csv", content)
    answer = asked(service, "bad.csv", **params)
    assert slug(answer) == "invalid"
    (one,) = answer.json()["errors"]
    assert one["pointer"] == ("/metric/name" if field == "metric" else f"/task/params{field}")
    assert words in one["detail"]
    if field in ("/target", "/dataset"):  # a worker that meets the file anyway says the same
        (data_dir / "own.csv").write_bytes(content)
        with pytest.raises(TaskError) as raised:
            task_of(data_dir, dataset="own.csv", **params)
        assert words in str(raised.value)


def test_what_a_job_says_of_its_file_is_done(service: httpx.Client, data_dir: Path) -> None:
    odd = rows(
        "a~b~y", comma(A), ["-999" if i % 2 else v for i, v in enumerate(comma(B))], ["gut", "schön"] * 24, mark="~"
    )
    found = added(service, "odd.csv", odd.decode().encode("cp1250"))
    params = {"decimal": ",", "separator": "~", "encoding": "cp1250", "missing": [-999, "gut"], "header": True}
    refused = asked(service, "odd.csv", **params)
    assert "'y' is the same in every row" in refused.json()["errors"][0]["detail"]
    params |= {"missing": "-999", "target": "y"}
    assert asked(service, "odd.csv", **params).status_code == 201
    task = task_of(data_dir, dataset=found["file"], **params)
    assert task.train[0].shape[1] == 3  # a, b and a flag for where b is missing
    assert set(np.unique(task.train[0][:, 2].sign())) == {-1, 1}


@pytest.mark.parametrize(
    ("missing", "said"), [(7, "7 of 48 rows have none, and are"), (1, "1 of 48 rows has none, and is")]
)
def test_the_plan_says_how_many_rows_are_left_out_for_want_of_a_target(
    service: httpx.Client, missing: int, said: str
) -> None:
    table = "a,y\n" + "".join(f"{i},{'' if i < missing else i % 2}\n" for i in range(48))
    added(service, "gaps.csv", table.encode())
    job = {"task": {"name": "tabular", "params": {"dataset": "gaps.csv"}}}
    planned = service.post("/v1/jobs", params={"validate_only": True}, json=job).json()["notes"]
    assert planned[1:] == [f"target: {said} left out"]


def test_the_target_that_nobody_named_is_named_in_the_plan_and_the_log(service: httpx.Client) -> None:
    added(service, "untold.csv", rows("a,Note", A, ["rare", *Y[1:]]))
    job = {"task": {"name": "tabular", "params": {"dataset": "untold.csv", "batch_size": 16}}}
    planned = service.post("/v1/jobs", params={"validate_only": True}, json=job).json()["notes"]
    assert planned[0] == "target: 'Note', the last column, learned by classification"
    assert "'rare' is a class of one row" in planned[1]
    with Client(str(service.base_url), KEY) as client:
        made = client.wait(asked(service, "untold.csv").json()["id"])
        logged = "\n".join(event.message for event in client.events(made.id))
        assert all(note in logged for note in planned)


def test_the_page_shows_what_was_decided_and_why(service: httpx.Client) -> None:
    added(
        service, "page.csv", rows(",a,b,<i>y</i>", range(N), A, ["oops" if i == 3 else v for i, v in enumerate(B)], Y)
    )
    with httpx.Client(base_url=service.base_url, timeout=60, trust_env=False) as browser:
        browser.post("/sign-in", data={"key": KEY})
        listed, page = browser.get("/datasets").text, browser.get("/datasets/page.csv").text
    assert ">page.csv</a>" in listed
    for said in ("an index without a name: left out", "row 4 (line 5 of the file)", "&lt;i&gt;y&lt;/i&gt;"):
        assert said in page


def test_a_target_that_looks_like_data_makes_no_header(data_dir: Path) -> None:
    (data_dir / "bare.csv").write_bytes(rows("", range(2, N + 2), A, B))
    assert len(task_of(data_dir, dataset="bare.csv", target="2", validation={"last": 0.5}).train[1]) == N // 2


# The split -----------------------------------------------------------------------------------------------------------


def sides(data_dir: Path, content: bytes, validation: Any, **params: Any) -> tuple[list[float], list[float]]:
    """The numbers of column `n`, whose rows are trained on and whose rows are validated on."""
    (data_dir / "split.csv").write_bytes(content)
    task = task_of(data_dir, dataset="split.csv", validation=validation, target="y", **params)
    names = np.arange(len(task.train[1]) + len(task.validation[1]))
    x = torch.cat([task.train[0][:, 0], task.validation[0][:, 0]]).numpy()
    order = np.argsort(np.argsort(x))
    return list(names[order][: len(task.train[1])]), list(names[order][len(task.train[1]) :])


def test_the_last_rows_are_the_last_in_time(data_dir: Path) -> None:
    n, moments = np.arange(N), [f"2024-01-{1 + i // 24:02} {i % 24:02}:00" for i in range(N)]
    by_place = sides(data_dir, rows("n,y", n, Y), {"last": 0.25})
    by_dates = sides(data_dir, rows("n,t,y", n[::-1], moments[::-1], Y), {"last": 0.25})
    by_column = sides(data_dir, rows("n,t,y", n, n[::-1], Y), {"last": 0.25, "by": "t"})
    assert by_place[1] == list(range(36, 48))
    assert sorted(by_dates[1]) == list(range(36, 48))
    assert by_column[1] == list(range(12))


@pytest.mark.parametrize(
    ("marks", "validation"),
    [
        (PARTS, {"column": "s"}),
        ([1 if part == "val" else 0 for part in PARTS[:40]] + [0] * 8, {"column": "s", "value": 1}),
        ([part == "val" for part in PARTS], {"column": "s", "value": True}),
        (["b" if part == "val" else "" for part in PARTS], {"column": "s", "value": "b"}),
    ],
)
def test_a_column_says_which_rows_to_measure_on(data_dir: Path, marks: list[object], validation: Any) -> None:
    n = np.arange(N)
    train, held = sides(data_dir, rows("n,s,y", n, marks, Y), validation)
    assert held == list(range(30, 40))
    assert train[:30] == list(range(30))
    assert len(train) == (30 if marks is PARTS else 38)  # what is for the test is for neither


def test_a_group_is_on_one_side(data_dir: Path) -> None:
    n, groups = np.arange(N), [f"patient {i // 4}" for i in range(N)]
    train, held = sides(data_dir, rows("n,g,y", n, groups, Y), {"groups": "g", "share": 0.25})
    assert {int(i) // 4 for i in train}.isdisjoint({int(i) // 4 for i in held})
    assert (len(train), len(held)) == (36, 12)


def test_another_dataset_is_measured_on(service: httpx.Client, data_dir: Path) -> None:
    train = added(service, "train.csv", rows("a,b,y", A, B, Y))
    other = added(service, "other.csv", rows("y,b,a,more", Y[:20], B[:20], A[:20] + 1, A[:20]))
    params = {"target": "y", "validation": {"dataset": "other.csv"}}
    answer = asked(service, "train.csv", **params)
    assert answer.status_code == 201, answer.text
    said = answer.json()["spec"]["task"]["params"]["validation"]
    assert said == {"dataset": other["file"]}
    assert slug(service.delete("/v1/datasets/other.csv")) == "dataset-in-use"
    with Client(str(service.base_url), KEY) as client:
        assert client.wait(answer.json()["id"]).state is JobState.SUCCEEDED
    task = task_of(data_dir, dataset=train["file"], target="y", validation=said)
    assert (len(task.train[1]), len(task.validation[1])) == (N, 20)
    assert task.validation[0].mean() > task.train[0][:20].mean()
    assert service.delete("/v1/datasets/other.csv").status_code == 204


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (rows("a,y", A, Y), "it has no column 'b', which the dataset to train on has"),
        (rows("a,b,y", A, ["x", "z"] * 24, Y), "'b' is numbers in the dataset to train on, and words here"),
        (rows("a,b,y", A, B, ["good", "worse"] * 24), "'y' has 'worse' there, which no row to train on has"),
        (rows("a,b,y", A, B, [""] * N), "its column 'y' has no values"),
    ],
)
def test_a_dataset_to_measure_on_must_be_like_the_other(service: httpx.Client, content: bytes, words: str) -> None:
    added(service, "train.csv", PLAIN)
    added(service, "unlike.csv", content)
    answer = asked(service, "train.csv", target="y", validation={"dataset": "unlike.csv"})
    (one,) = answer.json()["errors"]
    assert one == {"pointer": "/task/params/validation/dataset", "detail": one["detail"]}
    assert words in one["detail"]


# What was there before -----------------------------------------------------------------------------------------------


def test_a_dataset_that_an_older_version_described_is_read_anew_when_a_job_names_it(
    service: httpx.Client, url: str
) -> None:
    found = added(service, "old.csv", rows("a,y", A, [f"x{i}" for i in range(N)]))
    old = {"rows": N, "columns": [{"name": "a", "type": "number", "missing": 0, "distinct": N}], "header": True}
    with Database(url).write() as tx:
        tx.query(DatasetRow).filter(DatasetRow.id == found["id"]).update({"description": old})
    assert service.get("/v1/datasets/old.csv").json()["columns"][0]["why"] == ""
    assert service.get("/v1/datasets").status_code == 200
    assert "too many to learn" in asked(service, "old.csv").json()["errors"][0]["detail"]


def test_a_file_of_the_data_folder_is_looked_at_as_well(service: httpx.Client, data_dir: Path) -> None:
    (data_dir / "laid.csv").write_bytes(rows("a,y", A, [f"x{i}" for i in range(N)]))
    assert "too many to learn" in asked(service, "laid.csv").json()["errors"][0]["detail"]
    (data_dir / "laid.csv").write_bytes(PLAIN)
    assert asked(service, "laid.csv").status_code == 201


def test_the_same_content_is_the_same_training_data_however_it_is_packed(data_dir: Path) -> None:
    (data_dir / "one.csv").write_bytes(PLAIN)
    (data_dir / "two.csv.gz").write_bytes(gzip.compress(PLAIN))
    (data_dir / "three.parquet").write_bytes(framed(b=B))
    one, two, three = (
        task_of(data_dir, dataset=name, hidden=[4]) for name in ("one.csv", "two.csv.gz", "three.parquet")
    )
    for task in (two, three):
        assert all(torch.equal(mine, its) for mine, its in zip(one.train, task.train, strict=True))


def test_what_is_read_otherwise_shares_no_state(data_dir: Path) -> None:
    (data_dir / "read.csv").write_bytes(rows("a,b,y", A, B, Y))
    (data_dir / "same.csv").write_bytes(rows("a;b;y", A, B, Y, mark=";"))
    one, same, other = (
        task_digest(task_of(data_dir, **params))
        for params in (
            {"dataset": "read.csv"},
            {"dataset": "same.csv"},
            {"dataset": "read.csv", "missing": float(A[0])},
        )
    )
    assert one == same != other
