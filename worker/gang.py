"""A trial over several nodes: the other members of a worker's team are actors that Ray has placed for it.

A worker of `lrtune fleet --devices-per-worker N` has a placement group of N places, so that no two workers ever wait
for each other's devices. The worker is in the first; in each of the others is a process that follows trial after trial.
For a trial they meet at a store of torch's, over TCP. Where one dies, the trial goes on from its last state once Ray
has put another in its place. Why not by Ray Train's TorchTrainer: `docs/decisions/0024`.
"""

import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import ray
import torch
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from lrtune.errors import TaskError
from lrtune.task import Task
from lrtune.wire.job import AdmittedJob, TaskSpec, Training
from lrtune.wire.results import Trial
from worker import cache_key, places
from worker.loop import device
from worker.memory import give_back
from worker.parallel import GRACE, LONGEST, PATIENCE, RAISED, Died, Member, Order, explained
from worker.process import start
from worker.settings import Settings
from worker.tasks import prepare
from worker.teams import Here
from worker.trainer import Interrupted, follow

SILENCE = timedelta(minutes=10)  # after which a node of which nothing is heard, not even that it is gone, is given up
AGAIN = 5.0  # seconds before a process is asked for again that could not begin
log = logging.getLogger("lrtune.fleet")


class Follower:
    """The process at another place. It finds data and tasks by its own settings, as a worker there would."""

    def __init__(self) -> None:
        self._here = Here(start())
        self._device = device(self._here.settings.device)
        self._task: Task  # the trial's
        self._launched: places.Processes

    def place(self) -> tuple[dict[str, Any], str]:
        """What of its device decides about the bits, and the name of its host."""
        return cache_key.place(self._device), socket.gethostname()

    def prepare(self, task: TaskSpec) -> str:
        """Have a task and its data here; why not, in words."""
        try:
            self._task = prepare(task, self._here.settings.data_dir, self._here.own)
        except BaseException as error:  # a task may even call sys.exit()
            return f"{type(error).__name__} on {socket.gethostname()}: {error}"[:LONGEST]
        return ""

    def follow(self, training: Training, trial: Trial, rank: int, meeting: tuple[str, int]) -> None:
        """Train a trial's share. What goes wrong is left in the store, and the end of this process tells the others."""
        store = TCPStore(*meeting, is_master=False)
        member = Member(rank, self._device, training.devices, lambda: store, silence=SILENCE)
        try:
            member.join()
            follow(self._task, trial, training, member)
            member.leave()
        except BaseException as error:  # a task may even call sys.exit()
            with suppress(RuntimeError):
                store.set(_words(rank), explained(error, member))
            os._exit(RAISED)
        give_back(self._device)

    def launch(self, asked: places.Asked, node: int) -> places.Look:
        """Start the processes of a command here. Raises OSError where the system cannot."""
        self._launched = places.Processes(asked, node)
        return self._launched.look()

    def look(self) -> places.Look:
        """How the processes of the command are."""
        return self._launched.look()

    def signal(self, number: int) -> None:
        """Send a signal to the processes of the command."""
        self._launched.signal(number)

    def end(self) -> list[tuple[int, str]]:
        """Kill what is left of the command; exit codes, and the end of what was printed."""
        return self._launched.end()


_remote: Any = ray.remote(Follower)


@dataclass(slots=True, eq=False)
class Other:
    """An actor at another place, and what it said of that as it began."""

    actor: Any
    placed: Any
    place: dict[str, Any] | None = None
    host: str = ""


class There:
    """The processes of a command at another place, as its actor says they are; `gone` makes words of its death."""

    def __init__(self, actor: Any, asked: places.Asked, node: int, gone: Callable[[], Died]) -> None:
        self._actor, self._gone, self._host = actor, gone, f"node {node + 1}"
        self._asking = actor.launch.remote(asked, node)
        self._seen = places.Look([None] * asked.processes, alive=True, silent=0.0)

    def look(self) -> places.Look:
        """How they were when they were last heard of."""
        if ray.wait([self._asking], timeout=0)[0]:
            try:
                self._seen = ray.get(self._asking)
            except ray.exceptions.RayTaskError as error:
                raise OSError(f"on {self._host}: {_last(error)}") from None
            except ray.exceptions.RayError as error:
                raise self._gone() from error
            self._asking = self._actor.look.remote()
        return self._seen

    def signal(self, number: int) -> None:
        """Send a signal to all."""
        self._actor.signal.remote(number)

    def end(self) -> list[tuple[int, str]]:
        """Kill what is left; of those whose actor is gone, or has not started them, nothing is known."""
        with suppress(ray.exceptions.RayError):
            found: list[tuple[int, str]] = ray.get(self._actor.end.remote(), timeout=PATIENCE)
            return found
        return []


class Gang(Here):
    """The places of a worker's placement group. Not before all are taken does it claim a trial."""

    def __init__(self, settings: Settings, group: Any, stop: threading.Event) -> None:
        super().__init__(settings)
        self._group, self._stop = group, stop
        self._others: dict[int, Other] = {}  # by their rank
        self.nodes = group.bundle_count

    def ready(self) -> bool:
        """Wait until Ray has placed the others, as long as that takes; False where the worker is to stop."""
        while not self._stop.is_set():
            for rank in range(1, self._group.bundle_count):
                if rank not in self._others:
                    self._others[rank] = self._begun(rank)
            awaited = {other.placed: rank for rank, other in self._others.items() if other.place is None}
            if not awaited:
                return True
            for ref in ray.wait([*awaited], timeout=1)[0]:
                self._arrived(awaited[ref])
        return False

    def count(self, device: torch.device) -> int:  # noqa: ARG002
        """For how many devices there is room."""
        return int(self._group.bundle_count)

    def place(self, device: torch.device, count: int) -> dict[str, Any]:
        """What of so many devices decides about the bits; of GPUs also which share a host, which NCCL heeds."""
        here = cache_key.place(device)
        if count == 1:
            return here
        others = [self._others[rank] for rank in self._ranks(count)]
        hosts = [socket.gethostname(), *(other.host for other in others)]
        near = {"hosts": [hosts.index(host) for host in hosts]} if device.type == "cuda" else {}
        return here | near | {"others": [other.place for other in others]}

    @contextmanager
    def team(self, spec: AdmittedJob, trial: Trial, device: torch.device) -> Iterator[Member]:
        """The devices that a trial asks for, this process the first. Raises TaskError and Died as `Team` does."""
        count = spec.training.devices
        store = TCPStore(_address(), 0, is_master=True, wait_for_workers=False)
        self._prepared(spec.task, count)
        refs = {
            rank: self._others[rank].actor.follow.remote(spec.training, trial, rank, (store.host, store.port))
            for rank in self._ranks(count)
        }
        first = Member(0, device, count, lambda: store, silence=SILENCE)
        try:
            first.join()
            yield first
        except BaseException as error:
            why = self._why(refs, store, GRACE if isinstance(error, RuntimeError) else 0)
            self._let_go(refs)
            with suppress(RuntimeError):
                first.leave(at_once=True)
            if why is not None:
                raise why from error
            raise
        with suppress(RuntimeError):  # one that has died hears nothing
            first.order(Order.END)
            first.leave()
        self._let_go(refs, after=PATIENCE)

    def _address(self) -> str:
        return _address()

    def _elsewhere(self, asked: places.Asked, node: int) -> places.Place:
        return There(
            self._others[node].actor, asked, node, lambda: self._died(node, asked.nodes, self._others.pop(node))
        )

    def _ranks(self, count: int) -> range:
        if count > (there := self._group.bundle_count):
            raise TaskError(f"training.devices: found {count}; this worker has {there} (--devices-per-worker)")
        return range(1, count)

    def _begun(self, rank: int) -> Other:
        """Ask Ray for the process of a place."""
        bundle = self._group.bundle_specs[rank]
        where = PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=rank)
        options = {"num_cpus": bundle.get("CPU", 0), "num_gpus": bundle.get("GPU", 0), "scheduling_strategy": where}
        actor = _remote.options(**options).remote()
        return Other(actor, actor.place.remote())

    def _arrived(self, rank: int) -> None:
        """Note what the process of a place has said as it began; where it could not begin, it does so again."""
        other = self._others[rank]
        try:
            other.place, other.host = ray.get(other.placed)
        except ray.exceptions.RayError as error:
            log.warning("the process on device %d could not begin: %s", rank + 1, _last(error))
            ray.kill(self._others.pop(rank).actor)
            self._stop.wait(AGAIN)

    def _prepared(self, task: TaskSpec, count: int) -> None:
        """Have the task at the other places before anybody waits in a step: a host may have to fetch its data first."""
        waiting = {self._others[rank].actor.prepare.remote(task): rank for rank in self._ranks(count)}
        while waiting:
            if self._stop.is_set():
                raise Interrupted("the worker was asked to stop")
            for ref in ray.wait([*waiting], timeout=1)[0]:
                rank = waiting.pop(ref)
                if _failed(ref):
                    raise self._died(rank, count, gone=self._others.pop(rank))
                if words := ray.get(ref):
                    raise TaskError(words)

    def _died(self, rank: int, count: int, gone: Other) -> Died:
        ray.kill(gone.actor)
        return Died(f"the process on device {rank + 1} of {count}, on {gone.host}, died")

    def _why(self, refs: dict[int, Any], store: TCPStore, seconds: float) -> Died | TaskError | None:
        """What has gone wrong on another device: one that was killed comes before those that found it gone."""
        ray.wait([*refs.values()], num_returns=len(refs), timeout=seconds)
        over = ray.wait([*refs.values()], num_returns=len(refs), timeout=0)[0]
        said = [store.get(_words(rank)).decode() for rank in refs if store.check([_words(rank)])]
        for rank, ref in refs.items():
            if ref in over and not store.check([_words(rank)]) and _failed(ref):
                return self._died(rank, len(refs) + 1, self._others[rank])
        return TaskError(said[0]) if said else None

    def _let_go(self, refs: dict[int, Any], *, after: float = 0.0) -> None:
        """Keep the processes that have come to their end by then, and end the others."""
        over = ray.wait([*refs.values()], num_returns=len(refs), timeout=after)[0]
        for rank, ref in refs.items():
            if ref not in over or _failed(ref):
                ray.kill(self._others.pop(rank).actor)


def _address() -> str:
    """Of this node, as the others know it."""
    return str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]


def _words(rank: int) -> str:
    """Under which name the store has what went wrong on a device."""
    return f"words/{rank}"


def _failed(ref: Any) -> bool:
    try:
        ray.get(ref)
    except ray.exceptions.RayError:
        return True
    return False


def _last(error: Exception) -> str:
    return str(error).strip().splitlines()[-1]
