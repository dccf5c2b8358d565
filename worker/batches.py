"""Batches, whatever they are made of: tensors, or tuples, lists and mappings of them; counted and split."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor


def mapped(batch: Any, change: Callable[[Tensor], Any]) -> Any:
    """A batch with each of its tensors changed."""
    if isinstance(batch, Tensor):
        return change(batch)
    if isinstance(batch, Mapping):
        return {key: mapped(part, change) for key, part in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(mapped(part, change) for part in batch))
    if isinstance(batch, list | tuple):
        return type(batch)(mapped(part, change) for part in batch)
    return batch


def examples(batch: Any) -> int:
    """How many examples a batch has: the length of its first tensor that has one."""
    sizes: list[int] = []
    mapped(batch, lambda tensor: sizes.append(len(tensor)) if tensor.dim() else None)
    return sizes[0] if sizes else 1


def split(batch: Any, parts: int) -> list[tuple[float, Any]]:
    """A batch in parts, each with its share of the examples; what does not run over examples goes into every part."""
    if parts == 1:
        return [(1.0, batch)]
    size = examples(batch)
    places = [tensor for tensor in torch.arange(size).tensor_split(parts) if len(tensor)]
    ends = [(int(place[0]), int(place[-1]) + 1) for place in places]
    return [((high - low) / size, mapped(batch, _cut(low, high, size))) for low, high in ends]


def _cut(low: int, high: int, size: int) -> Callable[[Tensor], Tensor]:
    return lambda tensor: tensor[low:high] if tensor.dim() and len(tensor) == size else tensor
