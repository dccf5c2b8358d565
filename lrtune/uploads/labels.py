"""The labels of an npz file as classes: whole numbers or names, one for each example, however they were written."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrtune.errors import UnusableFile
from lrtune.uploads import parts
from lrtune.wire.datasets import FEW

MOST_CLASSES = 1000
ROWS = 4096  # looked at together
LARGEST = 2**53  # whole numbers above which a float may be another


def classes(y: NDArray[Any], name: str) -> NDArray[Any]:
    """[n] of whole numbers or words, from these, from floats that are whole, from [n, 1] and from one-hot rows."""
    if y.ndim and y.size == len(y):
        flat = y.reshape(-1)
    elif y.ndim == 2 and y.dtype.kind in "uifb":
        return _one_hot(y, name)
    else:
        raise UnusableFile(f"{name} is of shape {list(y.shape)}; accepted is one label each, [n], [n, 1] or one-hot")
    if flat.dtype.kind == "S":
        return np.array([word.decode("utf-8", errors="replace") for word in flat.tolist()], dtype=str)
    if flat.dtype.kind == "f":
        return _whole(flat, name)
    if flat.dtype.kind not in "uibU":
        raise UnusableFile(f"the array {name} holds {str(y.dtype)[:60]}; accepted are one whole number or name each")
    return flat.astype(str) if flat.dtype.kind in "bU" else flat


def _whole(y: NDArray[Any], name: str) -> NDArray[np.int64]:
    wrong = ~np.isfinite(y) | (y != np.round(y)) | (np.abs(y) > LARGEST)
    if wrong.any():
        place = int(np.argmax(wrong))
        found = f"{y[place]:g} at {place} (counted from 0)"
        raise UnusableFile(f"the array {name} has {found}; accepted are classes, one whole number or name each")
    return y.astype(np.int64)


def _one_hot(y: NDArray[Any], name: str) -> NDArray[np.int64]:
    """The column of the 1 in each row."""
    wrong = np.empty(len(y), dtype=bool)
    for start in range(0, len(y), ROWS):  # a mask of all of it would be as large again
        some = y[start : start + ROWS]
        wrong[start : start + ROWS] = ((some != 0).sum(axis=1) != 1) | (some.max(axis=1) != 1)
    if wrong.any():
        place = int(np.argmax(wrong))
        row = f"row {place} (counted from 0) is not all 0 but for one 1"
        raise UnusableFile(f"{name} is of shape {list(y.shape)} and not one-hot: {row}; accepted is one label each")
    found: NDArray[np.int64] = np.argmax(y, axis=1)
    return found


def alike(found: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """All labels as words where some are words and some are numbers."""
    if len({y.dtype.kind == "U" for y in found.values()}) == 1:
        return found
    return {name: y.astype(str) for name, y in found.items()}


def compared(found: dict[str, NDArray[Any]], train: str, held: str | None) -> list[str]:
    """What is to be said of all labels together. Raises UnusableFile where there is nothing to tell apart."""
    known = {name: {str(label) for label in np.unique(y).tolist()} for name, y in found.items()}
    trained, many = known[train], len(found[train])
    if len(set().union(*known.values())) < 2:
        one = parts.listed(sorted(trained)) or "none"
        raise UnusableFile(f"all labels are of one class, {one}; two are needed")
    if len(trained) > MOST_CLASSES:
        raise UnusableFile(f"{train} has {len(trained)} classes; at most {MOST_CLASSES} can be learned")
    if len(trained) > max(FEW, many // 2):
        few = "accepted are classes of several examples each, not numbers that are to be predicted"
        raise UnusableFile(f"{train} has {len(trained)} different labels for {many} examples; {few}")
    return parts.one_sided(trained, known[held], train=train, held_in=held) if held else []
