"""Thinking in a process beside the server, so that no request waits while a search or a pruner has Python's lock.

One such process serves all servers of this process, a thread for each of theirs that asks. It begins when something is
first to be thought about, begins anew when it has died or hangs, and ends with the process that began it, however that
ends. It is a program of its own, which reads from its standard input with which key it is asked, and writes where: so
it needs nothing of how the server was started, and hears of no signal to the server's group.
"""

import atexit
import gc
import json
import logging
import os
import secrets
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.managers import BaseManager
from typing import IO, Any, Concatenate, NamedTuple, ParamSpec, TypeVar, cast

from lrtune.errors import LrtuneError, Unavailable
from lrtune.store import Database

P = ParamSpec("P")
Found = TypeVar("Found")
NICER = 5  # answering goes first where cores are few
ANSWERING = 120.0  # seconds that a question may take
LEAVING = 5.0  # seconds that the end of a server waits for it
LOST = (EOFError, ConnectionError, FileNotFoundError)  # what asking raises where the process cannot be reached
DIED = "the process in which this server thinks ended twice; try again soon"
HUNG = "the process in which this server thinks did not answer in time; try again soon"
UNABLE = "the process in which this server thinks cannot be started; the server's log says why"
log = logging.getLogger("lrtune.server")


@dataclass(frozen=True, slots=True)
class Wrong:
    """What a call has raised, which is not what asking raises."""

    error: Exception


class Calls:
    """What can be asked of the process: it has a database for each address, and the models that are kept of jobs."""

    def __init__(self) -> None:
        self._databases, self._lock = dict[str, Database](), threading.Lock()

    def ask(self, url: str, call: Callable[..., Found], args: tuple[Any, ...], named: dict[str, Any]) -> Found | Wrong:
        """What comes of a call on a database, or what it raised; an error says in a note where it came up."""
        with self._lock:
            first = url not in self._databases
            database = self._databases.setdefault(url, Database(url)) if first else self._databases[url]
        try:
            return call(database, *args, **named)
        except LrtuneError as error:
            return Wrong(error)
        except Exception as error:
            error.add_note(traceback.format_exc())
            return Wrong(error)
        finally:
            if first:  # what it took is there for good, as in `main.py`; but for what is garbage by now
                gc.collect()
                gc.freeze()

    def leave(self, url: str) -> None:
        """Close the connections to a database."""
        with self._lock:
            database = self._databases.pop(url, None)
        if database is not None:
            database.dispose()


class _Manager(BaseManager):
    """The standard library's way to call another process from many threads."""


class _Process(NamedTuple):
    """The process that thinks, and what it is asked by."""

    process: "subprocess.Popen[str]"
    calls: Any


_Manager.register("Calls", Calls, exposed=("ask", "leave"))


class Beside:
    """A process beside the server, begun when it is first asked something, and anew when it has ended.

    One that has not answered after some seconds is ended: whoever had asked hears of it, the others ask another.
    """

    def __init__(self, seconds: float = ANSWERING) -> None:
        self.seconds = seconds
        self._lock = threading.Lock()
        self._running: _Process | None = None
        self._not_started = 0

    def think(
        self, database: Database, call: Callable[Concatenate[Database, P], Found], *args: P.args, **named: P.kwargs
    ) -> Found:
        """What comes of `call(database, *args, **named)` in that process. Raises what it raises, and Unavailable."""
        for _ in range(2):
            calls = self._calls()
            try:
                with self._bounded(calls):
                    found: Found | Wrong = calls.ask(database.url, call, args, named)
            except LOST:
                log.warning("the process in which this server thinks has ended: another begins")
                self._end(calls)
            else:
                if isinstance(found, Wrong):
                    raise found.error
                return found
        raise Unavailable(DIED)

    def leave(self, url: str) -> None:
        """Close what the process has of a database."""
        if running := self._running:
            try:
                with self._bounded(running.calls, LEAVING):
                    running.calls.leave(url)
            except (*LOST, Unavailable):
                self._end(running.calls)

    def end(self) -> None:
        """End the process, if there is one."""
        if running := self._running:
            self._end(running.calls)

    @contextmanager
    def _bounded(self, calls: Any, seconds: float | None = None) -> Iterator[None]:
        """End the process where it does not answer in time. Raises Unavailable then."""
        late = threading.Event()

        def end() -> None:
            late.set()
            self._end(calls)

        timer = threading.Timer(seconds or self.seconds, end)
        timer.daemon = True
        timer.start()
        try:
            yield
        except LOST:
            if late.is_set():
                self._end(calls)  # which waits until it has ended
                log.error("the process in which this server thinks did not answer in time, and was ended")
                raise Unavailable(HUNG) from None
            raise
        finally:
            timer.cancel()

    def _calls(self) -> Any:
        before = self._not_started
        with self._lock:
            if self._running is None:
                if self._not_started != before:  # whoever was waited for has tried it, as long as it takes
                    raise Unavailable(UNABLE)
                try:
                    self._running = _started(self.seconds)
                except (OSError, ValueError) as error:
                    self._not_started += 1
                    log.exception("the process in which this server thinks cannot be started")
                    raise Unavailable(UNABLE) from error
            return self._running.calls

    def _end(self, calls: Any) -> None:
        """End the process, unless that was done already and there is another."""
        with self._lock:
            if self._running is not None and self._running.calls is calls:
                process, self._running = self._running.process, None
                _stop(process)


_beside = Beside()
think, leave = _beside.think, _beside.leave


def _started(seconds: float) -> _Process:
    """The process, begun apart from this one's group: a signal to end comes before all requests are answered.

    Raises OSError and ValueError, also where it is not there after so many seconds.
    """
    key, known = secrets.token_hex(32), os.pathsep.join(path for path in sys.path if path)
    process = subprocess.Popen(
        [sys.executable, "-c", "from app.thinking import answer; answer()"],
        env=os.environ | {"PYTHONPATH": known},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    said, heard = cast("IO[str]", process.stdin), cast("IO[str]", process.stdout)
    late = threading.Timer(seconds, process.kill)
    late.daemon = True
    late.start()
    try:
        said.write(f"{key}\n")
        said.flush()
        manager = _Manager(json.loads(heard.readline()), bytes.fromhex(key))  # of one that has died there is nothing
        manager.connect()
        return _Process(process, manager.Calls())  # type: ignore[attr-defined]
    except BaseException:
        _stop(process)
        raise
    finally:
        late.cancel()


def _stop(process: "subprocess.Popen[str]") -> None:
    process.kill()
    with suppress(BrokenPipeError):
        process.communicate()


def answer() -> None:
    """Think for the process that began this one, as long as it is there, whatever signals tell it to end."""
    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, signal.SIG_IGN)
    os.nice(NICER)
    key = bytes.fromhex(sys.stdin.readline())
    # On Linux no file, so it matters not how long, full or tidied its TMPDIR is.
    address = f"\0lrtune-{secrets.token_hex(16)}" if sys.platform == "linux" else None
    server = _Manager(address, key).get_server()
    print(json.dumps(address or server.address), flush=True)
    os.dup2(2, 1)  # nobody reads on
    threading.Thread(target=_outlived, daemon=True).start()
    server.serve_forever()


def _outlived() -> None:
    sys.stdin.read()  # until whoever has the other end is gone
    os._exit(0)


atexit.register(_beside.end)
