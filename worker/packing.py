"""A training state as the bytes of a safetensors file, and back, with no copy more than there must be.

Written and read here, by https://github.com/huggingface/safetensors#format: the library takes five times as long for
the many small tensors of a small network, before each next segment of its training, and holds a large one twice.
Nothing in it can run code; what does not have the format of `cache_key.FORMAT`, or its own key inside, is `Damaged`.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Annotated, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, Field, ValidationError, model_validator
from pydantic_core import to_json
from torch import Tensor

from lrtune.wire.results import Report
from worker.cache_key import FORMAT
from worker.snapshot import Snapshot

# What safetensors calls them.
DTYPES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.uint16: "U16",
    torch.uint32: "U32",
    torch.uint64: "U64",
    torch.int8: "I8",
    torch.int16: "I16",
    torch.int32: "I32",
    torch.int64: "I64",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.complex64: "C64",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
}
NAMES = {name: dtype for dtype, name in DTYPES.items()}
Bytes = NDArray[np.uint8]


class Damaged(Exception):
    """A state that is not what its name says."""


@dataclass(frozen=True, slots=True)
class Packed:
    """The bytes of a state's file: how many, and one part after the other, each brought from its device when asked."""

    size: int
    parts: Iterator[Any]


def packed(state: Snapshot, *, key: str) -> Packed:
    """A state as a file. Raises OSError for tensors that the format does not know; so may a part when it is asked."""
    notes = to_json({"format": FORMAT, "key": key, **state.notes}, inf_nan_mode="constants").decode()
    head: dict[str, Any] = {"__metadata__": {"lrtune": notes}}
    aligned, end = sorted(state.tensors.items(), key=lambda item: -item[1].element_size()), 0
    for name, tensor in aligned:
        if tensor.dtype not in DTYPES:
            raise OSError(f"the state cannot be written: {name} is of {tensor.dtype}")
        begin, end = end, end + tensor.element_size() * tensor.numel()
        head[name] = {"dtype": DTYPES[tensor.dtype], "shape": tuple(tensor.shape), "data_offsets": [begin, end]}
    written = to_json(head)
    written += b" " * (-len(written) % 8)
    first = len(written).to_bytes(8, "little") + written
    return Packed(len(first) + end, _parts(first, [tensor for _, tensor in aligned]))


def _parts(first: bytes, tensors: list[Tensor]) -> Iterator[Any]:
    yield first
    for tensor in tensors:
        try:
            yield _plain(tensor.cpu().contiguous())
        except (RuntimeError, NotImplementedError, TypeError) as error:
            raise OSError(f"the state cannot be written: {error}") from error


def _plain(tensor: Tensor) -> Bytes:
    """A tensor's bytes; NumPy has no bfloat16 and no eight-bit floats."""
    return tensor.reshape(-1).view(torch.uint8).numpy()


class _Beginning(BaseModel):
    """What every state says of its training, whatever was trained: each report and each stretch up to its step."""

    step: Annotated[int, Field(ge=1)]
    reports: list[Report]
    trained: Annotated[list[tuple[int, str]], Field(min_length=1)]

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        for places in ([one.step for one in self.reports], [step for step, _ in self.trained]):
            if (
                any(not before < after for before, after in pairwise([0, *places]))
                or max(places, default=0) > self.step
            ):
                raise ValueError(f"its steps {places} are not those of a training of {self.step} steps")
        if self.trained[-1][0] != self.step:
            raise ValueError(f"nobody trained it up to its step {self.step}")
        return self


def unpacked(data: Bytes, *, key: str, step: int) -> Snapshot:
    """A state from the bytes of a file, which its tensors are views of. Raises Damaged."""
    try:
        tensors, notes = _read(data)
    except (ValueError, KeyError, TypeError, IndexError, RuntimeError, AttributeError, RecursionError) as error:
        raise Damaged(f"it cannot be read: {error}") from error
    if not isinstance(notes, dict):
        raise Damaged("it cannot be read: its notes are no object")
    if notes.get("format") != FORMAT:
        raise Damaged(f"it is of format {notes.get('format')}; this worker reads {FORMAT}")
    if notes.get("key") != key:
        raise Damaged("it is another state than its name says")
    try:
        said = _Beginning.model_validate(notes)
    except ValidationError as error:
        first = error.errors()[0]
        raise Damaged(f"it says what no training does: {'.'.join(map(str, first['loc']))} {first['msg']}") from error
    if said.step != step:
        raise Damaged(f"it is of step {said.step}, and its name says {step}")
    return Snapshot(tensors, notes)


def _read(data: Bytes) -> tuple[dict[str, Tensor], Any]:
    """The tensors and the notes; what the format forbids raises ValueError, or whatever comes of it."""
    length = int.from_bytes(data[:8].tobytes(), "little")
    head = json.loads(data[8 : 8 + length].tobytes()) if 8 + length <= len(data) else None
    if not isinstance(head, dict):
        raise ValueError("its header is no object")
    notes, end, tensors = json.loads(head.pop("__metadata__")["lrtune"]), 0, dict[str, Tensor]()
    content = torch.from_numpy(data[8 + length :])
    for name, said in sorted(head.items(), key=lambda item: item[1]["data_offsets"]):
        dtype, shape, (begin, last) = NAMES[said["dtype"]], said["shape"], said["data_offsets"]
        if not all(type(size) is int and size >= 0 for size in (*shape, begin, last)):
            raise ValueError(f"{name} has no size")
        if begin != end or last != begin + prod(shape) * dtype.itemsize or last > len(content):
            raise ValueError(f"{name} does not lie where its header says")
        # Torch cannot see nothing as another type.
        tensors[name] = (
            content[begin:last].view(dtype).reshape(shape) if begin < last else torch.empty(shape, dtype=dtype)
        )
        end = last
    if end != len(content):
        raise ValueError(f"its {len(content)} bytes hold {end} bytes of tensors")
    return tensors, notes
