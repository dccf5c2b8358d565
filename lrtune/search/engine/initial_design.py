"""The designed start: members of the pool that represent the space of curves, whatever their families are called."""

from collections.abc import Sequence

import numpy as np

from lrtune.search.engine.features import embed
from lrtune.search.engine.types import Array, Ints, Pool, Run

MEAN_WEIGHT = 2.0  # the mean rate matters most


def spread_out(pool: Pool, rows: Ints, runs: Sequence[Run]) -> tuple[Array, Array]:
    """The options and the runs so far as points in which distance means being different."""
    options = np.column_stack([pool.whole[rows], pool.other[rows]])
    tried = options[:0]
    if runs:
        extras = (np.array([run.extras for run in runs]).reshape(len(runs), -1) - pool.centre) / pool.unit
        tried = np.column_stack([embed(np.array([run.curve for run in runs]), np.ones(len(runs))), extras])
    centre, unit = options.mean(0), np.maximum(options.std(0), 1e-9)
    weight = np.array([MEAN_WEIGHT] + [1.0] * (options.shape[1] - 1))
    return (options - centre) / unit * weight, (tried - centre) / unit * weight


def medoids(space: Array, k: int, random: np.random.Generator) -> list[int]:
    """Members that represent the space: k-means from a spread start, each centre's nearest member, middle first."""
    k = min(k, len(space))
    centres = [space[random.integers(len(space))]]
    while len(centres) < k:
        far = np.min([((space - c) ** 2).sum(1) for c in centres], axis=0)
        centres.append(space[random.choice(len(space), p=far / far.sum())] if far.sum() > 0 else space[0])
    points = np.array(centres)
    for _ in range(15):
        owner = ((space[:, None, :] - points[None]) ** 2).sum(2).argmin(1)
        points = np.array([space[owner == j].mean(0) if (owner == j).any() else points[j] for j in range(k)])
    nearest = ((space[:, None, :] - points[None]) ** 2).sum(2).argmin(0)
    middle = space.mean(0)
    return sorted(dict.fromkeys(int(i) for i in nearest), key=lambda i: float(((space[i] - middle) ** 2).sum()))
