"""Everything that changes while a trial trains, in one object: what a state is taken of, and put back into."""

import os
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from lrtune.errors import TaskError
from lrtune.task import Task
from lrtune.wire.job import Training
from lrtune.wire.results import Report, Trial
from worker.engine import Engine
from worker.losses import Losses
from worker.parallel import Member, Order


def make_deterministic(seed: int) -> None:
    """Seed every generator, and have torch choose algorithms that give the same bits each time."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)  # of every device


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
        make_deterministic(trial.seed)
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
