"""Arrays of NumPy and JAX in a checkpoint: kept as tensors, which are read as data alone.

Whoever reads one back finds NumPy's, which JAX takes as its own.
"""

import sys
from collections.abc import Callable
from typing import Any

import torch

ARRAY, NUMBER = "lrtune.array", "lrtune.number"  # the one key of what stands for an array, or a number of NumPy's


def packed(state: Any) -> Any:
    """A state with tensors for arrays and for NumPy's numbers; what has none of these is what it was."""
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return state
    number = isinstance(state, numpy.generic)
    of_jax = type(state).__module__.partition(".")[0] in ("jax", "jaxlib")
    if not number and not of_jax and not isinstance(state, numpy.ndarray):
        return _within(state, packed)
    try:
        return {NUMBER if number else ARRAY: torch.from_numpy(numpy.array(state))}
    except TypeError:  # of objects, or of numbers that torch does not have: refused where it is written, as all such is
        return state


def unpacked(state: Any) -> Any:
    """A state as it was packed."""
    if isinstance(state, dict) and len(state) == 1:
        if ARRAY in state:
            return state[ARRAY].numpy()
        if NUMBER in state:
            return state[NUMBER].numpy()[()]
    return _within(state, unpacked)


def _within(state: Any, change: Callable[[Any], Any]) -> Any:
    """The same with its parts changed. A container without such is left as it is, with whatever else is in its type."""
    if isinstance(state, dict):
        named = {name: change(part) for name, part in state.items()}
        return named if any(named[name] is not part for name, part in state.items()) else state
    if type(state) in (list, tuple):
        parts = [change(part) for part in state]
        return type(state)(parts) if any(new is not old for new, old in zip(parts, state, strict=True)) else state
    return state
