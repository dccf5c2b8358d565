"""One trial over several devices of one host: torch's DistributedDataParallel, this process the first of a team.

The others only follow: the first broadcasts a factor of the rate, and they take their share of the same batch and move
their copy of the model. Reports, pruning, the lease and every decision stay with the first. The gradient of a batch is
the mean over all its examples, however many each device has.
"""

import signal
import tempfile
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch import multiprocessing as processes
from torch.nn.parallel import DistributedDataParallel

from lrtune.errors import TaskError

PATIENCE = 30.0  # seconds for the others to end by themselves
Follow = Callable[["Member"], None]


class Member:
    """A process's place in a team."""

    def __init__(self, rank: int, size: int, device: torch.device, meeting: str) -> None:
        self.rank, self.size, self.device, self._meeting = rank, size, device, meeting

    def join(self) -> None:
        """Wait until all are there."""
        backend = "nccl" if self.device.type == "cuda" else "gloo"
        distributed.init_process_group(
            backend, init_method=f"file://{self._meeting}", rank=self.rank, world_size=self.size
        )

    def leave(self) -> None:
        """Close the connections."""
        distributed.destroy_process_group()

    def wrapped(self, model: nn.Module) -> nn.Module:
        """The model with its gradients averaged over the team; all begin with the first one's weights."""
        found = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=found, find_unused_parameters=True)

    def summed(self, loss: Tensor) -> Tensor:
        """A loss, added up over the team."""
        distributed.all_reduce(loss)
        return loss

    def broadcast(self, factor: float | None = None) -> float | None:
        """The factor of the next step: the first gives it, the others receive it. None when there is no next step."""
        sent = torch.tensor([float("nan") if factor is None else factor], dtype=torch.float64, device=self.device)
        distributed.broadcast(sent, src=0)
        received = float(sent)
        return None if received != received else received


class Team:
    """A `with` around a trial: the first member, and the processes of the others, which run `follow`."""

    def __init__(self, size: int, device: torch.device, follow: Follow) -> None:
        if device.type == "cuda" and torch.cuda.device_count() < size:
            raise TaskError(f"training.devices: found {size}; this host has {torch.cuda.device_count()}")
        self._folder = tempfile.TemporaryDirectory(prefix="lrtune-team-")
        self._errors = processes.get_context("spawn").SimpleQueue()
        meeting = str(Path(self._folder.name) / "meeting")
        self.first, *others = (Member(rank, size, _device(device, rank), meeting) for rank in range(size))
        spawn = processes.get_context("spawn").Process
        self._others = [spawn(target=_run, args=(follow, one, self._errors), daemon=True) for one in others]

    def __enter__(self) -> Member:
        for process in self._others:
            process.start()
        self.first.join()
        return self.first

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        words = None if self._errors.empty() else self._errors.get()
        if words is None:
            with suppress(RuntimeError):  # one that has died hears nothing
                self.first.broadcast(None)
        for process in self._others:
            process.join(0 if words else PATIENCE)
            process.kill()
        with suppress(RuntimeError):
            self.first.leave()
        self._folder.cleanup()
        if words is not None:
            raise TaskError(words) from error
        dead = [process.exitcode for process in self._others if process.exitcode not in (0, None)]
        if isinstance(error, RuntimeError) and dead:
            raise TaskError(f"a process that trained on another device died (exit code {dead[0]})") from error


def _device(first: torch.device, rank: int) -> torch.device:
    return torch.device("cuda", (first.index or 0) + rank) if first.type == "cuda" else first


def _run(follow: Follow, member: Member, errors: Any) -> None:
    """What another process of the team does; what goes wrong there is reported to the first."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # meant for the first, which says when it is over
    torch.set_num_threads(1)
    member.join()
    try:
        follow(member)
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        errors.put(f"{type(error).__name__} on device {member.rank + 1} of {member.size}: {error} (in {frame.name})")
        raise SystemExit(1) from None
    member.leave()
