"""Whether this host's clock agrees with those of the workers that are at it: on SQLite each process has its own.

A lease ends by the clock of whoever looks, so a worker whose clock is ahead would take trials from those that train
them. A worker asks before it signs in, and writes nothing until it agrees: who was there first counts. What can be
known is that a time already stored lies ahead of this clock, and that somebody who lives writes times far behind it.
That nobody has written for hours says nothing; nor can a clock be judged where no other worker lives.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

log = logging.getLogger("lrtune.worker")

BEHIND = timedelta(seconds=5)
AHEAD = timedelta(seconds=20)  # a worker that trains shows life each sixth of its lease, which is 15 seconds as a rule
LOOK = 0.5  # seconds
LOOKS = 40  # without a sign of life from anybody, after which nobody else is there

Seen = Mapping[str, datetime]


def wait_for_agreement(look: Callable[[], tuple[datetime, Seen] | None], stop: threading.Event) -> None:
    """Return once this clock agrees with the others, or nobody else is there; or on `stop`.

    `look` gives this clock's time and when each other worker last showed life by its own; None where the database has
    a clock for all.
    """
    before: Seen = {}
    silent, said = 0, ""
    while not stop.is_set() and (found := look()) is not None:
        now, seen = found
        newest = max(seen.values(), default=now)
        lives = next((one for one, at in seen.items() if before.get(one, at) != at), None)
        how = "behind" if now < newest - BEHIND else "ahead of" if lives else ""
        if -BEHIND <= now - newest <= AHEAD or (not how and silent >= LOOKS):
            return
        if how and how != said:
            log.warning("%s", _words(now, newest, how))
            said = how
        silent, before = (0 if how else silent + 1), seen
        stop.wait(LOOK)


def _words(now: datetime, newest: datetime, how: str) -> str:
    off = abs((now - newest).total_seconds())
    return (
        f"the clock of this host says {now:%Y-%m-%d %H:%M:%S} UTC, {off:.0f} seconds {how} what another worker of this "
        f"database has written ({newest:%H:%M:%S}); nothing is claimed until they agree: set the clock, as NTP does"
    )
