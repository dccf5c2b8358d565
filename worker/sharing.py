"""A worker's side of sharing: opens the states a trial may start from, and keeps two workers from training the same.

Who trains what stands in the database: a trial whose beginning another one is training right now goes back to waiting
until that one has come so far, or has ended, or its worker has died. So a claim is a row with a lease, like any other.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from sqlalchemy.orm import Session

from lrtune.analysis.prefixes import Course, shared
from lrtune.store import leases
from lrtune.task import Task
from lrtune.wire.job import Metric
from lrtune.wire.results import REPORTS
from worker.cache_key import Keys, header
from worker.checkpoint_cache import Memory, Start
from worker.digest import task_digest
from worker.settings import Settings
from worker.states import Store

T = TypeVar("T")
Write = Callable[[Callable[[Session], Any]], Any]


class Behind(Exception):
    """Another trial is training the beginning of this one: `ahead` is its row, `step` how far it will be of use."""

    def __init__(self, ahead: leases.Beside, step: int) -> None:
        self.ahead, self.step = ahead.id, step
        super().__init__(f"{ahead.name} is training its first {step} steps")


class Sharing:
    """The states as one worker uses them; with a budget of zero bytes there are none."""

    def __init__(self, settings: Settings, device: torch.device, write: Write) -> None:
        budget = settings.state_bytes
        self._store = Store(settings.state_dir, budget=budget) if budget else None
        self._device, self._write = device, write
        self._digest: tuple[Task, str] | None = None

    def memory(self, lease: leases.Lease, task: Task, metric: Metric) -> Memory | None:
        """What a trial may remember; nothing where several devices train it, which have a state each. Raises Behind."""
        if self._store is None or lease.spec.training.devices > 1:
            return None
        owner = f"{lease.job_id}/{lease.trial.number}"
        digest = self._digest_of(task)
        head = header(lease.spec.task, digest, lease.trial, lease.spec.training, self._device, owner=owner)

        def say(kind: str, message: str) -> None:
            self._write(lambda tx: leases.note(tx, lease, kind, message))

        def on_start(start: Start) -> None:
            self._write(
                lambda tx: leases.take_up(tx, lease, step=start.step, credited=start.credited, whose=start.whose)
            )

        memory = Memory(self._store, Keys(head), owner=owner, metric=metric, say=say, on_start=on_start)
        self._give_way(lease, memory, metric)
        return memory

    def _digest_of(self, task: Task) -> str:
        """The digest of a task, worked out once while trials of the same follow one another."""
        if self._digest is None or self._digest[0] is not task:
            self._digest = task, task_digest(task)
        return self._digest[1]

    def _give_way(self, lease: leases.Lease, memory: Memory, metric: Metric) -> None:
        """Raise Behind where another worker is training a good part of what this trial would train first."""
        others: list[leases.Beside] = self._write(lambda tx: leases.beside(tx, lease))
        same = [o for o in others if (o.task, o.training) == (lease.spec.task, lease.spec.training)]
        if not same:
            return
        trial = lease.trial
        course = Course(trial.configuration, trial.horizon, sign=metric.sign, end=trial.until)
        begun = memory.longest(course)
        for other in same:
            until = min(other.until or trial.horizon, course.end)
            step = min(shared(other.configuration, trial.configuration, trial.horizon, until=until), course.end)
            first = other.step > begun or other.id < lease.id  # so that two of them never wait for each other
            if first and other.step < step and step - begun >= max(2, trial.horizon // REPORTS):
                memory.close()
                raise Behind(other, step)
