"""A training as tensors and notes, and back: network, every optimizer, random generators, losses, reports.

Of a training over several devices it is that of the first, who keeps it, and of the others their random generators: all
else is the same there. Back in place it is sent to each of them, tensor by tensor. Where weights are spread over the
devices it has them whole, put together in the first one's memory beside its device.

A copy of one lies where the tensors are, so that the training can go on while a thread brings it to the store; who
writes it before the training goes on needs none. Nothing here can run code: names, numbers and bytes.
"""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lrtune.wire.results import Report
from worker.memory import out_of_memory
from worker.parallel import Member, Order
from worker.run import LiveRun
from worker.sharded import spread, whole


class Unfit(Exception):
    """A state that does not belong to this training, or a training of which no state can be taken."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The tensors of a training by name, and what else there is to know of it, as JSON has it."""

    tensors: dict[str, Tensor]
    notes: dict[str, Any]

    @property
    def size(self) -> int:
        """Its tensors' bytes."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def copied(self) -> "Snapshot":
        """The same, which the training does not change as it goes on."""
        alone = torch.contiguous_format
        return Snapshot({n: tensor.clone(memory_format=alone) for n, tensor in self.tensors.items()}, self.notes)


def take(run: LiveRun) -> Snapshot:
    """The state of a training after its step: good until the next step begins, then a copy of it is needed.

    Raises Unfit where the network keeps more than tensors.
    """
    extra, device, member = run.engine.state(), run.engine.device, run.engine.member
    there, numbers = _there(run)
    there |= {f"averaged/{name}": tensor for name, tensor in extra["averaged"].items()}
    on_cpu = [name for name, tensor in there.items() if tensor.device.type == "cpu"]
    if member is not None:
        member.order(Order.STATE)
    sharded = run.engine.training.sharded
    tensors = {name: one.cpu() if sharded else one for name, one in _wholes(there)}
    notes = {
        "step": run.step,
        "reports": [report.model_dump(exclude={"reused"}) for report in run.reports],
        "losses": run.losses.notes(),
        "optimizer": numbers,
        "groups": [_numbers(group) for group in run.engine.optimizer.groups],
        "cpu": on_cpu if device.type != "cpu" else [],
        "parts": run.engine.parts,
        "scaler": extra["scaler"],
    }
    mine = generators(device)
    found = [mine] if member is None else member.gathered(mine)
    for rank, (drawn, _) in enumerate(found):
        tensors |= {f"random/{rank}/{name}": tensor for name, tensor in drawn.items()}
    return Snapshot(tensors, notes | {"random": [rest for _, rest in found]})


def take_part(run: LiveRun, member: Member) -> None:
    """As another device: give the first what it needs for `take`."""
    if run.engine.training.sharded:
        for _ in _wholes(_there(run)[0]):
            pass  # to take part is enough
    member.gathered(generators(member.device))


def through(run: LiveRun, member: Member) -> torch.device:
    """Where a state lies on its way to the other devices: theirs need not have the room for all of it."""
    return torch.device("cpu") if run.engine.training.sharded else member.device


def restore(run: LiveRun, state: Snapshot) -> None:
    """Bring a fresh training to a state, on all its devices. Raises Unfit as `put` does."""
    member = run.engine.member
    if member is None:
        put(run, state)
        return
    member.order(Order.RESTORE)
    member.send(state.tensors, state.notes, through=through(run, member))
    restore_together(run, member, state)


def restore_together(run: LiveRun, member: Member, state: Snapshot) -> None:
    """`put` on each device of a team at the same time. Raises Unfit on all where one of them cannot."""
    unfit = None
    try:
        put(run, state)
    except Unfit as found:
        unfit = found
    if not member.agreed(unfit is None):
        raise unfit or Unfit("it does not fit this training on another device")


def put(run: LiveRun, state: Snapshot) -> None:
    """Bring a fresh training to a state. Raises Unfit, and leaves a training that is good for nothing, if it cannot.

    That memory runs out meanwhile is no fault of the state's, and raised as it is.
    """
    try:
        with torch.no_grad():
            for name, tensor in _network(run.engine.model):
                kept = state.tensors[f"model/{name}"]
                found, needed = (f"{one.dtype} {tuple(one.shape)}" for one in (kept, tensor))
                if found != needed:
                    raise ValueError(f"found {found}, needed {needed}")
                tensor.copy_(spread(kept, tensor))
        _put_optimizer(run, state)
        averaged = {n.removeprefix("averaged/"): t for n, t in state.tensors.items() if n.startswith("averaged/")}
        run.engine.load({"scaler": state.notes["scaler"], "averaged": averaged})
        run.engine.parts = int(state.notes["parts"])
        run.step, run.reports = state.notes["step"], [Report.model_validate(one) for one in state.notes["reports"]]
        run.losses.recall(state.notes["losses"])
        if run.reports:
            run.engine.model.train()  # as the trainer leaves it after measuring
        run.skip(run.step)
        rank = 0 if run.engine.member is None else run.engine.member.rank
        put_generators(run.engine.device, _drawn(state, rank), state.notes["random"][rank])
    except Exception as error:  # whoever wrote the state may have written anything into it
        if out_of_memory(error):
            raise  # the state is good
        raise Unfit(f"it does not fit this training: {type(error).__name__} {error}") from error


def _there(run: LiveRun) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The network's and the optimizer's tensors as they lie here, and what else the optimizer keeps. Raises Unfit."""
    tensors = {f"model/{name}": tensor for name, tensor in _network(run.engine.model)}
    numbers: dict[str, Any] = {}
    for name, value in _optimizer(run):
        (tensors if isinstance(value, Tensor) else numbers)[name] = value
    return tensors, numbers


def _wholes(there: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Each tensor whole, one after the other; where they are spread, on all devices at the same time."""
    for name, tensor in there.items():
        yield name, whole(tensor.detach())


def _network(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and all buffers, those that a state dict leaves out as well."""
    if any(type(module).get_extra_state is not nn.Module.get_extra_state for module in model.modules()):
        raise Unfit("the model keeps extra state that is not tensors")
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def _optimizer(run: LiveRun) -> Iterator[tuple[str, Any]]:
    """What each part of the optimizer keeps for each parameter, by place."""
    for part, optimizer in enumerate(run.engine.optimizer.parts):
        parameters = (parameter for group in optimizer.param_groups for parameter in group["params"])
        for place, parameter in enumerate(parameters):
            for name, value in optimizer.state.get(parameter, {}).items():
                yield f"optimizer/{part}/{place}/{name}", value


def _numbers(group: Mapping[str, Any]) -> dict[str, Any]:
    """What an optimizer keeps for a whole group: most nothing that changes, some their own step size and counts."""
    return {name: value for name, value in group.items() if isinstance(value, float | int) and name != "lr"}


def _put_optimizer(run: LiveRun, state: Snapshot) -> None:
    for group, kept in zip(run.engine.optimizer.groups, state.notes["groups"], strict=True):
        group.update(kept)
    found = {name: tensor for name, tensor in state.tensors.items() if name.startswith("optimizer/")}
    on_cpu = set(state.notes["cpu"])
    for name, value in {**found, **state.notes["optimizer"]}.items():
        _, part, place, knob = name.split("/", 3)
        optimizer = run.engine.optimizer.parts[int(part)]
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        device = torch.device("cpu") if name in on_cpu else run.engine.device
        parameter = parameters[int(place)]
        if isinstance(value, Tensor) and not _alike(value, parameter):
            raise ValueError(f"{name}: found {tuple(value.shape)} for a parameter of {tuple(parameter.shape)}")
        optimizer.state[parameter][knob] = _moved(value, parameter, device) if isinstance(value, Tensor) else value


def _moved(kept: Tensor, parameter: Tensor, device: torch.device) -> Tensor:
    """What an optimizer keeps for a parameter, as that lies.

    In a place of its own: what was read is views of one buffer, aligned otherwise.
    """
    there = spread(kept, parameter)
    return there if there is not kept else kept.to(device, copy=True)


def _alike(kept: Tensor, parameter: Tensor) -> bool:
    """Whether an optimizer can keep this for a parameter: as many axes, each whole, reduced, or one of the others."""
    return kept.dim() != parameter.dim() or all(size in (1, *parameter.shape) for size in kept.shape)


def generators(device: torch.device) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Every random generator of this process: Python's, NumPy's, torch's, the device's."""
    version, internal, gauss = random.getstate()
    legacy: Mapping[str, Any] = np.random.get_state(legacy=False)
    tensors = {
        "python": torch.from_numpy(np.array(internal, dtype=np.int64)),
        "numpy": torch.from_numpy(legacy["state"]["key"].astype(np.int64)),
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        tensors["cuda"] = torch.cuda.get_rng_state(device)
    rest = {"pos": int(legacy["state"]["pos"]), "has_gauss": legacy["has_gauss"], "gauss": float(legacy["gauss"])}
    return tensors, {"python": [version, gauss], "numpy": rest}


def put_generators(device: torch.device, tensors: Mapping[str, Tensor], notes: Mapping[str, Any]) -> None:
    """Put every random generator where `generators` found it."""
    # Copies: torch reads a generator's state as a structure, which must lie where a processor takes one.
    tensors = {name: one.to("cpu", copy=True) for name, one in tensors.items()}
    random.setstate((notes["python"][0], tuple(tensors["python"].tolist()), notes["python"][1]))
    rest, key = notes["numpy"], tensors["numpy"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", key, rest["pos"], rest["has_gauss"], rest["gauss"]))
    torch.set_rng_state(tensors["torch"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(tensors["cuda"], device)


def _drawn(state: Snapshot, rank: int) -> dict[str, Tensor]:
    """The random generators of one device's process, by name."""
    begin = f"random/{rank}/"
    return {name.removeprefix(begin): one for name, one in state.tensors.items() if name.startswith(begin)}
