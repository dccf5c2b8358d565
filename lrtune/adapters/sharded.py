"""Checkpoints of a training whose parameters are spread over processes (DTensor, as FSDP2's `fully_shard` makes them).

Every process writes the shards that it has with torch's distributed checkpoint, one directory for all, and reads them
back. All that is no DTensor stays in the process's own state, with what a shard was like in its place. Reading one runs
no code: tensors are loaded with torch's `weights_only`, and of the classes that torch's `.metadata` may name, a pickle,
only those that it needs are found.
"""

import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard
from torch.distributed.tensor.placement_types import _StridedShard

from lrtune.adapters.folder import BROKEN, Broken, first_line

SHARD = "dtensor"  # the key that marks the place of one in a state
_METADATA = "torch.distributed.checkpoint.metadata"
_FOUND = {
    _METADATA: {
        *("Metadata", "MetadataIndex", "TensorStorageMetadata", "ChunkStorageMetadata", "TensorProperties"),
        *("StorageMeta", "_MEM_FORMAT_ENCODING"),
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch": {"Size", *(name for name, one in vars(torch).items() if isinstance(one, torch.dtype))},
    "torch.serialization": {"_get_layout"},
}
_PLACED: dict[str, Callable[..., Placement]] = {
    "shard": Shard,
    "strided": lambda dim, split: _StridedShard(dim, split_factor=split),
    "replicate": Replicate,
    "partial": Partial,
}


def is_sharded(objects: Iterable[Any]) -> bool:
    """Whether a model among these has parameters that are spread over processes."""
    return any(isinstance(one, DTensor) for made in objects if isinstance(made, nn.Module) for one in made.parameters())


def save(state: Mapping[str, Any], path: Path, group: Any) -> dict[str, Any]:
    """Write a state's shards into a directory, in all processes; the state without them. Raises what torch raises."""
    shards: dict[str, DTensor] = {}
    rest: dict[str, Any] = _mapped(state, "", lambda at, one: _taken(at, one, shards))
    state_dict_saver.save(shards, storage_writer=_Writer(path), process_group=group)
    return rest


def load(state: Mapping[str, Any], path: Path, objects: Iterable[Any], group: Any) -> dict[str, Any]:
    """A state with its shards, read from a directory in all processes. Raises Broken for what cannot be read."""
    meshes = {_mesh(one): one.device_mesh for one in _parameters(objects)}
    shards: dict[str, DTensor] = {}
    found: dict[str, Any] = _mapped(state, "", lambda _, one: _empty(one, meshes, shards))
    try:
        state_dict_loader.load(shards, storage_reader=_Reader(path), planner=_Planner(), process_group=group)
    except (CheckpointException, *BROKEN) as error:
        causes = list(error.failures.values()) if isinstance(error, CheckpointException) else [(error, None)]
        raise Broken(f"the checkpoint {path.name} cannot be read: {first_line(causes[0][0])}") from error
    return found


def _mapped(value: Any, at: str, change: Callable[[str, Any], Any]) -> Any:
    """A nested state with `change` made of its shards, and of what stands for them."""
    if isinstance(value, DTensor) or (isinstance(value, dict) and SHARD in value):
        return change(at, value)
    if isinstance(value, Mapping):
        return {key: _mapped(one, f"{at}.{key}", change) for key, one in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_mapped(one, f"{at}.{place}", change) for place, one in enumerate(value))
    return value


def _taken(at: str, one: DTensor, shards: dict[str, DTensor]) -> dict[str, Any]:
    """Put a shard where torch writes it; what it is like. Processes of other meshes may have their own at its name."""
    mesh, local = _mesh(one), one.to_local()
    shards[name := f"{at}@{min(mesh[1])}"] = one
    layout = {"mesh": mesh, "placed": [_said(placement) for placement in one.placements]}
    size = {"shape": list(one.shape), "stride": list(one.stride()), "local": list(local.shape), "dtype": one.dtype}
    return {SHARD: name, "device": local.device.type, **layout, **size}


def _empty(said: Mapping[str, Any], meshes: Mapping[Any, Any], shards: dict[str, DTensor]) -> DTensor:
    mesh = meshes.get(said["mesh"])
    if mesh is None:
        raise Broken(f"found no parameters that are sharded over the processes {list(said['mesh'][1])}, as were kept")
    local = torch.empty(said["local"], dtype=said["dtype"], device=said["device"])
    placed = [_PLACED[kind](*more) for kind, *more in said["placed"]]
    shape, stride = torch.Size(said["shape"]), tuple(said["stride"])
    made = DTensor.from_local(local, mesh, placed, run_check=False, shape=shape, stride=stride)
    shards[said[SHARD]] = made
    return made


def _said(placement: Placement) -> tuple[Any, ...]:
    """A placement in words. Raises ValueError for one that torch alone knows."""
    if isinstance(placement, _StridedShard):
        return "strided", placement.dim, placement.split_factor
    if type(placement) is Shard:
        return "shard", placement.dim
    if type(placement) is Replicate:
        return ("replicate",)
    if type(placement) is Partial:
        return "partial", placement.reduce_op
    raise ValueError(f"found parameters placed by {placement}; accepted are Shard, Replicate and Partial")


def _mesh(one: DTensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shape of a mesh, and its processes."""
    found = one.device_mesh.mesh
    return tuple(found.shape), tuple(found.flatten().tolist())


def _parameters(objects: Iterable[Any]) -> Iterator[DTensor]:
    for made in objects:
        if isinstance(made, nn.Module):
            yield from (one for one in made.parameters() if isinstance(one, DTensor))


class _Planner(DefaultLoadPlanner):
    def load_bytes(self, *_: Any) -> None:
        """Refuse: we have written tensors only, and torch would unpickle this."""
        raise Broken("found something in the checkpoint that is no tensor")


class _Writer(FileSystemWriter):
    def storage_meta(self) -> None:
        """Nothing: torch would write down where the directory lay while it was filled, as a class of Python's own."""


class _Reader(FileSystemReader):
    def read_metadata(self, *args: Any, **kwargs: Any) -> Any:
        """What lies where. Raises Broken for what runs code, or lies elsewhere."""
        with Path(self.path, ".metadata").open("rb") as file:
            found = _Unpickler(file).load()
        if any(Path(one.relative_path).name != one.relative_path for one in found.storage_data.values()):
            raise Broken("the checkpoint's .metadata names files of another folder")
        return found


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """A class that torch's metadata is made of."""
        if name not in _FOUND.get(module, ()):
            raise pickle.UnpicklingError(f".metadata names {module}.{name}, which no checkpoint of ours has")
        return super().find_class(module, name)
