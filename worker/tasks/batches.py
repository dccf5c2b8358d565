"""The order in which training examples come: one seeded permutation an epoch, cut into batches."""

from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from lrtune.feeding import sent


def per_epoch(count: int, batch_size: int | Literal["full"]) -> int:
    """How many batches go once through `count` examples: a last partial one is dropped, one is always left."""
    return 1 if batch_size == "full" else max(1, count // batch_size)


def order(
    count: int, batch_size: int | Literal["full"], *, seed: int, device: torch.device, start: int = 0
) -> Iterator[Tensor]:
    """The examples of each batch from number `start` on, without end. An epoch's permutation depends on the seed and
    its number alone, so that what is skipped costs nothing."""
    size = count if batch_size == "full" else min(batch_size, count)
    epoch, done = divmod(start, per_epoch(count, batch_size))
    while True:
        mixed = np.random.SeedSequence((seed, epoch)).generate_state(1)
        generator = torch.Generator().manual_seed(int(mixed[0]))
        places = torch.randperm(count, generator=generator)
        places = sent(places, device)
        for first in range(done * size, count - size + 1, size):
            yield places[first : first + size]
        epoch, done = epoch + 1, 0
