"""Thinking in a process beside the server, so that no request waits while a search or a pruner has Python's lock.

One such process serves all servers of this process, a thread for each of theirs that asks. It begins when something is
first to be thought about, begins anew when it has died, and ends with the process that began it, however that ends.
"""

import atexit
import logging
import os
import secrets
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import connection, get_context, parent_process, resource_tracker
from multiprocessing.managers import BaseManager
from typing import Any, Concatenate, ParamSpec, TypeVar

from lrtune.errors import LrtuneError, Unavailable
from lrtune.store import Database

P = ParamSpec("P")
Found = TypeVar("Found")
ENDING = (signal.SIGINT, signal.SIGTERM)
NICER = 5  # answering goes first where cores are few
LOST = (EOFError, ConnectionError, FileNotFoundError)  # what asking raises where the process cannot be reached
DIED = "the process in which this server thinks ended twice; try again soon"
UNABLE = "the process in which this server thinks cannot be started; the server's log says why"
log = logging.getLogger("lrtune.server")


@dataclass(frozen=True, slots=True)
class Wrong:
    """What a call has raised, so that it is told apart from what asking raises."""

    error: Exception


class Desk:
    """What is asked of the process: it has a database for each address, and the models that are kept of jobs."""

    def __init__(self) -> None:
        self._databases, self._lock = dict[str, Database](), threading.Lock()

    def ask(self, url: str, call: Callable[..., Found], args: tuple[Any, ...], named: dict[str, Any]) -> Found | Wrong:
        """What comes of a call on a database, or what it raised; an error says in a note where it came up."""
        with self._lock:
            database = self._databases.get(url) or self._databases.setdefault(url, Database(url))
        try:
            return call(database, *args, **named)
        except LrtuneError as error:
            return Wrong(error)
        except Exception as error:
            error.add_note(traceback.format_exc())
            return Wrong(error)

    def leave(self, url: str) -> None:
        """Close the connections to a database."""
        with self._lock:
            database = self._databases.pop(url, None)
        if database is not None:
            database.dispose()


class _Process(BaseManager):
    """The process, as the standard library makes one that answers to many threads."""


_Process.register("Desk", Desk, exposed=("ask", "leave"))
_lock = threading.Lock()
_running: tuple[_Process, Any] | None = None


def think(
    database: Database, call: Callable[Concatenate[Database, P], Found], *args: P.args, **named: P.kwargs
) -> Found:
    """What comes of `call(database, *args, **named)` in the process beside. Raises what it raises, and Unavailable."""
    for _ in range(2):
        desk = None
        try:
            desk = _desk()
            found: Found | Wrong = desk.ask(database.url, call, args, named)
        except LOST:
            _end(desk)
        else:
            if isinstance(found, Wrong):
                raise found.error
            return found
    raise Unavailable(DIED)


def leave(url: str) -> None:
    """Close what the process has of a database."""
    if running := _running:
        try:
            running[1].leave(url)
        except LOST:
            _end(running[1])


def _desk() -> Any:
    global _running
    with _lock:
        if _running is None:
            # The process is born without these signals: a group that is told to end still answers what it was asked.
            resource_tracker.ensure_running()  # which else is begun with it, and lets the signals through
            before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
            try:
                process = _Process(_address(), ctx=get_context("spawn"))
                process.start(_settle_in)
                _running = process, process.Desk()  # type: ignore[attr-defined]
            except OSError as error:
                log.exception("the process in which this server thinks cannot be started")
                raise Unavailable(UNABLE) from error
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return _running[1]


def _address() -> str | None:
    """Where the process is asked: on Linux no file, so it matters not how long, full or tidied its TMPDIR is."""
    return f"\0lrtune-{secrets.token_hex(16)}" if sys.platform == "linux" else None


def _end(desk: Any) -> None:
    """End the process, unless that was done already and there is another."""
    global _running
    with _lock:
        if _running is not None and _running[1] is desk:
            process, _running = _running[0], None
            process.shutdown()


def _settle_in() -> None:
    """End with the process that began this one, and not by the signals that tell a server to end its requests first."""
    for one in ENDING:
        signal.signal(one, signal.SIG_IGN)
    os.nice(NICER)
    threading.Thread(target=_outlived, daemon=True).start()


def _outlived() -> None:
    if parent := parent_process():
        connection.wait([parent.sentinel])
    os._exit(0)


@atexit.register
def _over() -> None:
    if running := _running:
        _end(running[1])
