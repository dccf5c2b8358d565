"""A command that trains a trial: started in a session of its own, listened to as long as it lives, and ended whole.

What it prints is printed as it comes, byte for byte, whatever its encoding and whether or not a line ever ends; the end
of it is kept for the job's log.
"""

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

AT_ONCE = 65_536  # bytes read at once, and kept of what a command has printed
TAIL_LINES, TAIL_CHARACTERS = 60, 3600  # of that for the job's log: torchrun says 2,000 of its own after an error
IDLE_SECONDS = 0.1  # without a word before a command that has ended has nothing more to say
UNSHOWN = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07]*\x07|[\x00-\x08\x0b-\x1f\x7f-\x9f]"
)  # colours, cursors, bells


class Running(Protocol):
    """What is asked of a command that trains a trial; it may be several processes. `code` is known after its end."""

    code: int

    def alive(self, *, group: bool) -> bool:
        """Whether it runs, or with `group` any process that it has started and not given a session."""

    def gone(self) -> bool:
        """Whether it has ended, whatever it has left behind."""

    def signal(self, number: int) -> None:
        """Send a signal to it and all that it has started."""

    def silent(self) -> float:
        """For how many seconds nothing was heard of it."""

    def said(self) -> str:
        """The end of what it printed."""


class Command:
    """A command as it runs; `heard_at` is when it last printed something, on the monotonic clock.

    What it touches besides, to show that it lives, is `file`.
    """

    code = 0

    def __init__(
        self,
        words: Sequence[str],
        environment: Mapping[str, str],
        directory: Path | None = None,
        *,
        file: Path | None = None,
    ) -> None:
        """Start it, in a directory. Raises OSError where the system cannot."""
        self._file = file
        try:
            self.process = subprocess.Popen(  # noqa: S603 - the command is the user's own
                words,
                env=environment,
                cwd=directory,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except ValueError as error:  # a word that no system takes
            raise OSError(str(error)) from None
        self.heard_at = time.monotonic()
        self._kept = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def alive(self, *, group: bool) -> bool:
        """Whether it runs, or with `group` any process that it has started and not given a session."""
        if self.process.poll() is None:
            return True
        try:
            os.killpg(self.process.pid, 0)
        except (ProcessLookupError, PermissionError):
            return False
        return group

    def gone(self) -> bool:
        """Whether it has ended, whatever it has left behind."""
        return self.process.poll() is not None

    def silent(self) -> float:
        """For how many seconds it has neither printed anything nor touched its file."""
        printed = time.monotonic() - self.heard_at
        return printed if self._file is None else min(printed, max(0.0, time.time() - self._file.stat().st_mtime))

    def signal(self, number: int) -> None:
        """Send a signal to it and all that it has started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)

    def end(self) -> int:
        """Kill what is left of it; its exit code."""
        self.signal(signal.SIGKILL)
        self.code = self.process.wait()
        self._reader.join(timeout=5)
        return self.code

    def said(self) -> str:
        """The end of what it printed, as a terminal would show it: of a line that was written over, the last."""
        lines = [line.rstrip().rpartition("\r")[2] for line in self._kept.decode(errors="replace").split("\n")]
        shown = [UNSHOWN.sub("", line)[:400] for line in lines]
        return "\n".join([line for line in shown if line.strip()][-TAIL_LINES:])[-TAIL_CHARACTERS:].strip()

    def _read(self) -> None:
        """Print what it prints, until it has ended: what outlives it may hold its output open for ever."""
        assert self.process.stdout is not None  # noqa: S101 - for mypy
        with self.process.stdout as output:
            while True:
                if not select.select([output], [], [], IDLE_SECONDS)[0]:
                    if self.process.returncode is not None:
                        return
                elif chunk := os.read(output.fileno(), AT_ONCE):
                    self.heard_at, self._kept = time.monotonic(), (self._kept + chunk)[-AT_ONCE:]
                    _show(chunk)
                else:
                    return


@contextlib.contextmanager
def handed(written: Mapping[str, Any]) -> Iterator[Path]:
    """The file in which a command finds its trial.

    It is locked as long as this process lives and wants the command to run: so that all that it has started, in
    whatever session, learns of the end of either.
    """
    import fcntl  # which not every system has that has the other commands

    with tempfile.TemporaryDirectory(prefix="lrtune-") as folder:
        file = Path(folder) / "trial.json"
        file.touch(mode=0o600)
        file.write_text(json.dumps(written))
        with file.open() as locked:
            fcntl.flock(locked, fcntl.LOCK_EX)
            try:
                yield file
            finally:
                file.unlink()  # before the lock goes: what is left of the command must not think us killed


@contextlib.contextmanager
def launched(
    words: Sequence[str], environment: Mapping[str, str], directory: Path | None, written: Mapping[str, Any]
) -> Iterator[Running]:
    """A command with its trial in a file, ended with all it has left. Raises OSError where it cannot be started.

    `environment` comes on top of this process's own.
    """
    with handed(written) as file:
        run = Command(words, os.environ | environment | {"LRTUNE_TRIAL": str(file)}, directory, file=file)
        try:
            yield run
        finally:
            run.end()


Launch = Callable[
    [Sequence[str], Mapping[str, str], Path | None, Mapping[str, Any]], AbstractContextManager[Running]
]  # as `launched`


def ended(code: int) -> str:
    """An exit code in words."""
    memory = ", as where there is no more memory" if code in (-signal.SIGKILL, 128 + signal.SIGKILL) else ""
    if code >= 0:
        return f"the command ended with exit code {code}{memory}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"the command was ended by {name}{memory}"


def _show(chunk: bytes) -> None:
    """Print it; where nobody reads that any more, the command goes on unseen."""
    with contextlib.suppress(OSError, ValueError):
        if (raw := getattr(sys.stdout, "buffer", None)) is None:
            sys.stdout.write(chunk.decode(errors="replace"))
        else:
            raw.write(chunk)
        sys.stdout.flush()
