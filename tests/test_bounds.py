"""Nothing that a client sends costs the server much more than it cost the client: answers, memory, space."""

import io
import tracemalloc
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import numpy as np
import pytest

from app import streams
from lrtune.errors import UnusableFile
from lrtune.uploads import arrays
from lrtune.wire import external
from tests.external import submit, take, tell
from tests.serving import served


@pytest.fixture(scope="module")
def shared(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """One server for all of these."""
    folder = tmp_path_factory.mktemp("bounds")
    (folder / "lrtune.db").write_bytes(sqlite_template.read_bytes())
    with served(f"sqlite:///{folder / 'lrtune.db'}", data_dir=folder / "data") as client:
        yield client


@pytest.mark.parametrize(
    "body",
    [
        {"task": "digits", **{f"x{number}": 0 for number in range(40_000)}},
        {"task": {"name": "digits", "params": {f"x{number}": 0 for number in range(40_000)}}},
        {"task": "digits", "optimizers": [{"name": "adam", f"x{number}": 0} for number in range(16)]},
        {"task": "digits", "tags": {f"k{number}": 7 for number in range(40_000)}},
        {"task": "digits", "schedules": [7] * 40_000},
        {"task": "digits", "x" * 600_000: 7},
        {"task": "external", "warm_start": ["x" * 400_000]},
    ],
    ids=["fields", "parameters", "few", "tags", "items", "a long name", "a long text"],
)
def test_an_answer_to_very_many_errors_is_short_and_says_how_many_there_are(
    shared: httpx.Client, body: dict[str, object]
) -> None:
    answer = shared.post("/v1/jobs", json=body)
    assert answer.status_code == 422
    assert len(answer.content) < 50_000
    errors = answer.json()["errors"]
    assert 1 <= len(errors) <= 51
    if len(errors) == 51:
        assert errors[-1]["detail"].startswith("and ")
        assert errors[-1]["detail"].endswith(" more")
        assert "more)" in answer.json()["detail"]


def test_the_errors_that_are_not_listed_are_counted(shared: httpx.Client) -> None:
    answer = shared.post("/v1/jobs", json={"task": "digits", **{f"x{number}": 0 for number in range(1234)}}).json()
    assert answer["errors"][-1] == {"pointer": "", "detail": "and 1184 more"}
    assert "(and 1233 more)" in answer["detail"]


def test_a_loop_shows_life_within_an_hour(shared: httpx.Client) -> None:
    job = submit(shared)
    answer = shared.post(f"/v1/jobs/{job}/trials", json={"lease_seconds": 86_400})
    assert answer.status_code == 422
    assert answer.json()["errors"] == [
        {
            "pointer": "/lease_seconds",
            "detail": "found 86400 seconds; accepted is at most 3600: a held trial must show life, and a report or an "
            "empty batch does",
        }
    ]
    assert take(shared, job, lease_seconds=3600)["lease_seconds"] == 3600


def test_beyond_very_many_reports_only_those_that_were_asked_for_are_kept(
    shared: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.reporting.MOST_REPORTS", 30)
    job = submit(shared, horizon={"steps": 1000}, search={"pruner": {"name": "none"}})
    held = take(shared, job)
    for first in (1, 26, 400):
        reports = [{"step": step, "metrics": {"val_loss": 1.0}} for step in range(first, first + 25)]
        assert tell(shared, job, held, "reports", reports=reports).json()["decision"] == "continue"
    known = shared.get(f"/v1/jobs/{job}/trials/{held['trial']['number']}").json()["reports"]
    asked = {step for step in held["report_at"] if 400 <= step < 425}
    assert asked
    assert {one["step"] for one in known} == {*range(1, 31), *asked, *(one for one in held["report_at"] if one <= 50)}
    assert external.MOST_REPORTS == 10_000


def test_datasets_are_listed_in_short(shared: httpx.Client) -> None:
    names, row = ",".join(f"c{number}" for number in range(300)), ",".join("1" * 300)
    wide = "\n".join([names, *[row] * 30]).encode()
    made = shared.post("/v1/datasets", params={"name": "wide.csv"}, content=wide).json()
    (listed,) = shared.get("/v1/datasets").json()["items"]
    assert listed == {
        **{name: made[name] for name in ("id", "name", "owner", "kind", "rows", "bytes", "file", "created_at")},
        "columns": 300,
        "jobs": 0,
    }
    assert len(shared.get(f"/v1/datasets/{made['id']}").json()["columns"]) == 300


def _labels(y: np.ndarray) -> bytes:
    x = np.arange(16, dtype=np.uint8).reshape(4, 2, 2)
    file = io.BytesIO()
    np.savez_compressed(file, x=x, y=y)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (lambda: _labels(np.zeros(20_000_000, dtype=np.uint8)), "y has 20000000 labels; at most 4000000 are accepted"),
        (lambda: _labels(np.zeros((100, 2_000_000), dtype=np.uint8)), "takes 200000128 bytes; labels of at most"),
        (lambda: _wide(), "an example of x has 25000000 values; at most 16777216 are accepted"),
    ],
    ids=["many labels", "wide labels", "wide examples"],
)
def test_an_npz_file_that_unpacks_to_far_more_is_refused_before_it_is_held(
    tmp_path: Path, content: object, words: str
) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(content())  # type: ignore[operator]
    assert path.stat().st_size < 400_000
    tracemalloc.start()
    try:
        with pytest.raises(UnusableFile, match=words):
            arrays.of_npz(path, largest=1 << 40)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


def _wide() -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, x=np.zeros((2, 25_000_000), dtype=np.uint8), y=np.array([0, 1]))
    return file.getvalue()


def test_event_streams_have_a_bound_and_those_that_end_make_room(
    shared: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "MOST", 2)
    job = submit(shared)
    path, kind = f"/v1/jobs/{job}/events", {"Accept": "text/event-stream"}
    with ExitStack() as both:
        lines = [both.enter_context(shared.stream("GET", path, headers=kind)).iter_lines() for _ in range(2)]
        assert [next(one).startswith("event: ") for one in lines] == [True, True]
        refused = shared.get(path, headers=kind)
        assert (refused.status_code, "retry-after" in refused.headers) == (503, True)
        assert "2 event streams are open" in refused.json()["detail"]
        assert shared.get(path).status_code == 200, "pages of the log are read as ever"
        assert shared.post(f"/v1/jobs/{job}/cancel").status_code == 202
        assert all(any("cancelled" in line for line in one) for one in lines), "they go on to their end"
    assert shared.get(path, headers=kind).status_code == 200


def test_a_loop_holds_a_bounded_number_of_trials_and_others_go_on(
    shared: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.external.MOST_HELD", 2)
    job = submit(shared)
    held = [take(shared, job, worker="greedy") for _ in range(2)]
    refused = shared.post(f"/v1/jobs/{job}/trials", json={"worker": "greedy"})
    assert (refused.status_code, refused.json()["type"]) == (409, "/problems/holds-too-many")
    assert refused.json()["detail"] == "'greedy' holds 2 trials of this job, which is as many as one may"
    assert tell(shared, job, held[0], "finish", state="waiting").status_code == 200
    assert take(shared, job, worker="greedy")["trial"]["number"] >= 0
