"""What event streams are woken by: one reader for all of them, which asks only when something may have happened.

A stream follows a job, takes what is new from here, and waits. So a thousand of them cost as many statements as one:
a log's new lines are read once for all who follow that job. What came before is each stream's own to read.
"""

import asyncio
import json
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from fastapi.sse import format_sse_event
from sqlalchemy.exc import DBAPIError

from app.streams import pause
from lrtune.errors import UnknownJob
from lrtune.store import Database, changes, events
from lrtune.store.changes import Ear, Pulse
from lrtune.wire.results import OVER, Event

TICK = 0.25  # seconds between two looks at whether something was heard; none of them is a statement
SURE, BEAT = 5.0, 1.0  # before the jobs are asked whatever was heard; where steps of running trials are wanted
KEPT = 200  # of a log's newest lines


class Line(NamedTuple):
    """A line of a log as it is sent, which is the same for all who follow it."""

    id: int
    sent: bytes


def line(event: Event) -> Line:
    """An event as a message."""
    return Line(event.id, format_sse_event(data_str=event.model_dump_json(), event=event.kind, id=str(event.id)))


def beat(pulse: Pulse) -> bytes:
    """The message that something has changed, for whoever then looks again."""
    data = {"over": pulse.state in OVER, "beat": [pulse.events, pulse.steps]}
    return format_sse_event(data_str=json.dumps(data), event="beat")


@dataclass
class Topic:
    """A job that is followed: how it stood last (None: not read yet), and its newest lines up to the line `last`."""

    pulse: Pulse | None = None
    last: int = 0
    recent: deque[Line] = field(default_factory=lambda: deque(maxlen=KEPT))
    gone: bool = False
    followers: set[asyncio.Event] = field(default_factory=set)
    beating: int = 0  # followers that want to hear of steps, too


class Follower:
    """One stream's place at a job."""

    def __init__(self, topic: Topic, woken: asyncio.Event) -> None:
        self._topic, self._woken = topic, woken

    @property
    def pulse(self) -> Pulse | None:
        """How the job stood last; None before it was read. Raises UnknownJob for one that was deleted."""
        if self._topic.gone:
            raise UnknownJob
        return self._topic.pulse

    def after(self, number: int) -> tuple[list[Line], bool] | None:
        """The lines after one, and whether the job is over; None where that has to be read. Raises UnknownJob."""
        pulse, topic = self.pulse, self._topic
        if pulse is None or number < topic.last - len(topic.recent):
            return None
        return [one for one in topic.recent if one.id > number], pulse.state in OVER

    async def news(self, seconds: float) -> bool:
        """Wait until something has happened since this was asked last, but not for longer."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._woken.wait(), seconds)
        woken = self._woken.is_set()
        self._woken.clear()
        return woken


class Watch:
    """The jobs that streams follow."""

    def __init__(self, database: Database, stopping: asyncio.Event) -> None:
        self._database, self._stopping, self._ear = database, stopping, Ear(database)
        self._topics: dict[str, Topic] = {}
        self._read = 0.0  # when, by the loop's clock; 0: somebody has come since

    @contextmanager
    def following(self, job_id: str, *, steps: bool = False) -> Iterator[Follower]:
        """A place at a job, where one is woken when it changes; with `steps` also when its running trials get on."""
        topic, woken = self._topics.setdefault(job_id, Topic()), asyncio.Event()
        topic.followers.add(woken)
        topic.beating += steps
        if topic.pulse is None or steps:
            self._read = 0.0
        try:
            yield Follower(topic, woken)
        finally:
            topic.followers.discard(woken)
            topic.beating -= steps
            if not topic.followers and self._topics.get(job_id) is topic:
                del self._topics[job_id]

    @property
    def over(self) -> bool:
        """Whether this server stops."""
        return self._stopping.is_set()

    async def run(self) -> None:
        """Wake who follows a job whenever it has changed, until the server stops; then everybody."""
        while not self._stopping.is_set():
            with suppress(DBAPIError):  # the database is away: the next look is at everything
                if self._topics and await self._due():
                    await self._look()
            await pause(self._stopping, TICK)
        for topic in self._topics.values():
            _wake(topic)
        self._ear.close()

    async def _due(self) -> bool:
        heard = await asyncio.to_thread(self._ear.heard)
        sure = BEAT if any(topic.beating for topic in self._topics.values()) else SURE
        return heard or asyncio.get_running_loop().time() - self._read > sure

    async def _look(self) -> None:
        self._read = asyncio.get_running_loop().time()
        topics = dict(self._topics)
        known = {job_id: topic.last for job_id, topic in topics.items() if topic.pulse is not None}
        steps = [job_id for job_id, topic in topics.items() if topic.beating]
        try:
            found, lines = await asyncio.to_thread(self._asked, list(topics), steps, known)
        except DBAPIError:
            self._read = 0.0
            raise
        for job_id, topic in topics.items():
            _tell(topic, found.get(job_id), lines.get(job_id, ()))

    def _asked(
        self, job_ids: Sequence[str], steps: Sequence[str], known: Mapping[str, int]
    ) -> tuple[Mapping[str, Pulse], Mapping[str, Sequence[Event]]]:
        """How these jobs stand, and the new lines of those that have a few."""
        with self._database.read() as tx:
            found = changes.pulses(tx, job_ids, steps)
            few = [one for one, last in known.items() if one in found and last < found[one].events <= last + KEPT]
            return found, {one: events.page(tx, one, after=known[one], limit=KEPT).items for one in few}


def _tell(topic: Topic, pulse: Pulse | None, lines: Sequence[Event]) -> None:
    if pulse == topic.pulse and pulse is not None and not lines:
        return
    topic.gone = pulse is None
    if pulse is not None and topic.last < pulse.events and not lines:  # the first look, or too many lines
        topic.recent.clear()
        topic.last = pulse.events
    topic.recent.extend(line(event) for event in lines)
    topic.last = lines[-1].id if lines else topic.last
    topic.pulse = pulse
    _wake(topic)


def _wake(topic: Topic) -> None:
    for woken in topic.followers:
        woken.set()
