"""A command that trains a trial: started in a session of its own, listened to as long as it lives, and ended whole.

What it prints is printed as it comes, byte for byte, whatever its encoding and whether or not a line ever ends; the end
of it is kept for the job's log.
"""

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

AT_ONCE = 65_536  # bytes read at once, and kept of what a command has printed
TAIL_LINES, TAIL_CHARACTERS = 60, 3600  # of that for the job's log: torchrun says 2,000 of its own after an error
IDLE_SECONDS = 0.1  # without a word before a command that has ended has nothing more to say
UNSHOWN = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07]*\x07|[\x00-\x08\x0b-\x1f\x7f-\x9f]"
)  # colours, cursors, bells


class Command:
    """A command as it runs; `heard_at` is when it last printed something, on the monotonic clock."""

    def __init__(self, words: Sequence[str], environment: Mapping[str, str], directory: Path | None = None) -> None:
        """Start it, in a directory. Raises OSError where the system cannot."""
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

    def signal(self, number: int) -> None:
        """Send a signal to it and all that it has started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)

    def end(self) -> int:
        """Kill what is left of it; its exit code."""
        self.signal(signal.SIGKILL)
        code = self.process.wait()
        self._reader.join(timeout=5)
        return code

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
