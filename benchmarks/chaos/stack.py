"""The whole service at work: a server behind a proxy, workers and loops, each started again whenever it has died.

Nothing here depends on how fast the machine is. Leases are so long that nobody loses one by being slow, and who is to
lose one loses it by `expire`: at once, and known to be a fault's work.
"""

import re
import threading
import time
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from datetime import timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path
from socket import create_server
from typing import TypeVar

from sqlalchemy import select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from benchmarks.chaos.databases import Postgres, Sqlite
from benchmarks.chaos.proxy import Proxy
from lrtune.store import Database
from lrtune.store.database import clock
from lrtune.store.tables import JobRow, TrialRow
from lrtune.wire.results import TrialState
from tests import processes

KEY, LEASE = "the-key-of-the-chaos", 90.0
ROOT = Path(__file__).resolve().parents[2]
WORKERS, LOOPS = 2, 2
T = TypeVar("T")


class Member:
    """One process, and how often it was started."""

    def __init__(self, name: str, start: Callable[[], BaseProcess]) -> None:
        self.name, self._start, self.starts = name, start, 1
        self.process = start()

    @property
    def pid(self) -> int:
        """Of the process that it is now."""
        return self.process.pid or 0

    def keep_up(self) -> int | None:
        """Start it again where it has died, and say who that was."""
        if self.process.is_alive():
            return None
        died, self.process = self.pid, self._start()
        self.starts += 1
        return died


class Stack:
    """Everything of one run, in one folder; what is written by the service lies on `disk`."""

    def __init__(
        self, database: Sqlite | Postgres, folder: Path, disk: Path, *, full: bool, host: str = "127.0.0.1"
    ) -> None:
        self.database, self.folder, self.disk, self.mounted, self._host = database, folder, disk, full, host
        self._direct, self._over = Database(database.direct), threading.Event()
        with create_server(("127.0.0.1", 0)) as probe:
            self._port = int(probe.getsockname()[1])
        self.proxy = Proxy(self._port, host=host)
        # Seconds in which nothing at all changes, until it is known how fast this machine is: after the first, whoever
        # holds something counts as gone, and after the second the whole run as stuck.
        self.silence, self.patience = 90.0, 900.0
        self.strangers: list[int] = []
        self.expired: set[str] = set()  # tokens of leases that a fault has ended
        self._dead: set[int] = set()  # processes of ours whose leases nobody will renew
        self.server = Member("server", self._serve)
        self.workers = [Member(f"worker-{n}", self._worker(n)) for n in range(WORKERS)]
        self.loops = [Member(f"loop-{n}", self._loop(n)) for n in range(LOOPS)]
        self._keeping = threading.Thread(target=self._keep_up, daemon=True)
        self._keeping.start()

    @property
    def members(self) -> list[Member]:
        """All processes of ours."""
        return [self.server, *self.workers, *self.loops]

    @property
    def states(self) -> Path:
        """Where the workers keep training states."""
        return self.disk / "states"

    def ask(self, verb: Callable[[Session], T], *, write: bool = False, seconds: float | None = None) -> T:
        """Do something in a transaction, past every proxy, and again while the database is away."""
        begin = self._direct.write if write else self._direct.read
        end = time.monotonic() + (self.patience if seconds is None else seconds)
        while True:
            try:
                with begin() as tx:
                    return verb(tx)
            except DBAPIError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.2)

    def expire(
        self, pids: Collection[int], *, meanwhile: Callable[[], object] = lambda: None, seconds: float | None = None
    ) -> dict[int, str]:
        """End the leases of these processes, by trial, and their turns to think, as if their time had passed.

        `meanwhile` happens before anybody sees it, and while none of them holds SQLite's lock.
        """

        def thought(tx: Session) -> None:
            thinkers = tx.scalars(select(JobRow.thinker).where(JobRow.thinker.is_not(None))).all()
            mine = [name for name in thinkers if name and is_of(name, pids)]
            tx.execute(update(JobRow).where(JobRow.thinker.in_(mine)).values(thinking_until=clock(tx)))

        def ended(tx: Session) -> dict[int, str]:
            tokens = held(tx, pids, lock=True)
            self.expired |= set(tokens.values())
            past = clock(tx) - timedelta(seconds=1)
            tx.execute(update(TrialRow).where(TrialRow.token.in_(tokens.values())).values(lease_until=past))
            meanwhile()
            return tokens

        self.ask(thought, write=True, seconds=seconds)
        return self.ask(ended, write=True, seconds=seconds)

    def start(self, name: str, program: str, *arguments: str) -> BaseProcess:
        """One more process that finds the service by its environment."""
        environment = {
            "LRTUNE_DATABASE_URL": self.database.url,
            "LRTUNE_API_KEY": KEY,
            "LRTUNE_URL": f"http://{self._host}:{self.proxy.port}",
            "LRTUNE_LEASE_SECONDS": f"{LEASE}",
            "LRTUNE_POLL_SECONDS": "0.2",
            "LRTUNE_STATE_DIR": str(self.states),
            "LRTUNE_DATA_DIR": str(self.disk / "data"),
            "LRTUNE_CREDENTIALS": str(self.folder / "credentials"),
            "PYTHONPATH": str(ROOT),
        }
        return processes.start(program, *arguments, environment=environment, log=self.folder / f"{name}.log")

    def said(self, last: int = 2000) -> str:
        """The ends of all logs."""
        return "\n".join(f"== {one.name}\n{one.read_text()[-last:]}" for one in sorted(self.folder.glob("*.log")))

    def close(self) -> None:
        """Kill everybody."""
        self._over.set()
        self._keeping.join()
        end([one.process for one in self.members])
        self.proxy.close()
        self._direct.dispose()
        self.database.close()

    def _keep_up(self) -> None:
        while not self._over.wait(0.2):
            self.database.keep_up()
            self._dead |= {died for each in self.members if (died := each.keep_up())}
            if self._dead:
                with suppress(DBAPIError):  # the database is away: the next time
                    self.expire(self._dead, seconds=0)
                    self._dead.clear()

    def _serve(self) -> BaseProcess:
        port = str(self._port)
        return self.start("server", "uvicorn", "--factory", "app.main:create_app", "--port", port)

    def _worker(self, number: int) -> Callable[[], BaseProcess]:
        return lambda: self.start(f"worker-{number}", "worker")

    def _loop(self, number: int) -> Callable[[], BaseProcess]:
        folder = str(self.folder / f"checkpoints-{number}")
        return lambda: self.start(f"loop-{number}", "benchmarks.chaos.loop", folder)


def held(tx: Session, pids: Collection[int], *, lock: bool = False) -> dict[int, str]:
    """The tokens of the leases that these processes have, by trial."""
    running = select(TrialRow.id, TrialRow.token, TrialRow.worker).where(TrialRow.state == TrialState.RUNNING)
    running = running.order_by(TrialRow.id).with_for_update() if lock else running
    return {trial: str(token) for trial, token, worker in tx.execute(running) if is_of(str(worker), pids)}


def is_of(worker: str, pids: Collection[int]) -> bool:
    """Whether a worker, or a loop, of this name is one of these processes."""
    found = re.search(r"-(\d+)(-[0-9a-f]{4})?$", worker)
    return found is not None and int(found[1]) in pids


def end(running: Iterable[BaseProcess]) -> None:
    """Kill processes, and wait for their end."""
    for each in running:
        with suppress(ProcessLookupError):
            each.kill()
        each.join()
