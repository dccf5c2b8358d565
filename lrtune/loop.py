"""Your own training loop, tuned: `for trial in job.trials(): ...`. The service decides, the loop trains.

A trial itself stands in `lrtune/loop_trial.py`; what happens over HTTP in `lrtune/wire/external.py`; adapters for
frameworks in `lrtune/adapters/`.
"""

import hashlib
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pydantic import PrivateAttr

from lrtune import errors
from lrtune.door import Door
from lrtune.loop_trial import LoopTrial as LoopTrial  # where the documents have it
from lrtune.loop_trial import turn
from lrtune.wire.external import Checkpoints, Ending
from lrtune.wire.results import Job

WAIT_SECONDS = 2.0  # before asking again when others train all there is
LEASE_SECONDS = 90.0
log = logging.getLogger("lrtune.loop")


class LoopJob(Job):
    """A job as it stands, and its trials for a loop of your own where its task is `external`."""

    _door: Door | None = PrivateAttr(None)

    def trials(
        self,
        *,
        lease_seconds: float = LEASE_SECONDS,
        checkpoints: Path | str | None = None,
        shared: bool = False,
        deterministic: bool = False,
    ) -> Iterator[LoopTrial]:
        """The trials to train, one after another, until the job is over; any number of processes may share them.

        With a folder for `checkpoints` they are trained in stages: see `LoopTrial.restore`. It is `shared` where all
        of the job's processes see the same one, on whatever host. It is `deterministic` where the same seed, rates and
        optimizer settings train the same network, bit for bit; then a trial may begin at the checkpoint of another one
        that has begun alike, and costs what it trains beyond. Raises Invalid without a folder.
        """
        if deterministic and checkpoints is None:
            said = 'trials(checkpoints="runs/", deterministic=True)'
            raise errors.Invalid(f"deterministic: found True without a folder for checkpoints; accepted is {said}")
        if self._door is None:
            raise errors.LrtuneError("this job came without its client; `client.get(job.id)` has it again")
        folder = None if checkpoints is None else Path(checkpoints)
        return trials(
            self._door, self.id, lease_seconds=lease_seconds, folder=folder, shared=shared, deterministic=deterministic
        )


def joined(job: LoopJob, door: Door) -> LoopJob:
    """The job, able to ask for its trials."""
    job._door = door
    return job


def trials(
    door: Door,
    job_id: str,
    *,
    lease_seconds: float = LEASE_SECONDS,
    folder: Path | None = None,
    shared: bool = False,
    deterministic: bool = False,
) -> Iterator[LoopTrial]:
    """The trials of a job, each held while it is this one's turn. Raises NotExternal, UnknownJob."""
    whose: Checkpoints = "none" if folder is None else "shared" if shared else "own"
    own = None if folder is None else folder / job_id
    hold: dict[str, Any] = {
        "worker": this_process(),
        "lease_seconds": lease_seconds,
        "checkpoints": whose,
        "host": place_of(own),
        "deterministic": deterministic,
    }
    while True:
        try:
            with _ctrl_c_waits() as interrupted:
                held = door.take(job_id, **hold)
        except errors.JobFinished as over:
            log.info("job %s: %s", job_id, over)
            forget(own, None)
            return
        if interrupted:
            if held is not None:
                back = Ending(token=held.token, state="waiting", reason="KeyboardInterrupt")
                with suppress(errors.LrtuneError):  # else its lease runs out
                    door.finish(job_id, held.trial.number, back)
            raise KeyboardInterrupt
        if held is None:
            time.sleep(WAIT_SECONDS)
            continue
        forget(own, held.forget, needed=held.needed)
        yield from turn(LoopTrial(door, job_id, held, folder=own))


@contextmanager
def _ctrl_c_waits() -> Iterator[list[int]]:
    """Let Ctrl-C wait for the answer to what is asked inside, and tell of it; a second one does not wait.

    A trial that is handed out to a loop that is gone would be nobody's until its lease ends.
    """
    came: list[int] = []
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield came
        return

    def later(number: int, _: object) -> None:
        came.append(number)
        signal.signal(signal.SIGINT, before)
        log.warning("Ctrl-C waits for the server's answer, to give back what it hands out; a second one does not")

    signal.signal(signal.SIGINT, later)
    try:
        yield came
    except Exception:
        if came:
            raise KeyboardInterrupt from None
        raise
    finally:
        signal.signal(signal.SIGINT, before)


def this_process() -> str:
    """What the service calls a loop that has no other name."""
    return f"{socket.gethostname()[:60]}-{os.getpid()}"


def place_of(folder: Path | None) -> str:
    """What the service calls the place of a folder: whoever has the same one on the same host can read it."""
    path = os.fsencode(Path() if folder is None else folder.resolve())
    return f"{socket.gethostname()[:60]}:{hashlib.sha256(path).hexdigest()[:12]}"


def forget(folder: Path | None, names: Sequence[str] | None, *, needed: Sequence[str] = ()) -> None:
    """Delete checkpoints that no trial needs any more, or all of a job's; those that are `needed` are to go last."""
    if folder is not None and folder.is_dir() and (names != [] or needed):
        from lrtune.adapters.folder import Folder

        found = Folder(folder)
        found.drop(names)
        found.need(needed)
