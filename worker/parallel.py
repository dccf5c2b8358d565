"""One trial over several devices: torch's DistributedDataParallel, this process the first of a team. `Team` starts the
others on this host; over several nodes Ray does (`worker/gang.py`). `worker/sharded.py` spreads weights over them, too.

The others only follow: the first orders each step at a factor of the rate, and they take their share of the same batch
and move their copy of the model. Reports, pruning, the lease, checkpoints and every decision stay with the first. The
gradient of a batch is the mean over all its examples, however many each device has. What may differ between devices is
where their random generators stand, so a training state is the first one's and the generators of all.
"""

import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import timedelta
from enum import IntEnum
from functools import partial
from multiprocessing import connection
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch import multiprocessing as processes
from torch.distributed import FileStore, Store  # type: ignore[attr-defined]
from torch.nn.parallel import DistributedDataParallel

from lrtune.errors import TaskError

PATIENCE = 30.0  # seconds for the others to end when all went well
GRACE = 5.0  # seconds in which it shows whether one of them has died when the first cannot go on
SILENCE = timedelta(hours=12)  # for which the first may give no order: it measures, or loads a checkpoint
LONGEST = 500  # characters of what went wrong on another device
RAISED = 1  # the exit code of a process that has said what went wrong
T = TypeVar("T")
Follow = Callable[["Member"], None]


class Died(Exception):
    """A process of the team was killed or crashed; the trial can be taken up from its last state."""


class Order(IntEnum):
    """What the first tells the others to do next."""

    BEGIN = 0  # make the training anew
    RESTORE = 1  # bring it to the state that follows
    STATE = 2  # give your part of the training's state
    STEP = 3  # train one step, at this factor of the peak rate
    END = 4
    MEASURE = 5  # take part in measuring


class Member:
    """A process's place in a team. Orders and what is told go over a group of their own, in the CPU's memory."""

    _orders: distributed.ProcessGroup

    def __init__(
        self,
        rank: int,
        device: torch.device,
        size: int,
        meet: Callable[[], Store],
        *,
        silence: timedelta | None = None,
    ) -> None:
        """`meet` opens the store where all find each other; after so much `silence` in a step somebody is gone."""
        self.rank, self.device, self.size, self._meet, self._silence = rank, device, size, meet, silence

    def join(self) -> None:
        """Wait until all are there."""
        backend = "nccl" if self.device.type == "cuda" else "gloo"
        distributed.init_process_group(
            backend, store=self._meet(), rank=self.rank, world_size=self.size, timeout=self._silence
        )
        self._orders = distributed.new_group(backend="gloo", timeout=SILENCE)

    def leave(self, *, at_once: bool = False) -> None:
        """Close the connections; at once where the others may be gone, for whose answers NCCL would wait."""
        if not distributed.is_initialized():  # it did not come to that
            return
        if at_once and self.device.type == "cuda":
            distributed.distributed_c10d._abort_process_group()
        else:
            distributed.destroy_process_group()

    def wrapped(self, model: nn.Module) -> nn.Module:
        """The model with its gradients averaged over the team; all begin with the first one's weights."""
        found = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=found, find_unused_parameters=True)

    def summed(self, loss: Tensor) -> Tensor:
        """A loss, added up over the team."""
        distributed.all_reduce(loss)
        return loss

    def order(self, order: Order, factor: float = 0.0) -> None:
        """As the first: tell the others what comes next. From one of them it is nothing."""
        if self.rank == 0:
            distributed.broadcast(torch.tensor([order, factor], dtype=torch.float64), src=0, group=self._orders)

    def heard(self) -> tuple[Order, float]:
        """As another one: what comes next, and at which factor; where the first is gone it is the end."""
        words = torch.zeros(2, dtype=torch.float64)
        try:
            distributed.broadcast(words, src=0, group=self._orders)
        except RuntimeError:
            return Order.END, 0.0
        order, factor = words.tolist()
        return Order(int(order)), factor

    def gathered(self, own: T) -> list[T]:
        """What each member has, by rank, for the first; nothing for the others."""
        found: list[Any] | None = None if self.rank else [None] * self.size
        distributed.gather_object(own, found, dst=0, group=self._orders)
        return found or []

    def agreed(self, fine: bool) -> bool:
        """Whether it went well with every member."""
        worst = torch.tensor([fine], dtype=torch.uint8)
        distributed.all_reduce(worst, op=distributed.ReduceOp.MIN, group=self._orders)
        return bool(worst)

    def send(self, tensors: Mapping[str, Tensor], notes: Any, *, through: torch.device) -> None:
        """As the first: give the others tensors and notes, one tensor after the other, through such a device."""
        shapes = {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
        distributed.broadcast_object_list([shapes, notes], src=0, group=self._orders)
        for tensor in tensors.values():
            distributed.broadcast(_bytes(tensor.to(through).contiguous()), src=0, group=self._way(through))

    def receive(self, *, through: torch.device) -> tuple[dict[str, Tensor], Any]:
        """As another one: what the first sends, on this device."""
        head: list[Any] = [None, None]
        distributed.broadcast_object_list(head, src=0, group=self._orders)
        tensors = {name: torch.empty(shape, dtype=dtype, device=through) for name, (shape, dtype) in head[0].items()}
        for tensor in tensors.values():
            distributed.broadcast(_bytes(tensor), src=0, group=self._way(through))
        return tensors, head[1]

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Let all have what the first has in these."""
        for tensor in tensors:
            said = tensor.contiguous()
            distributed.broadcast(_bytes(said), src=0)
            if said is not tensor:
                tensor.copy_(said)

    def _way(self, through: torch.device) -> distributed.ProcessGroup | None:
        return self._orders if through.type == "cpu" else None


class Team:
    """A `with` around a trial: the first member, and the processes of the others, which run `follow`.

    They are forked from a server that has imported what `worker/__main__.py` says, so that a stage begins at once.
    Raises TaskError for what goes wrong in one of them, Died where one is gone.
    """

    def __init__(self, size: int, device: torch.device, follow: Follow) -> None:
        found = devices(device, size)
        self._folder = tempfile.TemporaryDirectory(prefix="lrtune-team-")
        meet = partial(FileStore, str(Path(self._folder.name) / "meeting"), size)
        self.first, *others = (Member(rank, one, size, meet) for rank, one in enumerate(found))
        context = processes.get_context("forkserver")
        self._heard, self._says = context.Pipe(duplex=False)
        self._others = [context.Process(target=_run, args=(follow, one, self._says), daemon=True) for one in others]

    def __enter__(self) -> Member:
        try:
            for process in self._others:
                process.start()
            self._meet()
            self.first.join()
        except BaseException:
            self._dismiss()
            raise
        return self.first

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        words = self._heard.recv() if self._heard.poll() else None
        died = self._wait(GRACE) if isinstance(error, RuntimeError) else ""
        if error is None:
            with suppress(RuntimeError):  # one that has died hears nothing
                self.first.order(Order.END)
        with suppress(RuntimeError):
            self.first.leave(at_once=error is not None)
        if error is None:
            self._wait(PATIENCE)
        self._dismiss()  # a traceback may hold the model, and so the connections; nothing of theirs is needed
        if died:
            raise Died(died) from error
        if words is not None:
            raise TaskError(words) from error

    def _meet(self) -> None:
        """Wait until the others are ready to join; nobody waits for one that has died on its way."""
        for _ in self._others:
            if self._heard not in connection.wait([self._heard, *(process.sentinel for process in self._others)]):
                raise Died(f"{self._died(fine=(None,))} before it was ready; the worker's log may say why")
            self._heard.recv()

    def _wait(self, seconds: float) -> str:
        """Wait until one of the others is known to have died, or all have ended; who died, in words."""
        end = time.monotonic() + seconds
        while not (died := self._died()) and (left := end - time.monotonic()) > 0:
            there = [process.sentinel for process in self._others if process.exitcode is None]
            if not there:
                break
            connection.wait(there, left)
        return died

    def _dismiss(self) -> None:
        for process in self._others:
            if process.pid is not None:
                process.kill()
                process.join()
        self._says.close()
        self._heard.close()
        self._folder.cleanup()

    def _died(self, *, fine: tuple[int | None, ...] = (0, RAISED, None)) -> str:
        """Who of the others has ended with another exit code than these, in words; nothing where nobody has."""
        for rank, process in enumerate(self._others, start=2):
            code = process.exitcode
            if code not in fine:
                how = signal.Signals(-code).name if code and code < 0 else f"exit code {code}"
                return f"the process on device {rank} of {self.first.size} died ({how})"
        return ""


def devices(first: torch.device, count: int) -> list[torch.device]:
    """The devices of a team. Raises TaskError where the host has not so many."""
    if first.type != "cuda":
        return [first] * count
    start, there = first.index or 0, torch.cuda.device_count()
    if start + count > there:
        raise TaskError(
            f"training.devices: found {count}; this host has {there}, of which this worker's is number {start}"
        )
    return [torch.device("cuda", start + rank) for rank in range(count)]


def explained(error: BaseException, member: Member) -> str:
    """What went wrong on a device, in words."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    words = f"{type(error).__name__} on device {member.rank + 1} of {member.size}: {error} (in {frame.name})"
    return words[:LONGEST]


def _bytes(tensor: Tensor) -> Tensor:
    """The memory of a contiguous tensor: no backend knows every type."""
    return tensor.reshape(-1).view(torch.uint8)


def _run(follow: Follow, member: Member, says: "connection.Connection") -> None:
    """What another process of the team does; what goes wrong there is reported to the first."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # meant for the first, which says when it is over
    processes.current_process().daemon = False  # a task may load its batches in processes of its own
    torch.set_num_threads(1)
    says.send("ready")
    try:
        member.join()
        follow(member)
    except BaseException as error:  # a task may even call sys.exit()
        with suppress(OSError):
            says.send(explained(error, member))
        raise SystemExit(RAISED) from None
    member.leave()
