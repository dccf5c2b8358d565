"""Put values reported at different numbers of steps on one scale.

A loss of 0.68 is excellent after a fiftieth of a run and poor at its end. `Levels` learns, from the runs of one job,
where "good" lies and how far apart runs lie at every number of steps. Few runs reach late steps, and those are the
better ones, so the scale is chained: between neighbouring numbers of steps it is carried on by the runs that have both.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Reports = Sequence[tuple[int, float]]

CAP = 4.0
KNOTS_PER_OCTAVE = 2
MAX_KNOTS = 24
# Differences far below this share of the value are not worth a search: a plateau must not be magnified.
LEAST_SCALE = 0.003
DESIGN = 8
SLACK = 0.3
SHRUNK = 0.1


def spread(values: Array) -> float:
    """How far the better two thirds lie above the best one: the scale on which differences matter."""
    good = np.sort(values)
    return float(np.median(good[: max(2, (2 * len(good) + 2) // 3)]) - good[0]) if len(good) else 0.0


def _at(steps: Array, reports: Reports) -> Array:
    """A run's value at each of `steps`, interpolated in log steps; NaN where it has none or diverged."""
    known = [(s, v) for s, v in reports if np.isfinite(v)]
    if not known:
        return np.full(len(steps), np.nan)
    logs, values = np.log([s for s, _ in known]), np.array([v for _, v in known])
    # A knot on the first or last report counts as reached, also where the two are one.
    logs, values = np.r_[logs[0] - 1e-6, logs, logs[-1] + 1e-6], np.r_[values[0], values, values[-1]]
    return np.asarray(np.interp(np.log(steps), logs, values, left=np.nan, right=np.nan))


class Levels:
    """The scale of a job's values at every number of steps.

    What comes later in a search is chosen for being alike and good, so its spread says nothing about the scale: that is
    taken from the first `design` histories, and from there on only carried by how runs drift apart.
    """

    def __init__(self, histories: Sequence[Reports], target: int, design: int = DESIGN, straight: float = 0.0) -> None:
        self.straight = straight  # scales above the best up to which standing is proportional to the value
        first = min((r[0][0] for r in histories if r), default=target)
        octaves = min(KNOTS_PER_OCTAVE * np.log2(max(target / first, 1.0)), MAX_KNOTS)
        ladder = target * 2.0 ** (-np.arange(int(octaves) + 1) / KNOTS_PER_OCTAVE)
        knots = np.unique(np.round(np.concatenate([ladder, [first]])))
        table = np.array([_at(knots, r) for r in histories]).reshape(len(histories), len(knots))
        self._logs = np.log(knots)
        self._low, self._scale = self._chain(table, design)

    def _chain(self, table: Array, design: int) -> tuple[Array, Array]:
        """Best value and scale at each knot, carried both ways from the last knot that most runs have."""
        n = table.shape[1]
        counts = np.isfinite(table).sum(0)
        base = int(np.flatnonzero(counts >= max(counts.max() / 2, 1)).max()) if counts.any() else 0
        known = table[np.isfinite(table[:, base]), base]
        low = float(known.min()) if len(known) else 0.0
        lows, scales = np.full(n, low), np.full(n, max(spread(known[:design]), LEAST_SCALE * abs(low)) or 1.0)
        for here, there in [(k, k + 1) for k in range(base, n - 1)] + [(k, k - 1) for k in range(base, 0, -1)]:
            lows[there], scales[there] = self._link(table[:, here], table[:, there], lows[here], scales[here])
        return lows, np.log(np.maximum(scales, np.maximum(LEAST_SCALE * np.abs(lows), SHRUNK * scales[base])))

    @staticmethod
    def _link(before: Array, now: Array, low: float, scale: float) -> tuple[float, float]:
        """The best of the runs that go on keeps its standing; how they drift apart carries the scale."""
        both = np.isfinite(before) & np.isfinite(now)
        n = int(both.sum())
        if n == 0:
            return low, scale
        old, new = (np.hypot(spread(v[both]), SLACK * scale) for v in (before, now))
        standing = (before[both].min() - low) / scale
        scale = scale * float(np.clip(new / old, 0.2, 5.0)) ** ((n - 1) / (n + 1))
        return float(now[both].min() - scale * standing), scale

    def score(self, steps: Array, values: Array) -> Array:
        """Standing of values: 0 is the best known at that many steps, logarithmic far above, capped for garbage."""
        logs = np.log(np.maximum(steps, 1))
        low = np.interp(logs, self._logs, self._low)
        scale = np.exp(np.interp(logs, self._logs, self._scale))
        with np.errstate(over="ignore", invalid="ignore"):
            above = (np.where(np.isfinite(values), values, np.inf) - low) / scale
            bent = np.sign(above) * np.log1p(np.maximum(np.abs(above) - self.straight, 0.0))
            return np.asarray(np.minimum(np.clip(above, -self.straight, self.straight) + bent, self.straight + CAP))

    def value(self, step: float, score: Array) -> Array:
        """The value that has a given standing after `step` steps."""
        size = np.minimum(np.abs(score), self.straight + CAP + 2)
        above = np.sign(score) * (np.minimum(size, self.straight) + np.expm1(np.maximum(size - self.straight, 0.0)))
        low = np.interp(np.log(step), self._logs, self._low)
        return np.asarray(low + np.exp(np.interp(np.log(step), self._logs, self._scale)) * above)
