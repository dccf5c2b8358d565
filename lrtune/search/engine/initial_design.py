"""The initial design: configurations that represent the space of curves, whatever their families are called."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lrtune.search.engine.costs import Options, design_size
from lrtune.search.engine.features import embed
from lrtune.search.engine.types import Array, Ints, Pool, Run

Flags = NDArray[np.bool_]

MEAN_RATE_WEIGHT = 2.0  # the mean rate matters most
TRUNK = 0.1  # of the horizon, up to which a trunk is trained


def next_of_design(
    options: Options, full: Ints, runs: Sequence[Run], random: np.random.Generator
) -> tuple[int, int] | None:
    """The pool row of the next configuration of the initial design, and until which step; None where it is complete.

    `full` are the rows over the target horizon. Where runs may be partial, and some hold their rate and let it fall
    later, a few trunks come first: they hold it too, and are trained to a tenth, from where the others branch. The
    law knows much from them.
    """
    settings, wanted = options.settings, design_size(options.pool, options.settings)
    tried = len({run.key for run in runs})
    if tried >= wanted or tried >= len(full):
        return None
    every = int(options.pool.every[full[0]])
    holding, falling = holds(options.pool.curves[full])
    if settings.partial_runs and settings.trunks and falling.any():
        until = -(-TRUNK * options.target // every) * every
        long = [run.curve for run in runs if max(run.steps, run.until) >= until]
        if not long or holds(np.array(long))[0].sum() < settings.trunks:
            trunk = _farthest(options, full, full[holding], runs, settings.trunks, random)
            if trunk is not None:
                return trunk, int(until)
    row = _farthest(options, full, full, runs, wanted, random)
    return None if row is None else (row, every if settings.partial_runs else options.target)


def holds(curves: Array) -> tuple[Flags, Flags]:
    """Which curves, (n, samples), are at their peak from a tenth to a quarter, and which of them have then an end."""
    peak, samples = curves.max(axis=1), curves.shape[1]
    held = (curves[:, samples // 10 : samples // 4] == peak[:, None]).all(axis=1)
    return held, held & (curves[:, -1] < 0.5 * peak)


def _farthest(
    options: Options, full: Ints, among: Ints, runs: Sequence[Run], k: int, random: np.random.Generator
) -> int | None:
    """Of k medoids of some of the rows, the one that is farthest from every run; None where there is no other.

    Distances are of features and other hyper-parameters, in standard deviations; the first is the most central one.
    """
    pool = options.pool
    centre, unit, weight = _scaling(pool, full)
    space = (np.column_stack([pool.features, pool.standardised(pool.extras)])[among] - centre) / unit * weight
    representatives = [m for m in medoids(space, k, random) if options.open(int(among[m]))]
    if not representatives or not runs:
        return int(among[representatives[0]]) if representatives else None
    curves, extras = np.array([run.curve for run in runs]), np.array([run.extras for run in runs])
    known = [embed(curves, np.ones(len(runs))), pool.standardised(extras.reshape(len(runs), -1))]
    trained = (np.column_stack(known) - centre) / unit * weight
    gaps = [float(((trained - space[m]) ** 2).sum(1).min()) for m in representatives]
    farthest = int(np.argmax(gaps))
    return int(among[representatives[farthest]]) if gaps[farthest] > 1e-12 else None


def _scaling(pool: Pool, full: Ints) -> tuple[Array, Array, Array]:
    """Centre, unit and weight of each column of the space of features and other hyper-parameters."""
    points = np.column_stack([pool.features, pool.standardised(pool.extras)])[full]
    weight = np.array([MEAN_RATE_WEIGHT] + [1.0] * (points.shape[1] - 1))
    return points.mean(0), np.maximum(points.std(0), 1e-9), weight


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
