"""A worker's side of sharing: the checkpoints a trial may start from, and no two workers that train the same beginning.

Who trains what stands in the database: a trial whose beginning another one is training right now goes back to waiting
until that one has come so far, or has ended, or its worker has died. So a claim is a row with a lease, like any other.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from sqlalchemy.orm import Session

from lrtune.analysis.prefixes import Course, shared
from lrtune.store import beside, leases
from lrtune.task import Task
from lrtune.wire.results import REPORTS
from worker.cache_key import Keys, header
from worker.checkpoint_cache import CheckpointCache, Start
from worker.digest import task_digest
from worker.settings import Settings
from worker.states import Store

T = TypeVar("T")
Write = Callable[[Callable[[Session], Any]], Any]


class Blocked(Exception):
    """Another trial is training the beginning of this one: `ahead` is its row, `step` how far it will be of use."""

    def __init__(self, ahead: beside.Beside, step: int) -> None:
        self.ahead, self.step = ahead.id, step
        super().__init__(f"{ahead.name} is training its first {step} steps")


class Sharing:
    """The checkpoints as one worker uses them; with a budget of zero bytes there are none."""

    def __init__(self, settings: Settings, device: torch.device, write: Write) -> None:
        budget = settings.state_bytes
        self._store = Store(settings.state_dir, budget=budget) if budget else None
        self._device, self._write = device, write
        self._digest: tuple[Task, str] | None = None

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
        head = header(lease.spec.task, self._digest[1], lease.trial, lease.spec.training, self._device, owner=owner)

        def say(kind: str, message: str) -> None:
            self._write(lambda tx: leases.note(tx, lease, kind, message))

        cache = CheckpointCache(
            self._store, Keys(head), owner=owner, metric=lease.spec.metric, say=say, on_start=on_start
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
