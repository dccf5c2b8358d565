"""Everything that changes while a trial trains, in one object: what a state is taken of, and put back into."""

from collections.abc import Callable, Iterator
from typing import Any

import torch

from lrtune.errors import TaskError
from lrtune.task import Task
from lrtune.wire.job import Training
from lrtune.wire.results import Report, Trial
from worker.determinism import make_deterministic, mode_of
from worker.engine import Engine
from worker.losses import Losses
from worker.parallel import Member, Order


class LiveRun:
    """One trial on its way: the engine, the batches, the losses and the reports, after `step` steps."""

    def __init__(
        self,
        task: Task,
        trial: Trial,
        training: Training,
        device: torch.device,
        *,
        say: Callable[[str], None] = lambda _: None,
        member: Member | None = None,
    ) -> None:
        if member is not None:
            member.order(Order.BEGIN)
        make_deterministic(trial.seed, mode_of(training, device), matmul=training.matmul)
        self.engine = Engine(task.to(device), trial, training, device, say=say, member=member)
        self.losses, self.reports, self.step = Losses(device), list[Report](), 0
        self.batches = endless(self.engine.task.batches(trial.seed))
        self._seed = trial.seed

    def skip(self, steps: int) -> None:
        """Go to where the batches stand after so many steps. The generators are to be put back after this."""
        drawn = steps * self.engine.training.accumulate
        self.batches = endless(self.engine.task.batches_from(self._seed, drawn), drawn=drawn)


def endless(batches: Iterator[Any], *, drawn: int = 0) -> Iterator[Any]:
    """The batches of a task, with a word when they end after all."""
    for batch in batches:
        drawn += 1
        yield batch
    raise TaskError(f"batches ran dry after {drawn} of them; they must go on without end, epoch after epoch")
