"""On SQLite every process has its host's clock: a worker that is off says so, and claims nothing until it agrees."""

import logging
import os
import socket
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lrtune.store import Database, workers
from worker.clocks import LOOKS, wait_for_agreement
from worker.loop import Worker
from worker.settings import Settings

NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)
HOUR, SECOND = timedelta(hours=1), timedelta(seconds=1)


class Script(threading.Event):
    """A stop that waits for nothing: each wait is the next turn, and after `turns` of them it is set."""

    def __init__(self, turn: Callable[[int], object], turns: int = 200) -> None:
        super().__init__()
        self._turn, self._turns, self.waited = turn, turns, 0

    def wait(self, timeout: float | None = None) -> bool:
        self.waited += 1
        self._turn(self.waited)
        if self.waited >= self._turns:
            self.set()
        return self.is_set()


def judged(seen: dict[str, datetime], turn: Callable[[int], object] = lambda _: None) -> Script:
    """How long a worker waits whose clock says noon, while others write."""
    stop = Script(turn)
    wait_for_agreement(lambda: (NOON, dict(seen)), stop)
    return stop


def test_who_is_alone_or_agrees_does_not_wait() -> None:
    for seen in ({}, {"a": NOON - 15 * SECOND}, {"a": NOON + 3 * SECOND}, {"old": NOON - HOUR, "b": NOON}):
        assert judged(seen).waited == 0


def test_a_clock_behind_what_was_written_waits_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    seen = {"a": NOON + HOUR}
    stop = judged(seen, lambda turn: seen.update(a=NOON + SECOND) if turn == 50 else None)
    assert (stop.waited, stop.is_set()) == (50, False)
    (said,) = caplog.messages
    assert "says 2026-11-28 12:00:00 UTC, 3600 seconds behind what another worker" in said


def test_a_clock_ahead_of_somebody_who_lives_waits_for_as_long_as_that_one_lives(
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen = {"a": NOON - HOUR}
    stop = judged(seen, lambda turn: seen.update(a=NOON - HOUR + turn * SECOND) if turn <= 20 else None)
    assert stop.waited == 20 + 1 + LOOKS
    (said,) = caplog.messages
    assert "ahead of what another worker" in said


def test_a_database_that_nobody_has_touched_for_hours_is_no_clock(caplog: pytest.LogCaptureFixture) -> None:
    assert judged({"a": NOON - 9 * HOUR}).waited == LOOKS
    assert caplog.messages == []


@pytest.mark.parametrize(("off", "words"), [(-HOUR, "ahead of"), (HOUR, "behind")])
def test_a_worker_whose_clock_is_off_says_so_and_neither_signs_in_nor_claims(
    sqlite_url: str, tmp_path: Path, off: timedelta, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    database, now = Database(sqlite_url), datetime.now(UTC)

    def lives(turn: int) -> None:
        with database.write() as tx:
            workers.seen(tx, "a", job=None, trial=None, now=now + off + turn * SECOND)

    with database.write() as tx:
        workers.sign_in(tx, "a", host=socket.gethostname(), pid=os.getpid(), device="cpu", tasks=[], now=now + off)
    Worker(Settings(database_url=sqlite_url, data_dir=tmp_path), Script(lives, turns=5)).work()
    with database.read() as tx:
        found = workers.clocks(tx, host="")
    database.dispose()
    assert found is not None
    assert list(found[1]) == ["a"]
    assert [words in one for one in caplog.messages if "clock" in one] == [True]


def test_workers_of_this_host_that_have_died_are_no_clocks_and_postgresql_has_one_for_all(database: Database) -> None:
    with database.write() as tx:
        workers.sign_in(tx, "dead", host="here", pid=2**22 + 1, device="cpu", tasks=[])
        workers.sign_in(tx, "elsewhere", host="there", pid=2**22 + 1, device="cpu", tasks=[])
        found = workers.clocks(tx, host="here")
        lite = tx.get_bind().dialect.name == "sqlite"
    assert found is None if not lite else found is not None and list(found[1]) == ["elsewhere"]
