"""Normalised scores: values reported at different numbers of steps on one scale.

A loss of 0.68 is excellent after a fiftieth of a run and poor at its end. `Normaliser` learns, from the runs of one
job, where "good" lies and how far apart runs lie at every number of steps. Few runs reach late steps, and those are the
better ones, so the scale is chained: between neighbouring numbers of steps it is carried on by the runs that have both.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

Array = NDArray[np.float64]
Reports = Sequence[tuple[int, float]]

EVERYTHING = (-np.inf, np.inf)
ENDS = (0.5, float(ndtr(-1.0)), float(ndtr(1.0)))  # the median, and a standard deviation to both sides
FARTHEST = 30.0  # standard deviations, beyond which a tail is none in 64 bits
CAP = 4.0  # log scales above the linear part, beyond which scores are equal
KNOTS_PER_OCTAVE = 2
MAX_KNOTS = 24
SCALE_OF = 8  # histories that set the scale
# Differences far below this share of the value are not worth a search: a plateau must not be magnified.
LEAST_SCALE = 0.003
FAR = 300.0  # times all that values were seen to differ by is far from zero: beyond it a value's size says nothing
SLACK = 0.3  # of the scale, by which two spreads may differ and say nothing
SHRUNK = 0.1  # of the scale it starts from, below which it does not fall
BLOWN_UP = 1000.0  # times what the best first report comes to, or what was gained since: above that no scale is learned


def spread(values: Array) -> float:
    """How far the better two thirds lie above the best one, by the median: the scale on which differences matter."""
    good = np.sort(values)
    return float(np.median(good[: max(2, (2 * len(good) + 2) // 3)]) - good[0]) if len(good) else 0.0


def _most(histories: Sequence[Reports]) -> float:
    """The value above which a run has blown up. How far it has says nothing, and beside it all others are alike."""
    begun = min((r[0][1] for r in histories if r and np.isfinite(r[0][1])), default=np.inf)
    gained = begun - min((v for r in histories for _, v in r if np.isfinite(v)), default=begun)
    unit = max(abs(begun), gained)
    return begun + BLOWN_UP * unit if 0 < unit < np.inf else np.inf


def _interpolated(steps: Array, reports: Reports, most: float) -> Array:
    """A run's value at each of `steps`, linear in log steps; NaN where it has none, diverged or is above `most`."""
    known = [(s, v) for s, v in reports if np.isfinite(v) and v <= most]
    if not known:
        return np.full(len(steps), np.nan)
    logs, values = np.log([s for s, _ in known]), np.array([v for _, v in known])
    # A knot on the first or last report counts as reached, also where the two are one.
    logs, values = np.r_[logs[0] - 1e-6, logs, logs[-1] + 1e-6], np.r_[values[0], values, values[-1]]
    return np.asarray(np.interp(np.log(steps), logs, values, left=np.nan, right=np.nan))


def in_words(ends: Array) -> str:
    """A forecast value and its ends, (3,), as `Normaliser.quantiles` gives them."""
    value, low, high = ends[0] + 0.0, *sorted(ends[1:] + 0.0)  # which makes 0 of -0
    return f"{value:.4g} ({low:.4g} to {high:.4g})"


class Normaliser:
    """The scale of a job's values at every number of steps.

    What comes later in a search is chosen for being alike and good, so its spread says nothing about the scale: that is
    taken from the first `design` histories, and from there on only carried by how runs drift apart. Up to
    `linear_width` scales above the best the score is proportional to the value, beyond it logarithmic.
    """

    def __init__(
        self, histories: Sequence[Reports], target: int, design: int = SCALE_OF, linear_width: float = 0.0
    ) -> None:
        self.linear_width = linear_width
        first = min((r[0][0] for r in histories if r), default=target)
        octaves = min(KNOTS_PER_OCTAVE * np.log2(max(target / first, 1.0)), MAX_KNOTS)
        ladder = target * 2.0 ** (-np.arange(int(octaves) + 1) / KNOTS_PER_OCTAVE)
        knots = np.unique(np.round(np.concatenate([ladder, [first]])))
        most = _most(histories)
        table = np.array([_interpolated(knots, r, most) for r in histories]).reshape(len(histories), len(knots))
        self._logs = np.log(knots)
        self._low, self._scale = self._chain(table, design)

    @staticmethod
    def _chain(table: Array, design: int) -> tuple[Array, Array]:
        """Best value and log scale at each knot, (knots,) each, from values by run and knot.

        Both are carried in both directions from the last knot that most runs have: the best of the runs that go on
        keeps its score, and how they drift apart carries the scale.
        """
        n = table.shape[1]
        counts = np.isfinite(table).sum(0)
        base = int(np.flatnonzero(counts >= max(counts.max() / 2, 1)).max()) if counts.any() else 0
        known = table[np.isfinite(table[:, base]), base]
        low = float(known.min()) if len(known) else 0.0
        far = (FAR * float(np.ptp(table[np.isfinite(table)])) if len(known) else 0.0) or np.inf
        scale = max(spread(known[:design]), LEAST_SCALE * min(abs(low), far)) or 1.0
        lows, scales = np.full(n, low), np.full(n, scale)
        for here, there in [(k, k + 1) for k in range(base, n - 1)] + [(k, k - 1) for k in range(base, 0, -1)]:
            low, scale = lows[here], scales[here]
            both = np.isfinite(table[:, here]) & np.isfinite(table[:, there])
            if both.any():
                count, before, now = int(both.sum()), table[both, here], table[both, there]
                score = (before.min() - low) / scale
                old, new = (np.hypot(spread(values), SLACK * scale) for values in (before, now))
                scale = scale * float(np.clip(new / old, 0.2, 5.0)) ** ((count - 1) / (count + 1))
                low = float(now.min() - scale * score)
            lows[there], scales[there] = low, scale
        least = LEAST_SCALE * np.minimum(np.abs(lows), far)
        return lows, np.log(np.maximum(scales, np.maximum(least, SHRUNK * scales[base])))

    def score(self, steps: Array, values: Array) -> Array:
        """Normalised scores, (n,), of values after so many steps: 0 is the best known there, capped for garbage."""
        logs = np.log(np.maximum(steps, 1))
        low = np.interp(logs, self._logs, self._low)
        scale = np.exp(np.interp(logs, self._logs, self._scale))
        with np.errstate(over="ignore", invalid="ignore"):
            above = (np.where(np.isfinite(values), values, np.inf) - low) / scale
            bent = np.sign(above) * np.log1p(np.maximum(np.abs(above) - self.linear_width, 0.0))
            return np.asarray(
                np.minimum(np.clip(above, -self.linear_width, self.linear_width) + bent, self.linear_width + CAP)
            )

    def log_slope(self, steps: Array, values: Array) -> Array:
        """Logarithms, (n,), of the score's derivative by the value, below where scores are capped."""
        low, scale = (np.interp(np.log(steps), self._logs, line) for line in (self._low, self._scale))
        return np.asarray(-scale - np.log1p(np.maximum(np.abs(values - low) / np.exp(scale) - self.linear_width, 0.0)))

    def value(self, step: float, score: Array) -> Array:
        """The values, (n,), that have these normalised scores after `step` steps."""
        size = np.minimum(np.abs(score), self.linear_width + CAP + 2)
        above = np.sign(score) * (
            np.minimum(size, self.linear_width) + np.expm1(np.maximum(size - self.linear_width, 0.0))
        )
        low = np.interp(np.log(step), self._logs, self._low)
        return np.asarray(low + np.exp(np.interp(np.log(step), self._logs, self._scale)) * above)

    def quantiles(self, step: float, mean: float, std: float, limits: tuple[float, float] = EVERYTHING) -> Array:
        """The median of a forecast score, and its ends a standard deviation to both sides, as values: (3,).

        A metric does not leave its range, so the score is normal given that the value lies within `limits`: a truncated
        normal variable, whose quantiles are inside wherever the mean may lie. Far from the limits it changes nothing.
        """
        ends = self.score(np.array([step, step], dtype=float), np.array(limits))
        low = ends[0] if np.isfinite(limits[0]) else -np.inf
        high = ends[1] if ends[1] < self.linear_width + CAP else np.inf  # beyond, scores say nothing of the value
        z = np.clip((np.array([low, high]) - mean) / std, -FARTHEST, FARTHEST)
        side = -1.0 if z[0] > 0 else 1.0  # from the tail that 64 bits have room for
        below, above = ndtr(side * z)
        between = mean + side * std * ndtri(below + np.array(ENDS) * (above - below))
        return np.asarray(np.clip(self.value(step, np.clip(between, low, high)), *limits))
