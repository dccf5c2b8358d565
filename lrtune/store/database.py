"""Connections and transactions, and all that differs between SQLite and PostgreSQL.

SQLite: WAL, a busy timeout, and BEGIN IMMEDIATE for writers, because a deferred transaction that reads and then writes
fails at once with BUSY_SNAPSHOT, whatever the timeout. Readers get a connection that cannot write.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector
from time import monotonic
from typing import Any

from sqlalchemy import ColumnElement, Dialect, Engine, create_engine, event, literal_column, make_url, select
from sqlalchemy.exc import DBAPIError, DisconnectionError, InterfaceError, OperationalError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import JSON, DateTime, Text, TypeDecorator, TypeEngine

from lrtune.printable import storable

AWAY = (OperationalError, InterfaceError)  # what a database raises that is not there
BUSY_SECONDS = 30
RESTED = 1.0  # seconds after which a connection is asked first
PRAGMAS = ("journal_mode=wal", "synchronous=normal", f"busy_timeout={BUSY_SECONDS * 1000}", "foreign_keys=on")


def in_a_line(error: BaseException | None) -> str:
    """What a database said as it failed, in a line and without the statement."""
    lines = str(error.orig if isinstance(error, DBAPIError) else error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


class Utc(TypeDecorator[datetime]):
    """An aware datetime in UTC; SQLite keeps it without the zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """To the database: in UTC."""
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """From the database: aware."""
        if value is None or value.tzinfo is not None:
            return value
        return value.replace(tzinfo=UTC)


class Words(TypeDecorator[str]):
    """A text of whatever somebody's code or files say: what no database keeps of it is written as it is escaped.

    A file name that is not UTF-8 has half a surrogate pair in Python, and an error that quotes it must not end whoever
    writes it down; PostgreSQL keeps no NUL.
    """

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:  # noqa: ARG002
        """To the database: whole characters, and no NUL."""
        return None if value is None else storable(value)


class JsonObject(TypeDecorator[dict[str, Any]]):
    """An object of JSON; an empty one where the row holds anything else, so that one such row is not the end of a list.

    Whoever reads it says what is wrong with it. PostgreSQL lets nothing in that is no JSON, SQLite does.
    """

    impl = JSON
    cache_ok = True

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], dict[str, Any]]:
        """From the database."""
        usual = super().result_processor(dialect, coltype)

        def read(value: Any) -> dict[str, Any]:
            try:
                found = usual(value) if usual else value
            except ValueError:
                return {}
            return found if isinstance(found, dict) else {}

        return read

    def coerce_compared_value(self, op: Any, value: Any) -> TypeEngine[Any]:
        """What its parts are compared with: as those of any JSON."""
        return self.impl_instance.coerce_compared_value(op, value)


class Parts(FunctionElement[Any]):
    """A column of such objects, to be asked for their parts within a query."""

    type = JSON()
    inherit_cache = True


@compiles(Parts)
def _as_it_is(element: Any, compiler: Any, **given: Any) -> str:
    return str(compiler.process(element.clauses, **given))


@compiles(Parts, "sqlite")
def _where_it_is_json(element: Any, compiler: Any, **given: Any) -> str:
    column = compiler.process(element.clauses, **given)
    return f"iif(json_valid({column}), {column}, '{{}}')"


class Database:
    """One database and its two kinds of transaction."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._writer = _engine(url, writes=True)
        self._reader = _engine(url, writes=False)

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction that may write: committed at the end, rolled back on an error."""
        with Session(self._writer, expire_on_commit=False) as tx, tx.begin():
            yield tx

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A transaction that cannot write, and never waits for a writer: all that it sees is there to stay."""
        with Session(self._reader, expire_on_commit=False, info={"committed": True}) as tx:
            yield tx

    @property
    def lite(self) -> bool:
        """Whether it is SQLite."""
        return self._reader.dialect.name == "sqlite"

    @property
    def errors(self) -> type[Exception]:
        """What the driver raises."""
        return self._reader.dialect.loaded_dbapi.Error

    def apart(self) -> Any:
        """A connection of the driver's that belongs to the caller, outside of every transaction."""
        pooled = self._reader.raw_connection()
        connection = pooled.driver_connection
        pooled.detach()
        return connection

    def dispose(self) -> None:
        """Close every connection."""
        self._writer.dispose()
        self._reader.dispose()


_LITE_TIME: ColumnElement[Any] = literal_column("strftime('%Y-%m-%d %H:%M:%f', 'now')")
_TIME: ColumnElement[Any] = literal_column("extract(epoch from clock_timestamp())")


def lite(tx: Session) -> bool:
    """Whether a transaction is SQLite's."""
    return tx.get_bind().dialect.name == "sqlite"


def clock(tx: Session) -> datetime:
    """The database's time, which decides about leases whatever the hosts' clocks say."""
    return as_time(tx.scalar(select(time(tx))))


def time(tx: Session) -> ColumnElement[Any]:
    """The same as a column, for who selects something else as well; `as_time` reads it."""
    return _LITE_TIME if lite(tx) else _TIME


def as_time(found: Any) -> datetime:
    """What `time` has found."""
    if isinstance(found, str):
        return datetime.fromisoformat(found).replace(tzinfo=UTC)
    return datetime.fromtimestamp(float(found), UTC)


def _engine(url: str, *, writes: bool) -> Engine:
    if make_url(url).get_backend_name() == "sqlite":
        return _sqlite(url, writes=writes)
    engine = create_engine(url, pool_size=10, max_overflow=30, connect_args={"connect_timeout": 5})
    _asked_after_a_rest(engine)
    return engine if writes else engine.execution_options(postgresql_readonly=True)


def _asked_after_a_rest(engine: Engine) -> None:
    """Ask a connection whether it is good before it is used, if it was not a moment ago: each asking is a way there.

    SQLAlchemy's own `pool_pre_ping` asks each time, which is one in six of what a report sends. One that the database
    has closed meanwhile, as it restarts, has its end to read, where nothing comes unasked: so no request fails by it.
    """

    @event.listens_for(engine, "checkin")
    def rests(_: object, record: Any) -> None:
        record.info["rests"] = monotonic()

    @event.listens_for(engine, "checkout")
    def asked(connection: Any, record: Any, _: object) -> None:
        try:
            if monotonic() - record.info.get("rests", monotonic()) > RESTED or _has_word(connection):
                engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            raise DisconnectionError from error


def _has_word(connection: Any) -> bool:
    """Whether something can be read of a connection that has asked nothing; the network is not asked."""
    with DefaultSelector() as selector:
        selector.register(connection.fileno(), EVENT_READ)
        return bool(selector.select(0))


def _lower(text: Any) -> Any:
    """SQLite's own knows ASCII alone."""
    return text.lower() if isinstance(text, str) else text


def _sqlite(url: str, *, writes: bool) -> Engine:
    if path := make_url(url).database:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url, connect_args={"timeout": BUSY_SECONDS, "isolation_level": None})
    pragmas = PRAGMAS if writes else (*PRAGMAS, "query_only=on")

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, record: object) -> None:  # noqa: ARG001
        for pragma in pragmas:
            connection.execute(f"pragma {pragma}")
        connection.create_function("lower", 1, _lower, deterministic=True)

    @event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine
