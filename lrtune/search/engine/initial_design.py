"""The initial design: configurations that represent the space of curves, whatever their families are called."""

from collections.abc import Sequence

import numpy as np

from lrtune.search.engine.costs import Options, design_size
from lrtune.search.engine.features import embed
from lrtune.search.engine.types import Array, Ints, Run

MEAN_RATE_WEIGHT = 2.0  # the mean rate matters most


def next_of_design(options: Options, full: Ints, runs: Sequence[Run], random: np.random.Generator) -> int | None:
    """The pool row of the next configuration of the initial design; None where the design is complete.

    `full` are the rows over the target horizon. Of the medoids of their features and other hyper-parameters, each in
    standard deviations, it is the one that is farthest from every run so far (the first is the most central one).
    """
    pool, wanted = options.pool, design_size(options.pool, options.settings)
    tried = len({run.key for run in runs})
    if tried >= wanted or tried >= len(full):
        return None
    points = np.column_stack([pool.features, pool.standardised(pool.extras)])[full]
    centre, unit = points.mean(0), np.maximum(points.std(0), 1e-9)
    weight = np.array([MEAN_RATE_WEIGHT] + [1.0] * (points.shape[1] - 1))
    space = (points - centre) / unit * weight
    representatives = [m for m in medoids(space, wanted, random) if options.open(int(full[m]))]
    if not representatives or not runs:
        return int(full[representatives[0]]) if representatives else None
    curves, extras = np.array([run.curve for run in runs]), np.array([run.extras for run in runs])
    known = [embed(curves, np.ones(len(runs))), pool.standardised(extras.reshape(len(runs), -1))]
    trained = (np.column_stack(known) - centre) / unit * weight
    gaps = [float(((trained - space[m]) ** 2).sum(1).min()) for m in representatives]
    farthest = int(np.argmax(gaps))
    return int(full[representatives[farthest]]) if gaps[farthest] > 1e-12 else None


def medoids(space: Array, k: int, random: np.random.Generator) -> list[int]:
    """Rows of `space`, (n, d), that represent it, the most central first: each is nearest to a centre of k-means.

    Centres start as in k-means++ (Arthur & Vassilvitskii 2007) and are moved by Lloyd's algorithm. Fewer than k come
    back where two centres share a row.
    """
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
