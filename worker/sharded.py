"""A model whose weights are spread over a team's devices, by torch's FSDP2: each keeps its share of every weight,
gradient and moment, and has a layer's weights whole only while that layer computes.

Every process makes the same calls, because they meet at each layer. A state is of whole tensors, as that of any other
training, so that it fits one over another number of devices.
"""

import gc
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeGuard, cast

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh

from lrtune.errors import TaskError

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

PARTED = (  # torch's words where weights are met that are not whole
    "mixed torch.Tensor and DTensor",
    "Sharding propagation failed",
    "running forward through the root module first",
    "FSDP does not support deepcopy",
)


def shard(model: nn.Module, device: torch.device) -> nn.Module:
    """The same model, its weights spread over the processes and this one's share on its device. Raises TaskError."""
    from torch.distributed.fsdp import fully_shard  # the time that takes is nobody else's
    from torch.distributed.tensor import DTensor

    # Torch would read this device's part as if it were the number.
    DTensor._op_dispatcher._custom_op_handlers[torch.ops.aten._local_scalar_dense.default] = _number
    if device.type == "cuda":
        torch.cuda.set_device(device)  # FSDP has its weights on the current one
    mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
    before = {name: weakref.ref(weight) for name, weight in model.named_parameters()}
    try:
        for one in (*_layers(model), model):
            fully_shard(one, mesh=mesh, reshard_after_forward=True)
    except (ValueError, NotImplementedError, AssertionError) as error:
        raise TaskError(f"training.sharded: torch cannot shard this model: {error}; accepted is false") from error
    _require_forgotten(before)
    return model


def _require_forgotten(before: "dict[str, weakref.ref[nn.Parameter]]") -> None:
    """Raise TaskError where a weight is still held as it was: whoever computes with that one trains nothing."""
    if any(weight() is not None for weight in before.values()):
        gc.collect()
    if held := [name for name, weight in before.items() if weight() is not None]:
        raise TaskError(
            f"training.sharded: the model or its task holds {', '.join(held[:3])}{' ...' if len(held) > 3 else ''} "
            "elsewhere than as a module's own weight, in a list for example, where it would not be trained; "
            "accepted is false"
        )


def _number(op_call: object, args: tuple[object, ...], kwargs: object) -> Any:  # noqa: ARG001 - torch's own names
    """The number that a tensor over all devices is; every process asks at the same time."""
    (tensor,) = args
    return whole(cast("Tensor", tensor)).item()


def _layers(model: nn.Module) -> Iterator[nn.Module]:
    """The outermost modules in a row of them that share no weight with others: each is whole while it computes."""
    everywhere = _held(model)
    for parent in _outside_layers(model):
        for child in parent.children() if isinstance(parent, nn.Sequential | nn.ModuleList) else ():
            held = _held(child)
            if held and not _only_holds(child) and all(everywhere[key] == count for key, count in held.items()):
                yield child


def _outside_layers(module: nn.Module) -> Iterator[nn.Module]:
    yield module
    in_a_row = isinstance(module, nn.Sequential | nn.ModuleList)
    for child in module.children():
        if not in_a_row or _only_holds(child):
            yield from _outside_layers(child)


def _only_holds(module: nn.Module) -> bool:
    """Whether nobody calls a module, as torch's containers: it would never be made whole."""
    return type(module).forward is nn.Module.forward


def _held(module: nn.Module) -> Counter[int]:
    """How many names each weight has below a module."""
    return Counter(id(weight) for _, weight in module.named_parameters(remove_duplicate=False))


@contextmanager
def whole_layers() -> Iterator[None]:
    """Around the code of a task: words for one that takes a layer's weights without calling the layer."""
    try:
        yield
    except (RuntimeError, AssertionError) as error:
        if not any(words in str(error) for words in PARTED):
            raise
        raise TaskError(
            "training.sharded: the task computes with the weights of a layer that it does not call, or of a model "
            "whose forward it goes around, and so finds a part of them; accepted is false"
        ) from error


def require_no_weights(loss: Tensor) -> None:
    """Raise TaskError for a loss that weights have come into otherwise than through their layers, as a penalty."""
    if _is_spread(loss):
        raise TaskError(
            "training.sharded: the loss has weights in it beside what the model answers, as a penalty of theirs; "
            "accepted is false, or a penalty that the layers compute"
        )


def whole(tensor: Tensor) -> Tensor:
    """A tensor with what all devices have of it; every process asks at the same time."""
    return tensor.full_tensor() if _is_spread(tensor) else tensor


def own(tensor: Tensor) -> Tensor:
    """What of a tensor lies on this device."""
    return tensor.to_local() if _is_spread(tensor) else tensor


def spread(kept: Tensor, parameter: Tensor) -> Tensor:
    """A whole tensor as its parameter lies: where that is spread and has its shape, this device's share of it."""
    if not _is_spread(parameter) or kept.shape != parameter.shape:
        return kept
    from torch.distributed.tensor import DTensor

    mesh, placed = parameter.device_mesh, parameter.placements
    shares = kept.chunk(mesh.size())  # as FSDP does: the last may be smaller, or have nothing
    rank = mesh.get_local_rank()
    share = shares[rank] if rank < len(shares) else kept[:0]
    here = share.to(parameter.device, copy=True)
    return DTensor.from_local(here, mesh, placed, run_check=False, shape=kept.shape, stride=kept.stride())


def _is_spread(tensor: Tensor) -> "TypeGuard[DTensor]":
    return hasattr(tensor, "full_tensor")
