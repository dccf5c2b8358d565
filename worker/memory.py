"""Memory of a device: when it has run out, what a trial that cannot fit needs, in words, and giving it back."""

import gc
import os
from typing import Any

import torch
from torch import nn

from worker.sharded import own

CPU_FULL = "can't allocate memory"  # the CPU's allocator has no exception class of its own


def out_of_memory(error: BaseException) -> bool:
    """Whether an error is a device's, or the host's, that has no more memory."""
    return isinstance(error, torch.OutOfMemoryError) or (isinstance(error, RuntimeError) and CPU_FULL in str(error))


def does_not_fit(error: BaseException, device: torch.device, model: nn.Module | None, optimizer: str = "") -> str:
    """Why a trial cannot be trained here, with the numbers: what its model takes and what the device has."""
    free, total = room(device)
    has = f"{device} has {_gb(total)}, {_gb(free)} of it free"
    first = str(error).splitlines()[0]
    if model is None:
        return f"out of memory before the first step: {has} ({first})"
    weights = sum(own(one).nbytes for one in [*model.parameters(), *model.buffers()])
    trained = sum(own(one).nbytes for one in model.parameters() if one.requires_grad)
    many = sum(own(one).numel() for one in model.parameters())
    takes = f"its {many:,} parameters take {_gb(weights)}, their gradients {_gb(trained)}"
    return f"out of memory: {takes} and each average or moment that {optimizer} keeps as much again; {has} ({first})"


def room(device: torch.device) -> tuple[int, int]:
    """The bytes of a device that are free and that there are; on a CPU those of its host."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + cached, total
    page = os.sysconf("SC_PAGE_SIZE")
    return page * os.sysconf("SC_AVPHYS_PAGES"), page * os.sysconf("SC_PHYS_PAGES")


def give_back(device: torch.device, *, thoroughly: bool = False) -> None:
    """Let others have the memory that this process holds of a device without need; `thoroughly` looks for circles."""
    if thoroughly:
        gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _gb(size: Any) -> str:
    return f"{size / 1e9:.3g} GB"
