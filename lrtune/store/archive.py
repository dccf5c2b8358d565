"""All rows of a database, out and in again, in a form that both databases read: JSON, one row to a line.

The columns are those that are there, not those of this code, so that an archive of an older release can be loaded into
its own schema and be brought up to date by the migrations, none of which takes a table away.
"""

import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    Boolean,
    Connection,
    DateTime,
    MetaData,
    Table,
    create_engine,
    delete,
    insert,
    make_url,
    null,
    select,
    text,
)
from sqlalchemy import event as events
from sqlalchemy.pool import NullPool

from lrtune.errors import Conflict
from lrtune.store.tables import Base

AT_ONCE = 500  # rows
SEEDED = {"shares"}  # tables that have a row from the start
LEFT_OUT = ("workers",)  # who works will sign in again


def tables(connection: Connection) -> list[Table]:
    """Our tables of a database, which others may share, each after those that it refers to."""
    found = MetaData()
    found.reflect(connection, only=lambda name, _: name in Base.metadata.tables)
    return [table for table in found.sorted_tables if table.name not in LEFT_OUT]


def connected(url: str) -> Connection:
    """A connection whose transaction sees the database as it is at one moment, on SQLite without stopping a writer."""
    lite = make_url(url).get_backend_name() == "sqlite"
    engine = create_engine(url, poolclass=NullPool, isolation_level=None if lite else "REPEATABLE READ")
    if lite:
        # The driver begins a transaction only at the first write; a reader is to have one, too.
        events.listen(engine, "connect", lambda raw, _: setattr(raw, "isolation_level", None))
        events.listen(engine, "begin", lambda begun: begun.exec_driver_sql("BEGIN"))
    return engine.connect()


def rows(connection: Connection, table: Table) -> Iterator[str]:
    """Every row of a table, as a line of JSON. Raises Conflict where one holds a text in place of JSON."""
    found = connection.execution_options(yield_per=AT_ONCE).execute(select(table).order_by(*table.primary_key))
    try:
        for row in found.mappings():
            yield json.dumps(dict(row), default=_plain)
    except json.JSONDecodeError as error:
        mend = "; `lrtune list` names the jobs that cannot be read, and `lrtune delete` forgets them"
        raise Conflict(f"the table {table.name} has a damaged row ({error})" + mend * (table.name == "jobs")) from None


def load(connection: Connection, table: Table, lines: Iterable[bytes]) -> int:
    """Put rows into a table in place of what a migration put there; how many there were."""
    connection.execute(delete(table))
    count, waiting = 0, list[dict[str, Any]]()
    for line in lines:
        waiting.append(_read(table, json.loads(line)))
        count += 1
        if len(waiting) == AT_ONCE:
            connection.execute(insert(table), waiting)
            waiting = []
    if waiting:
        connection.execute(insert(table), waiting)
    return count


def count_on(connection: Connection, table: Table) -> None:
    """Let PostgreSQL number further rows after those that were brought with their numbers."""
    keys = list(table.primary_key)
    if connection.dialect.name != "postgresql" or len(keys) != 1:
        return
    name, column = table.name, keys[0].name
    if connection.scalar(text("select pg_get_serial_sequence(:name, :column)"), {"name": name, "column": column}):
        last = f"(select coalesce(max({column}), 0) + 1 from {name})"  # noqa: S608 - names of our own schema
        connection.execute(text(f"select setval(pg_get_serial_sequence('{name}', '{column}'), {last}, false)"))


def is_empty(connection: Connection) -> bool:
    """Whether no table has a row, but for those that a migration puts there."""
    found = (table for table in tables(connection) if table.name not in SEEDED)
    return not any(connection.execute(select(table).limit(1)).first() for table in found)


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).astimezone(UTC).isoformat()
    raise TypeError(f"a column holds {type(value).__name__}, which no archive has a form for")


def _read(table: Table, row: dict[str, Any]) -> dict[str, Any]:
    """A row as this database takes it: times and truths are text and numbers in the other one's."""
    for column in table.columns:
        value = row.get(column.name)
        if value is None:
            if isinstance(column.type, JSON):
                row[column.name] = null() if column.nullable else JSON.NULL
        elif isinstance(column.type, DateTime):
            at = datetime.fromisoformat(value)
            row[column.name] = at if column.type.timezone else at.replace(tzinfo=None)
        elif isinstance(column.type, Boolean):
            row[column.name] = bool(value)
    return row
