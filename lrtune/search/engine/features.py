"""Where a learning-rate history lies: the few numbers about a curve that decide how its run ends.

A run's history up to step s is described by logarithms: of its mean rate so far, and of the rates in some windows
relative to that mean (how it began, how it ended). Families and peaks do not appear: two curves that are alike lie
close together whatever they are called. A half-finished cosine is then simply an un-annealed history.
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Windows of the history whose mean rate is compared with the whole mean.
WINDOWS: tuple[tuple[float, float], ...] = ((0.0, 0.25), (0.5, 0.75), (0.75, 1.0), (0.95, 1.0))
# A rate far below the mean changes nothing any more, so its logarithm is floored there.
FLOOR = 0.02
TINY = 1e-30
N_FEATURES = 1 + len(WINDOWS)


def _area(cumulative: Array, at: Array) -> Array:
    """Integral of each curve from its start to the fraction `at`, linear between the sample boundaries."""
    n = cumulative.shape[1] - 1
    place = np.clip(at * n, 0, n)
    low = np.minimum(place.astype(int), n - 1)
    rows = np.arange(len(cumulative))
    left, right = cumulative[rows, low], cumulative[rows, low + 1]
    return np.asarray(left + (right - left) * (place - low))


def embed(curves: Array, progress: Array) -> Array:
    """Features of each curve's history up to `progress` (0..1 of its horizon), one row per curve."""
    curves = np.nan_to_num(np.abs(np.asarray(curves, dtype=float)), nan=0.0, posinf=1e30)
    progress = np.clip(np.asarray(progress, dtype=float), 1e-4, 1.0)
    start = np.zeros((len(curves), 1))
    cumulative = np.concatenate([start, np.cumsum(curves, axis=1)], axis=1) / curves.shape[1]
    mean = np.maximum(_area(cumulative, progress) / progress, TINY)
    columns = [np.log(mean)]
    for low, high in WINDOWS:
        area = _area(cumulative, progress * high) - _area(cumulative, progress * low)
        columns.append(np.log(area / (progress * (high - low)) / mean + FLOOR))
    return np.stack(columns, axis=1)
