"""Connections to PostgreSQL that it has closed meanwhile, as a restart does."""

from collections.abc import Iterator

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from lrtune.store import Database, database

CLOSE = text(
    "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> :own"
)


@pytest.fixture
def opened(postgres_url: str) -> Iterator[Database]:
    """A database with a connection in its pool that is no good any more."""
    one, other = Database(postgres_url), Database(postgres_url)
    with one.read() as tx:
        tx.execute(text("select 1"))
    with other.write() as tx:
        tx.execute(CLOSE, {"own": tx.scalar(text("select pg_backend_pid()"))})
    yield one
    one.dispose()
    other.dispose()


def test_a_connection_that_has_rested_is_asked_before_it_is_used(
    opened: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "RESTED", 0.0)
    with opened.read() as tx:
        assert tx.scalar(text("select 1")) == 1


def test_one_that_was_used_a_moment_ago_is_found_out_by_its_use_and_no_second_time(
    opened: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "RESTED", 60.0)
    with pytest.raises(OperationalError), opened.read() as tx:
        tx.scalar(text("select 1"))
    with opened.read() as tx:
        assert tx.scalar(text("select 1")) == 1
