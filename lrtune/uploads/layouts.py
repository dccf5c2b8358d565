"""Which axis of the inputs is the channels: found out from the shape where it can be, else a job has to say it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrtune.errors import UnusableFile
from lrtune.wire.tasks import Layout

LAST: Layout = "channels-last"
FIRST: Layout = "channels-first"
COLOURS = 4  # an axis so short is the channels: grey, two, RGB, RGBA


def found(shape: Sequence[int], name: str) -> tuple[Layout | None, str]:
    """The layout, none where the shape does not tell, and the sentence that says what was taken, or is to be said."""
    if len(shape) == 2:
        return LAST, f"{name} is {list(shape)}: signals of {shape[1]} values"
    if len(shape) == 3:
        return LAST, f"{name} is {list(shape)}: pictures of {shape[1]}x{shape[2]} with one channel"
    layout = _decided(*shape[1:])
    if layout is None:
        asked = f"give `layout`, {LAST} or {FIRST}"
        return None, f"{name} is {list(shape)}, which does not tell which of its axes is the channels: {asked}"
    height, width, channels = shape[1:] if layout == LAST else (*shape[2:], shape[1])
    return layout, f"{name} is {list(shape)}: pictures of {height}x{width} with {channels} channels ({layout})"


def _decided(first: int, middle: int, last: int) -> Layout | None:
    """Pictures are square and channels are few; where the two disagree nobody knows."""
    square = {layout for layout, sides in ((LAST, (first, middle)), (FIRST, (middle, last))) if len({*sides}) == 1}
    few = {layout for layout, axis in ((LAST, last), (FIRST, first)) if axis <= COLOURS}
    if square and few and not square & few:
        return None
    left = square & few or square | few
    return left.pop() if len(left) == 1 else None


def channels_first(x: NDArray[Any], name: str, layout: Layout | None) -> NDArray[Any]:
    """Signals as [n, 1, length], pictures as [n, channels, height, width]. Raises UnusableFile if nothing tells."""
    if x.ndim < 4:
        return x[:, None]
    known, said = found(x.shape, name)
    layout = layout or known
    if layout is None:
        raise UnusableFile(said)
    return np.moveaxis(x, 3, 1) if layout == LAST else x
