"""The processes that train one trial together, as `torchrun` and `accelerate launch` start them, or this one alone."""

import atexit
import logging
import os
import socket
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from lrtune import errors

CRY_SECONDS = 10.0  # that a process which has raised stays, so that the first one can say why the trial has failed
WAIT = timedelta(days=20)  # for a trial, while others train all there is; a dead process is noticed by its connection
WARN_SECONDS = 60.0  # of waiting for the others, before it is said for what
log = logging.getLogger("lrtune.loop")
T = TypeVar("T")
_groups: list[Any] = []  # all processes of the script's, and ours of the same


class Alone:
    """A process that trains by itself: what it says, all have heard."""

    rank, size = 0, 1
    known: int | None = 1
    group: Any = None

    def first(self, call: Callable[[], T]) -> T:
        """What the first process's call answers, in all of them. Raises in all what that raises, in words."""
        return call()

    def gathered(self, value: Any) -> list[Any]:
        """Everybody's values, in all of them."""
        return [value]

    def each(self, call: Callable[[], object]) -> None:
        """Make a call in every process, and wait for all. Raises in all what one of them raises, in words."""
        failure: Exception | None = None
        try:
            call()
        except Exception as error:  # raised below, in all
            failure = error
        said = self.gathered(failure and _words(failure))
        if failure is not None:
            raise failure
        for rank, one in enumerate(said):
            if one is not None:
                raise errors.LrtuneError(f"process {rank}: {one}")

    def require_one_folder(self, folder: Path) -> None:
        """Raise LrtuneError, in all processes, where one does not see the folder that the first one writes to."""

    def cry(self, about: str, what: str) -> None:
        """Let the first process know what has ended this one, and give it the time to say so."""

    def cried(self, about: str) -> str:
        """What has ended another process, for the first one; nothing while all go on."""
        return ""

    def comfort(self, about: str) -> None:
        """Let the one that has cried go: what it said is written down."""


class Team(Alone):
    """Processes that speak to each other through torch.distributed, once the script has made a group of them.

    What differs from process to process would part them: the first one decides, and the others hear it. Every process
    makes the same calls in the same order, but for `rank` and `size`.
    """

    @property
    def rank(self) -> int:  # type: ignore[override]
        """The place of this process."""
        found = _initialized()
        return int(found.get_rank()) if found else int(os.environ.get("RANK") or os.environ.get("LOCAL_RANK") or 0)

    @property
    def size(self) -> int:  # type: ignore[override]
        """How many there are."""
        found = _initialized()
        return int(found.get_world_size()) if found else int(os.environ.get("WORLD_SIZE") or 1)

    @property
    def known(self) -> int | None:  # type: ignore[override]
        """How many there are, once that is known: Lightning may start the others later."""
        return self.size if _initialized() or os.environ.get("WORLD_SIZE") else None

    def first(self, call: Callable[[], T]) -> T:
        """What the first process's call answers, in all of them. Raises in all what that raises, in words."""
        failure: Exception | None = None
        box: list[Any] = [None, None]
        if self.rank == 0:
            try:
                box[0] = call()
            except Exception as error:  # raised below, in all
                failure, box[1] = error, _words(error)
        if self.size > 1:
            self._speak(lambda found: found.broadcast_object_list(box, src=0, group=self.group), float("inf"))
        if box[1]:
            raise failure or errors.LrtuneError(box[1])
        answer: T = box[0]
        return answer

    def gathered(self, value: Any) -> list[Any]:
        """Everybody's values, in all of them."""
        said = [value] * self.size
        if self.size > 1:
            self._speak(lambda found: found.all_gather_object(said, value, group=self.group))
        return said

    def require_one_folder(self, folder: Path) -> None:
        """Raise LrtuneError, in all processes, where one does not see the folder that the first one writes to."""
        if self.size == 1:
            return
        mark = Path(self.first(lambda: _marked(folder)))
        seen = self.gathered((socket.gethostname(), mark.exists()))
        if self.rank == 0:
            mark.unlink()
        for rank, (host, found) in enumerate(seen):
            if not found:
                raise errors.LrtuneError(
                    f"process {rank} on {host} does not see {folder}, where process 0 on {seen[0][0]} keeps "
                    "checkpoints; accepted is a folder that all processes of a run see, or none: trials in one piece"
                )

    def cry(self, about: str, what: str) -> None:
        """Let the first process know what has ended this one, and give it the time to say so."""
        if self.rank and (store := _store()) is not None:
            with suppress(RuntimeError):  # the first one is gone, too
                store.set(f"lrtune/{about}", f"process {self.rank}: {what}")
                store.wait([f"lrtune/{about}/heard"], timedelta(seconds=CRY_SECONDS))

    def cried(self, about: str) -> str:
        """What has ended another process, for the first one; nothing while all go on."""
        store = None if self.rank or self.size == 1 else _store()
        with suppress(RuntimeError):
            return str(store.get(f"lrtune/{about}").decode()) if store and store.check([f"lrtune/{about}"]) else ""
        return ""

    def comfort(self, about: str) -> None:
        """Let the one that has cried go: what it said is written down."""
        if (store := _store()) is not None:
            with suppress(RuntimeError):
                store.set(f"lrtune/{about}/heard", "")

    @property
    def group(self) -> Any:
        """Processes that talk without their devices, made when all of them first have something to say."""
        found = _initialized()
        if found and (not _groups or _groups[0] is not found.group.WORLD):
            atexit.register(_leave)
            _groups[:] = found.group.WORLD, found.new_group(backend="gloo", timeout=WAIT)
        return _groups[1] if found else None

    def _speak(self, call: Callable[[Any], object], patience: float = WARN_SECONDS) -> None:
        """Raises LrtuneError where the others cannot be heard, and says so in the log where they are long in coming."""
        if (found := _initialized()) is None:
            raise errors.LrtuneError(
                f"found {self.size} processes (WORLD_SIZE) that do not speak to each other yet; write "
                "torch.distributed.init_process_group() before the trial is restored or reported"
            )
        late = threading.Timer(
            min(patience, threading.TIMEOUT_MAX), log.warning, [f"process {self.rank} waits for the others: {_ALIKE}"]
        )
        late.daemon = True
        late.start()
        try:
            call(found)
        except RuntimeError as error:
            said = (str(error) or type(error).__name__).splitlines()[0]
            raise errors.LrtuneError(f"process {self.rank} no longer hears the others ({said}): {_ALIKE}") from error
        finally:
            late.cancel()


_ALIKE = (
    "all processes of a run call restore, report and the like, at the same steps, also where the first one measures"
)


def _words(error: Exception) -> str:
    return str(error) if isinstance(error, errors.LrtuneError) else f"{type(error).__name__}: {error}"


def _marked(folder: Path) -> str:
    """A new file in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    opened, name = tempfile.mkstemp(prefix="unfinished-mark-", dir=folder)
    os.close(opened)
    return name


def _initialized() -> Any:
    """torch.distributed, where the script has initialised it."""
    torch = sys.modules.get("torch")
    found = torch and torch.distributed
    return found if found and found.is_available() and found.is_initialized() else None


def _store() -> Any:
    """What the processes have met at: it is heard there even while the others wait in a collective."""
    found = _initialized()
    return found and found.distributed_c10d._get_default_store()


def _leave() -> None:
    """End the process groups with the process: left to torch, gloo's threads now and then abort it at its very end.

    Those that the script has ended itself live for as long as we hold them.
    """
    _groups.clear()
    if found := _initialized():
        found.destroy_process_group()
