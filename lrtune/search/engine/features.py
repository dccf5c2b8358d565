"""Features of a learning-rate history: the few numbers about a curve that decide how its run ends.

The history up to a step is described by logarithms: of its mean rate so far, and of the mean rates in some windows
relative to it (how it began, how it ended). Schedule families and peak rates do not appear: two curves that are alike
lie close together whatever they are called, and a half-finished cosine is a history that has not been annealed.
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Windows, as shares of the history, whose mean rate is compared with the mean of all of it.
WINDOWS: tuple[tuple[float, float], ...] = ((0.0, 0.25), (0.5, 0.75), (0.75, 1.0), (0.95, 1.0))
# A rate far below the mean changes nothing any more, so its logarithm is floored there.
FLOOR = 0.02
# Curves that are one run but for noise: the most by which any feature of theirs differs, and any other knob in standard
# deviations of the pool.
NEAR_EQUAL = 0.05
TINY = 1e-30
N_FEATURES = 1 + len(WINDOWS)


def embed(curves: Array, progress: Array) -> Array:
    """Features of each curve's history up to `progress`.

    `curves` is (n, samples), the rates at evenly spaced points of the horizon; `progress` is (n,), 0..1 of the horizon.
    The answer is (n, `N_FEATURES`): log mean rate, then log(mean rate in the window / mean rate + `FLOOR`) by window.
    """
    curves = np.nan_to_num(np.abs(np.asarray(curves, dtype=float)), nan=0.0, posinf=1e30)
    progress = np.clip(np.asarray(progress, dtype=float), 1e-4, 1.0)
    start = np.zeros((len(curves), 1))
    cumulative = np.concatenate([start, np.cumsum(curves, axis=1)], axis=1) / curves.shape[1]
    mean = np.maximum(_integral(cumulative, progress) / progress, TINY)
    columns = [np.log(mean)]
    for low, high in WINDOWS:
        area = _integral(cumulative, progress * high) - _integral(cumulative, progress * low)
        columns.append(np.log(area / (progress * (high - low)) / mean + FLOOR))
    return np.stack(columns, axis=1)


def _integral(cumulative: Array, end: Array) -> Array:
    """Integral of each curve from its start to the fraction `end`, linear between the sample boundaries."""
    n = cumulative.shape[1] - 1
    place = np.clip(end * n, 0, n)
    low = np.minimum(place.astype(int), n - 1)
    rows = np.arange(len(cumulative))
    left, right = cumulative[rows, low], cumulative[rows, low + 1]
    return np.asarray(left + (right - left) * (place - low))


def nearly_equal(ours: Array, theirs: Array) -> NDArray[np.bool_]:
    """Which of some curves, (n, d), are nearly which others, (m, d), by features and other knobs: (n, m)."""
    near = np.ones((len(ours), len(theirs)), dtype=bool)
    for column in range(ours.shape[1]):
        near &= abs(ours[:, None, column] - theirs[None, :, column]) <= NEAR_EQUAL
    return near
