"""The initial design: configurations that represent the space of curves, whatever their families are called."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lrtune.search.engine.costs import Options, design_size
from lrtune.search.engine.features import embed
from lrtune.search.engine.types import Array, Ints, Pool, Run

Flags = NDArray[np.bool_]

MEAN_RATE_WEIGHT = 2.0  # the mean rate matters most
APART = 5.6  # between the rates of two trunks, where the peaks have room for it
CLOSE = 0.25  # of that, on a logarithmic scale, within which a rate has its trunk
TRUNK = 0.1  # of the horizon, up to which a trunk is trained


def next_of_design(
    options: Options, full: Ints, runs: Sequence[Run], random: np.random.Generator, beyond: bool = False
) -> tuple[int, int] | None:
    """The pool row of the next configuration of the initial design, and until which step; None where it is complete.

    `full` are the rows over the target horizon. Where runs may be partial, and some hold their rate and let it fall
    later, a few trunks come first: they hold it too, and are trained to a tenth, from where the others branch. The
    law knows much from them. A design goes on `beyond` its size with medoids of more clusters than there are runs.
    """
    settings, wanted = options.settings, design_size(options.pool, options.settings)
    tried = len({run.key for run in runs})
    if beyond:
        wanted = max(wanted, 2 * tried)
    if tried >= wanted or tried >= len(full):
        return None
    every, least = int(options.pool.every[full[0]]), options.least_stage(int(full[0]))
    until = max(int(-(-TRUNK * options.target // every) * every), least)
    trunk = (
        _next_trunk(options, full, runs, until) if settings.partial_runs and settings.trunks and not beyond else None
    )
    if trunk is not None:
        return trunk, until
    row = _farthest(options, full, full, runs, wanted, random)
    return None if row is None else (row, least if settings.partial_runs else options.target)


def holds(curves: Array) -> tuple[Flags, Flags]:
    """Which curves, (n, samples), are at their peak from a tenth to a quarter, and which of them have then an end."""
    peak, samples = curves.max(axis=1), curves.shape[1]
    held = (curves[:, samples // 10 : samples // 4] == peak[:, None]).all(axis=1)
    return held, held & (curves[:, -1] < 0.5 * peak)


def _next_trunk(options: Options, full: Ints, runs: Sequence[Run], until: int) -> int | None:
    """The row of the next trunk; None where there is nothing to branch, or trunks are at all the rates wanted.

    These lie around the middle of the peaks that are held, on a logarithmic scale. Of the rows nearest to one it is
    that whose other hyper-parameters are most usual; the rate that is farthest from all trunks comes first.
    """
    pool, n = options.pool, options.settings.trunks
    held, falling = holds(pool.curves[full])
    rows = np.array([row for row in full[held] if options.open(int(row))], dtype=np.int64)
    if not falling.any() or not len(rows):
        return None
    peaks = np.log(pool.curves[rows].max(axis=1))
    middle = (peaks.min() + peaks.max()) / 2
    wanted = np.clip(middle + np.log(APART) * (np.arange(n) - (n - 1) / 2), peaks.min(), peaks.max())
    long = np.array([run.curve for run in runs if max(run.steps, run.until) >= until]).reshape(-1, pool.curves.shape[1])
    known = np.log(long[holds(long)[0]].max(axis=1)) if len(long) else np.zeros(0)
    far = np.abs(wanted[:, None] - known[None, :]).min(axis=1, initial=np.inf)
    if len(known) >= n or far.max() < CLOSE * np.log(APART):
        return None
    place = np.abs(peaks - wanted[int(np.argmax(far))])
    unusual = np.abs(pool.standardised(pool.extras[rows])).sum(axis=1)
    return int(rows[np.lexsort((unusual, np.round(place, 9)))[0]])


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
    centres, far = [space[random.integers(len(space))]], np.full(len(space), np.inf)
    while len(centres) < k:
        far = np.minimum(far, ((space - centres[-1]) ** 2).sum(1))
        centres.append(space[random.choice(len(space), p=far / far.sum())] if far.sum() > 0 else space[0])
    points, owner = np.array(centres), np.full(len(space), -1)
    for _ in range(15):
        before, owner = owner, ((space[:, None, :] - points[None]) ** 2).sum(2).argmin(1)
        if (owner == before).all():  # whatever is nearest to the same centres leaves them where they are
            break
        points = np.array([space[owner == j].mean(0) if (owner == j).any() else points[j] for j in range(k)])
    nearest = ((space[:, None, :] - points[None]) ** 2).sum(2).argmin(0)
    middle = space.mean(0)
    return sorted(dict.fromkeys(int(i) for i in nearest), key=lambda i: float(((space[i] - middle) ** 2).sum()))


def luby(place: int) -> int:
    """The member of Luby's sequence 1, 1, 2, 1, 1, 2, 4, 1, ... at a place from 1 on."""
    bits = place.bit_length()
    return 1 << (bits - 1) if place == (1 << bits) - 1 else luby(place - (1 << (bits - 1)) + 1)
