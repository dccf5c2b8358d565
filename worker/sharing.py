"""A worker's side of sharing: the checkpoints a trial may start from, and no two workers that train the same beginning.

Who trains what stands in the database: a trial whose beginning another one is training right now goes back to waiting
until that one has come so far, or has ended, or its worker has died. So a claim is a row with a lease, like any other.
And so does which states there are: the search counts on those, and room is made of what it does not count on.
"""

import logging
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, TypeVar

import torch
from sqlalchemy.orm import Session

from lrtune.analysis.prefixes import Course, shared
from lrtune.search import Beginnings
from lrtune.store import beside, leases, states
from lrtune.store.database import AWAY
from lrtune.task import Task
from lrtune.wire.results import REPORTS
from worker.cache_key import Keys, header, place
from worker.checkpoint_cache import CheckpointCache, Cost, Start
from worker.digest import task_digest
from worker.settings import Settings
from worker.states import Store

T = TypeVar("T")
Write = Callable[[Callable[[Session], Any]], Any]
Place = Callable[[torch.device, int], dict[str, Any]]
DECISION = 1.0  # seconds, about what the search takes to say what comes next
WORTH = 4  # times as long as keeping its state and deciding what comes next is a stage at least
log = logging.getLogger("lrtune.worker")


class Blocked(Exception):
    """Another trial is training the beginning of this one: `ahead` is its row, `step` how far it will be of use."""

    def __init__(self, ahead: beside.Beside, step: int) -> None:
        self.ahead, self.step = ahead.id, step
        super().__init__(f"{ahead.name} is training its first {step} steps")


class Ledger:
    """What the database knows of the states in a store."""

    def __init__(self, write: Write, store: Callable[[], str]) -> None:
        self._write, self._store = write, store

    def uses(self) -> Mapping[str, Sequence[states.Use]]:
        """What each is of."""
        store = self._store()
        with _or_else():
            found: dict[str, list[states.Use]] = self._write(lambda tx: states.uses(tx, store))
        return found

    def let_go(self, keys: Collection[str]) -> set[str]:
        """Count on these no more; those of which the files may go."""
        store = self._store()
        with _or_else():
            gone: set[str] = self._write(lambda tx: states.let_go(tx, store, keys))
        return gone

    def record(self, trial: int, steps: Mapping[str, int], gone: Collection[str]) -> None:
        """Write down the states of a trial that are there, and those that are not; one that cannot be is not there."""

        def record(tx: Session) -> None:
            states.found(tx, store, trial, steps)
            states.lost(tx, store, [*gone])

        if steps or gone:
            with suppress(*AWAY, OSError):
                store = self._store()
                self._write(record)


@contextmanager
def _or_else() -> Iterator[None]:
    """A worker that stops while its database is away makes no room any more."""
    try:
        yield
    except AWAY as error:
        raise OSError("the database does not answer") from error


class Sharing:
    """The checkpoints as one worker uses them; with a budget of zero bytes there are none."""

    def __init__(self, settings: Settings, device: torch.device, write: Write, place: Place = place) -> None:
        self._store: Store | None = None
        self._ledger = Ledger(write, lambda: self._store.id() if self._store else "")
        if settings.state_bytes != 0:
            self._store = Store(settings.state_dir, budget=settings.state_bytes, ledger=self._ledger)
            log.info("training states in %s: %s", settings.state_dir, self._store.room())
        self._device, self._write, self._place = device, write, place
        self._digest: tuple[Task, str] | None = None

    def beginnings(self, tx: Session, job_id: str) -> Beginnings:
        """What the search of a job counts on."""
        steps = dict[int, list[int]]()
        with suppress(OSError):  # where nothing can be read there is nothing
            steps = states.at_hand(tx, job_id, self._store.id()) if self._store else {}
        return Beginnings(steps, every=True, least=states.least_stage(tx, job_id))

    def cache(self, lease: leases.Lease, task: Task) -> CheckpointCache | None:
        """The checkpoints of a trial. Raises Blocked."""

        def on_start(start: Start) -> None:
            if start.step or lease.trial.start:  # one that was paused and has no checkpoint here is trained anew
                self._write(
                    lambda tx: leases.take_up(tx, lease, step=start.step, reused=start.reused, whose=start.whose)
                )

        if self._store is None:
            on_start(Start(0, 0, ()))
            return None
        owner = f"{lease.job_id}/{lease.trial.number}"
        if self._digest is None or self._digest[0] is not task:  # worked out once for trials in a row
            self._digest = task, task_digest(task)
        training, where = lease.spec.training, self._place(self._device, lease.spec.training.devices)
        head = header(lease.spec.task, self._digest[1], lease.trial, training, self._device, owner=owner, where=where)

        def say(kind: str, message: str) -> None:
            self._write(lambda tx: leases.note(tx, lease, kind, message))

        def on_cost(cost: Cost) -> None:
            least = math.ceil(WORTH * (cost.state + DECISION) / cost.step)
            message = (
                f"a state of {cost.size / 1e6:.0f} MB takes {cost.state:.2g} s to keep, and a step {cost.step:.2g} s: "
                f"no stage is shorter than {least} steps from now on, or a quarter of a run"
            )
            self._write(lambda tx: states.note_least_stage(tx, lease.job_id, least, message))

        cache = CheckpointCache(
            self._store,
            Keys(head),
            owner=owner,
            metric=lease.spec.metric,
            say=say,
            on_start=on_start,
            record=partial(self._ledger.record, lease.id),
            on_cost=on_cost,
        )
        self._give_way(lease, cache)
        return cache

    def _give_way(self, lease: leases.Lease, cache: CheckpointCache) -> None:
        """Raise Blocked where another worker is training a good part of what this trial would train first."""
        others: list[beside.Beside] = self._write(lambda tx: beside.beside(tx, lease))
        same = [o for o in others if (o.task, o.training) == (lease.spec.task, lease.spec.training)]
        if not same:
            return
        trial = lease.trial
        course = Course(trial.configuration, trial.horizon, sign=lease.spec.metric.sign, until=trial.until)
        begun = cache.longest(course)
        for other in same:
            until = min(other.until or trial.horizon, course.end)
            step = min(shared(other.configuration, trial.configuration, trial.horizon, until=until), course.end)
            # Two of them never wait for each other, wherever they were paused and whatever checkpoints are gone.
            first = other.step > max(begun, trial.start) or (other.id < lease.id and other.step >= trial.start)
            if first and other.step < step and step - begun >= max(2, trial.horizon // REPORTS):
                cache.close()
                raise Blocked(other, step)
