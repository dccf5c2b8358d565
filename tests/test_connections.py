"""Connections to PostgreSQL that it has closed meanwhile, as a restart does."""

import pytest
from sqlalchemy import text

from lrtune.store import Database, database
from tests.serving import served

CLOSE = text(  # and wait until they are
    "select pg_terminate_backend(pid, 60000) from pg_stat_activity "
    "where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'"
)


@pytest.mark.parametrize("rested", [0.0, 60.0])
def test_a_connection_that_was_closed_is_not_used_however_short_its_rest(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, rested: float
) -> None:
    monkeypatch.setattr(database, "RESTED", rested)
    one, other = Database(postgres_url), Database(postgres_url)
    for _ in range(2):
        with one.read() as tx:
            assert tx.scalar(text("select 1")) == 1
        with other.write() as tx:
            tx.execute(CLOSE)
    with one.read() as tx:
        assert tx.scalar(text("select 1")) == 1
    one.dispose()
    other.dispose()


def test_no_request_fails_by_connections_that_were_closed_before_it_came(postgres_url: str) -> None:
    other = Database(postgres_url)
    with served(postgres_url) as service:
        for _ in range(3):
            assert service.get("/v1/jobs").status_code == 200
            assert service.post("/v1/jobs", json={"task": "digits"}).status_code == 201
            with other.write() as tx:
                tx.execute(CLOSE)
        assert len(service.get("/v1/jobs").json()["items"]) == 3
    other.dispose()
