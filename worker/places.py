"""A command that is several processes: so many at each of a worker's places, a node to them, as under torchrun.

The first place has the lease and asks the others for what it needs to know (`worker/gang.py`); where one process fails,
all are ended, and the command is started again as any other is.
"""

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from lrtune.command import Command, Running, handed

FAREWELL = 15.0  # seconds that the others have to end after one has failed: longer than the first takes to say why


@dataclass(frozen=True, slots=True)
class Asked:
    """What is started at each place, and where its processes meet. `written` is what they read of their trial."""

    words: Sequence[str]
    environment: Mapping[str, str]
    directory: Path | None
    written: Mapping[str, Any] = field(repr=False)  # it has a key
    nodes: int
    processes: int
    meeting: tuple[str, int]

    def ranks(self, node: int, local: int) -> dict[str, str]:
        """What a process finds out about itself, by the names that torchrun has for it."""
        host, port = self.meeting
        numbers = {
            "RANK": node * self.processes + local,
            "LOCAL_RANK": local,
            "NODE_RANK": node,
            "WORLD_SIZE": self.nodes * self.processes,
            "LOCAL_WORLD_SIZE": self.processes,
            "MASTER_PORT": port,
        }
        return {"MASTER_ADDR": host, **{name: str(number) for name, number in numbers.items()}}


@dataclass(frozen=True, slots=True)
class Look:
    """How the processes of a place are: their exit codes, whether anything lives, for how long they are silent."""

    codes: Sequence[int | None]
    alive: bool
    silent: float


class Place(Protocol):
    """The processes of a command at one place."""

    def look(self) -> Look:
        """How they are, or were a moment ago. Raises OSError where they could not be started, Died with the place."""

    def signal(self, number: int) -> None:
        """Send a signal to all."""

    def end(self) -> list[tuple[int, str]]:
        """Kill what is left; the exit code of each, and the end of what it printed."""


class Processes:
    """The processes at the place of this process."""

    def __init__(self, asked: Asked, node: int) -> None:
        """Start them. Raises OSError where the system cannot."""
        self._commands: list[Command] = []
        with ExitStack() as opened:
            file = opened.enter_context(handed({**asked.written, "node": node}))
            shared = os.environ | asked.environment | {"LRTUNE_TRIAL": str(file)}
            for local in range(asked.processes):
                one = Command(asked.words, shared | asked.ranks(node, local), asked.directory, file=file)
                opened.callback(one.end)
                self._commands.append(one)
            self._opened = opened.pop_all()

    def look(self) -> Look:
        """How they are."""
        codes = [one.process.poll() for one in self._commands]
        alive = any(one.alive(group=True) for one in self._commands)
        return Look(codes, alive, min(one.silent() for one in self._commands))

    def signal(self, number: int) -> None:
        """Send a signal to all, and to what they have started."""
        for one in self._commands:
            one.signal(number)

    def end(self) -> list[tuple[int, str]]:
        """Kill what is left; the exit code of each, and the end of what it printed."""
        self._opened.close()
        return [(one.code, one.said()) for one in self._commands]


class Several:
    """The processes of all places as one command; its exit code is that of the first that failed."""

    def __init__(self, places: Sequence[Place]) -> None:
        self.code, self._places = 0, places
        self._looks: list[Look] = []
        self._failed: int | None = None  # whose rank
        self._asked = False  # to end: who does is no failure, and whoever asked sees to the rest
        self._tail, self._kill_at = "", 0.0

    def alive(self, *, group: bool) -> bool:
        """Whether any of them runs; where one has failed the others are asked to end, and then made to."""
        self._looks = [place.look() for place in self._places]
        codes = [code for look in self._looks for code in look.codes]
        if self._failed is not None and time.monotonic() > self._kill_at:
            self._send(signal.SIGKILL)
        elif self._failed is None and any(codes) and not self._asked:
            self._failed, self.code = next((rank, code) for rank, code in enumerate(codes) if code)
            self._kill_at = time.monotonic() + FAREWELL
            self._send(signal.SIGTERM)
        return None in codes or (group and any(look.alive for look in self._looks))

    def gone(self) -> bool:
        """Whether all have ended."""
        return all(code is not None for look in self._looks for code in look.codes)

    def signal(self, number: int) -> None:
        """Send a signal to all."""
        self._asked = True
        self._send(number)

    def silent(self) -> float:
        """For how many seconds nothing was heard of any."""
        return min((look.silent for look in self._looks), default=0.0)

    def said(self) -> str:
        """The end of what the first that failed has printed, or else the first process."""
        return self._tail

    def _send(self, number: int) -> None:
        for place in self._places:
            place.signal(number)

    def end(self) -> None:
        """Kill what is left of them."""
        found = [one for place in self._places for one in place.end()]
        if self._failed is None and any(code for code, _ in found):
            self._failed, self.code = next((rank, code) for rank, (code, _) in enumerate(found) if code)
        said = "".join(said for _, said in found[self._failed or 0 :][:1])  # none where its place is gone
        self._tail = f"process {self._failed} of {len(found)}:\n{said}" if self._failed is not None and said else said


@contextmanager
def together(asked: Asked, elsewhere: Callable[[Asked, int], Place]) -> Iterator[Running]:
    """The command at all places, ended with all that it has left. Raises OSError where it cannot be started."""
    places: list[Place] = []
    run = Several(places)
    try:
        places.append(Processes(asked, 0))
        places.extend(elsewhere(asked, node) for node in range(1, asked.nodes))
        yield run
    finally:
        run.end()


def free_port() -> int:
    """A port of this host that nobody uses at this moment."""
    with socket.create_server(("", 0)) as found:
        return int(found.getsockname()[1])
