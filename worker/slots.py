"""Several workers of one command: side by side on a device (`LRTUNE_SLOTS`), one on each GPU (`LRTUNE_DEVICE=all`).
A parent starts them, starts again those that die, and lets them hand their trials back when it is asked to stop.

Each is a worker like any other, in a process of its own, with its own id and leases; the parent trains nothing and
never touches the device. One whose parent is gone hands its trial back, too.
"""

import logging
import multiprocessing
import socket
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.context import ForkServerContext, ForkServerProcess
from multiprocessing.synchronize import Event
from typing import TypeVar

import torch
from sqlalchemy.exc import DBAPIError

from lrtune.store import Database, workers
from worker.loop import device
from worker.memory import room
from worker.process import on_signal, serve, start
from worker.settings import Settings

T = TypeVar("T")
log = logging.getLogger("lrtune.slots")

LOOK = 0.5  # seconds between two looks at who lives
LASTING = 60.0  # seconds after which a worker that dies is started again at once
LONGEST = 60.0  # seconds that one waits that dies again and again
WINDOW = 30.0  # seconds over which `auto` counts the steps of all
GAIN = 1.1  # times as many steps as before, at least, for one worker more to stay
ROOM = 1.2  # times the memory that one takes is to be free for one more
MOST = 16  # workers, where `auto` decides


@dataclass(slots=True, eq=False)
class Slot:
    """A place for one worker: its process, what asks it to stop, and when it may be started again."""

    process: ForkServerProcess
    drain: Event
    began: float = field(default_factory=time.monotonic)


@dataclass(slots=True)
class Climb:
    """How many workers `auto` has: one more as long as that trains more steps, until one does not."""

    now: int = 1
    before: float = 0.0
    settled: bool = False

    def on(self, pace: float, *, room: bool) -> None:
        """After `now` workers, all busy, have trained `pace` steps a second; is there `room` for another?"""
        if self.settled:
            return
        gained, self.before = pace >= GAIN * self.before, pace
        self.settled = not (gained and room and self.now < MOST)
        self.now += 1 if not self.settled else -1 if not gained and self.now > 1 else 0

    def again(self) -> None:
        """Nobody has anything to train: what comes may be of another kind."""
        self.before, self.settled = 0.0, False


class Slots:
    """So many workers at a time."""

    def __init__(self, work: Callable[[Event], None], count: int) -> None:
        self._work, self.count = work, count
        self._context: ForkServerContext = multiprocessing.get_context("forkserver")
        self._slots: list[Slot] = []
        self._wait = self._until = 0.0

    @property
    def pids(self) -> list[int]:
        """The processes of the workers that are not on their way out."""
        return [slot.process.pid for slot in self._slots if slot.process.pid and not slot.drain.is_set()]

    def round(self) -> int | None:
        """Look once: start and drain workers. The exit status of one that will never do, such as a wrong setting."""
        for slot in [one for one in self._slots if not one.process.is_alive()]:
            self._slots.remove(slot)
            code = slot.process.exitcode
            if code == 2:
                return code
            if not slot.drain.is_set():
                self._died(slot, code)
        serving = [slot for slot in self._slots if not slot.drain.is_set()]
        for slot in serving[self.count :]:
            slot.drain.set()
        if time.monotonic() >= self._until:
            for _ in range(self.count - len(serving)):
                self._start()
        return None

    def drain(self) -> None:
        """Let every worker hand its trial back."""
        for slot in self._slots:
            slot.drain.set()

    def close(self) -> None:
        """Drain all and wait for them; interrupted, end them: their leases run out."""
        self.drain()
        try:
            for slot in self._slots:
                slot.process.join()
        except KeyboardInterrupt:
            for slot in self._slots:
                slot.process.kill()

    def asked(self, what: Callable[[str], T], of: str) -> T:
        """What a process of its own answers, so that the parent never touches the device."""
        with ProcessPoolExecutor(1, mp_context=self._context) as pool:
            return pool.submit(what, of).result()

    def _start(self) -> None:
        drain = self._context.Event()
        process = self._context.Process(target=self._work, args=(drain,), name="worker")
        process.start()
        self._slots.append(Slot(process, drain))

    def _died(self, slot: Slot, code: int | None) -> None:
        lasted = time.monotonic() - slot.began
        self._wait = 0.0 if lasted > LASTING else min(max(1.0, 2 * self._wait), LONGEST)
        self._until = time.monotonic() + self._wait
        log.warning(
            "a worker has ended (%s) and is started again in %.3g s; its trial waits for its lease", code, self._wait
        )


class Auto:
    """Sets how many workers there are by what they train, and by the memory of their device."""

    def __init__(self, settings: Settings, slots: Slots) -> None:
        self._settings, self._slots, self._climb = settings, slots, Climb()
        self._database = Database(settings.database_url)
        self._began: tuple[float, int] | None = None

    def look(self) -> None:
        """Once in a while: count steps while all are busy, and have one worker more or less."""
        try:
            with self._database.read() as tx:
                steps, busy = workers.trained(tx, host=socket.gethostname(), pids=self._slots.pids)
        except DBAPIError:
            return  # the workers speak of it
        if busy < self._climb.now:
            self._began = None
            if not busy:
                self._climb.again()
            return
        now = time.monotonic()
        if self._began is None:
            self._began = now, steps
        elif now - self._began[0] >= WINDOW:
            self._decide((steps - self._began[1]) / (now - self._began[0]))

    def close(self) -> None:
        """Let go of the database."""
        self._database.dispose()

    def _decide(self, pace: float) -> None:
        self._began, before = None, self._climb.now
        if self._climb.settled:
            return
        free, total = self._slots.asked(_room, self._settings.device)
        self._climb.on(pace, room=free >= ROOM * (total - free) / before)
        self._slots.count = self._climb.now
        log.info("%d workers train %.3g steps a second: there are to be %d", before, pace, self._climb.now)


def run(settings: Settings, stop: threading.Event) -> int:
    """Keep workers until asked to stop; the exit status."""
    each = [settings.model_copy(update={"device": name}) for name in devices(settings.device)]
    several = [Slots(partial(work, one.device), 1 if one.slots == "auto" else one.slots) for one in each]
    auto = [Auto(*one) for one in zip(each, several, strict=True)] if settings.slots == "auto" else []
    looked = time.monotonic()
    try:
        while not stop.is_set():
            for slots in several:
                if code := slots.round():
                    return code
            if time.monotonic() - looked >= WINDOW / 10:
                looked = time.monotonic()
                for one in auto:
                    one.look()
            stop.wait(LOOK)
        return 0
    finally:
        for slots in several:
            slots.drain()
        for slots in several:
            slots.close()
        for one in auto:
            one.close()


def devices(name: str) -> list[str]:
    """The devices of a setting: `all` GPUs of this host, or the CPU where there is none."""
    if name != "all":
        return [name]
    return [f"cuda:{number}" for number in range(torch.cuda.device_count())] or ["cpu"]


def work(device: str, drain: Event) -> None:
    """What a process does: a worker's work on a device, until it is drained or its parent is gone."""
    settings, stop, parent = start(), threading.Event(), multiprocessing.parent_process()
    on_signal(stop)

    def watch() -> None:
        while not drain.wait(1.0) and (parent is None or parent.is_alive()):
            pass
        stop.set()

    threading.Thread(target=watch, name="drain", daemon=True).start()
    sys.exit(serve(settings.model_copy(update={"device": device}), stop))


def _room(name: str) -> tuple[int, int]:
    return room(device(name))
