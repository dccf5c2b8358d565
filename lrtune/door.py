"""The calls that a loop of the user's own makes to the service, and how patiently.

`lrtune.client.Client` has them; a loop knows no more of it.
"""

import logging
import time
from collections.abc import Callable
from typing import Protocol, TypeVar

from lrtune import errors
from lrtune.wire.external import Batch, Checkpoints, Ending, Handout, Verdict
from lrtune.wire.results import Trial

PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0)  # seconds before the end of a trial is sent again, no server answering
log = logging.getLogger("lrtune.loop")
T = TypeVar("T")


class Door(Protocol):
    """The calls that a loop makes; `lrtune.client.Client` has them."""

    def take(
        self,
        job_id: str,
        *,
        worker: str,
        lease_seconds: float,
        checkpoints: Checkpoints,
        host: str | None,
        deterministic: bool,
    ) -> Handout | None:
        """The next trial, or None while there is none."""

    def tell(self, job_id: str, number: int, batch: Batch) -> Verdict:
        """Reports, or a sign of life."""

    def finish(self, job_id: str, number: int, ending: Ending) -> Trial:
        """The end of a trial."""


def patiently(call: Callable[[], T]) -> T:
    """A call that is made again while no server answers, for a minute at most. Raises Unavailable."""
    for pause in PAUSES:
        try:
            return call()
        except errors.Unavailable as error:
            log.warning("trying again in %g s: %s", pause, error)
            time.sleep(pause)
    return call()
