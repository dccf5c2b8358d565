"""What there was before there were people belongs to `admin`; and the way back, where names were one per owner."""

from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import create_engine, text

import migrations
from lrtune.errors import IdempotencyKeyReused
from lrtune.store import Database, datasets, jobs
from lrtune.wire.datasets import Description, Kind
from lrtune.wire.job import AdmittedJob, Horizon, Objective

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
SPEC = AdmittedJob(
    task="digits", metric=Objective(name="val_loss", goal="minimize", range=(0.0, None)), horizon=Horizon(steps=40)
)
ONE, OTHER = "1" * 64, "2" * 64


def heard(url: str, query: str) -> list[tuple[Any, ...]]:
    engine = create_engine(url)
    with engine.connect() as connection:
        found = [tuple(row) for row in connection.execute(text(query))]
    engine.dispose()
    return found


def upload(database: Database, owner: str, digest: str, name: str = "wine.csv") -> None:
    with database.write() as tx:
        said = Description(rows=3)
        datasets.add(tx, said, digest=digest, name=name, kind=Kind.CSV, size=9, owner=owner, put=len)


def test_an_idempotency_key_and_a_name_of_a_dataset_are_ones_own(database: Database) -> None:
    made = []
    for owner in ("ada", "bob", "ada"):
        with database.write() as tx:
            made.append(jobs.create(tx, SPEC, owner=owner, idempotency_key="mine"))
    assert [new for _, new in made] == [True, True, False]
    assert [job.owner for job, _ in made] == ["ada", "bob", "ada"]
    with pytest.raises(IdempotencyKeyReused), database.write() as tx:
        jobs.create(tx, SPEC.model_copy(update={"name": "another"}), owner="bob", idempotency_key="mine")
    for owner, digest in (("ada", ONE), ("bob", ONE), ("eve", OTHER)):
        upload(database, owner, digest)
    assert len(heard(database.url, "select * from datasets")) == 3


def test_what_was_there_belongs_to_admin(database_url: str) -> None:
    migrations.downgrade(database_url, "0016")
    engine = create_engine(database_url)
    with engine.begin() as connection:
        for table, columns, values in (
            ("jobs", "id, state, reason, task, spec, digest, events", "'job-1', 'queued', '', 'digits', '{}', '', 0"),
            ("datasets", "id, name, kind, bytes, description", "'1', 'wine.csv', 'csv', 9, '{}'"),
        ):
            words = f"insert into {table} ({columns}, created_at) values ({values}, '2026-01-01 12:00:00')"
            connection.execute(text(words))
    engine.dispose()
    migrations.upgrade(database_url)
    assert heard(database_url, "select owner from jobs union all select owner from datasets") == [("admin",)] * 2


def test_on_the_way_down_names_are_one_for_all_again(database: Database) -> None:
    for owner in ("ada", "bob"):
        with database.write() as tx:
            jobs.create(tx, SPEC, owner=owner, idempotency_key="mine")
    for owner, digest in (("ada", ONE), ("bob", ONE), ("eve", OTHER)):
        upload(database, owner, digest)
    database.dispose()
    migrations.downgrade(database.url, "0016")
    keys = heard(database.url, "select idempotency_key from jobs order by seq")
    assert keys == [("mine",), (None,)]
    kept = heard(database.url, "select id, name from datasets order by seq")
    assert kept == [(ONE, "wine.csv"), (OTHER, f"{OTHER[:32]}.csv")]
    migrations.upgrade(database.url)
