"""The files that a job names are looked at before it is stored: what cannot be enough is refused, and nobody waits."""

import pkgutil
from pathlib import Path

import pytest
from sqlalchemy import text

from lrtune.store import Database
from tests.files import csv
from tests.serving import served

LANGUAGE = {"kind": "causal-lm", "model": "far/away", "dataset": "tiny.txt"}


@pytest.mark.parametrize(
    ("size", "params", "length"),
    [
        (254, {}, 128),
        (255, {}, None),  # a token a byte, and one at the end: nobody here knows that it will be fewer
        (254, {"max_length": 127}, None),
        (1022, {"max_length": 8192}, 512),  # of a model that nobody here knows
        (1023, {"max_length": 8192}, None),
        (98, {"model": "small"}, 50),
        (99, {"model": "small"}, None),
        (3, {"kind": "classification"}, None),
    ],
)
def test_a_text_that_has_no_two_blocks_for_any_tokenizer_is_refused_before_it_trains(
    sqlite_url: str, tmp_path: Path, size: int, params: dict[str, object], length: int | None
) -> None:
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "config.json").write_text('{"n_positions": 50}')
    (tmp_path / "tiny.txt").write_text("a" * size)
    with served(sqlite_url, data_dir=tmp_path) as service:
        answer = service.post("/v1/jobs", json={"task": {"name": "huggingface", "params": LANGUAGE | params}})
    if length is None:
        assert answer.status_code == 201
        return
    (wrong,) = answer.json()["errors"]
    assert wrong == {
        "pointer": "/task/params/dataset",
        "detail": f"it has {size} bytes, so at most {size + 1} tokens; needed are a block of {length} tokens "
        "to train on and one for validation; a smaller max_length makes them shorter",
    }


@pytest.mark.parametrize(
    ("task", "params", "reader"),
    [
        ("text", {"dataset": "a.txt", "validation": 0.001}, "app.text_checks.texts.measured"),
        ("tabular", {"dataset": "a.csv", "target": "kind"}, "app.table_checks.tables.understood"),
    ],
)
def test_others_write_while_a_file_is_read_that_a_job_names(
    sqlite_url: str, tmp_path: Path, task: str, params: dict[str, object], reader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.txt").write_text("to be or not to be\n" * 10_000)
    (tmp_path / "a.csv").write_bytes(csv())
    database, read, asked = Database(sqlite_url), pkgutil.resolve_name(reader), list[object]()

    def reading(*given: object, **options: object) -> object:
        with database.write() as tx:  # on SQLite it waits until nobody else writes, and then fails
            asked.append(tx.execute(text("delete from workers")))
        return read(*given, **options)

    monkeypatch.setattr(reader, reading)
    with served(sqlite_url, data_dir=tmp_path) as service:
        assert service.post("/v1/jobs", json={"task": {"name": task, "params": params}}).status_code == 201
    database.dispose()
    assert len(asked) == 1
