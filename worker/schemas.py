"""Whether the database has the schema that this worker is written for: until it has, the worker claims nothing."""

import logging
import threading
import time
from collections.abc import Callable

from lrtune.store import schema

log = logging.getLogger("lrtune.worker")

LOOK = 2.0  # seconds before a schema that differs is looked at again
AGAIN = 15.0  # seconds before one that has fitted is: the service may be upgraded meanwhile


class Schema:
    """The schema of a worker's database, as it was seen last."""

    def __init__(self, look: Callable[[], str | None], stop: threading.Event) -> None:
        self._look, self._stop = look, stop
        self._seen = -AGAIN

    def wait(self) -> bool:
        """True once the schema fits, False on `stop`; says once what is wrong, and then that it is over."""
        if time.monotonic() - self._seen < AGAIN:
            return not self._stop.is_set()
        said = ""
        while not self._stop.is_set() and (wrong := schema.differs(self._look())):
            if wrong != said:
                log.warning("%s; nothing is claimed until then", wrong)
            said = wrong
            self._stop.wait(LOOK)
        if self._stop.is_set():
            return False
        if said:
            log.info("the schema is %s now, and this worker goes on", schema.REVISION)
        self._seen = time.monotonic()
        return True
