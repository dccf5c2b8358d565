"""What training in stages is worth: improvement per cost when a run may be given up at every stage.

A candidate's final value is a normal variable; every stage of training resolves some of it and costs something, and
after each stage one may stop. `best_rates` gives the highest rate of improvement per cost that any stopping rule
achieves (the index of a bandit arm), so a cheap first look at a long shot competes fairly with finishing a safe bet.
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

GRID = np.linspace(-5.0, 5.0, 41)
LEVELS = 41
ROUNDS = 4


def _averages() -> Array:
    """For each share of variance resolved, the matrix that averages over where the mean moves in a stage."""
    shares = (np.arange(LEVELS) / (LEVELS - 1)) ** 2
    gaps = (GRID[:, None] - GRID[None, :]) ** 2
    weights = np.exp(-0.5 * gaps[None] / np.maximum(shares, 1e-6)[:, None, None])
    return np.asarray(weights / weights.sum(2, keepdims=True))


AVERAGES = _averages()


def best_rates(bar: float, mean: Array, std: Array, resolved: Array, price: Array) -> Array:
    """Improvement below `bar` per cost, for candidates in rows and stages in columns.

    `resolved` is the share of the variance known after each stage (rising; the last stage ends at 1), `price` what
    each stage costs.
    """
    start = np.clip((mean - bar) / std, -4.5, 4.5)
    shares = np.maximum.accumulate(np.column_stack([np.zeros(len(mean)), resolved]), axis=1)
    moves = np.rint(np.sqrt(np.maximum(np.diff(shares, axis=1), 0)) * (LEVELS - 1)).astype(int)
    spreads = [AVERAGES[m] for m in moves.T]
    rate = np.zeros(len(mean))
    for _ in range(ROUNDS):
        gain, cost = _evaluate(rate, std, spreads, price)
        at_gain, at_cost = _at(gain, start), _at(cost, start)
        rate = np.maximum(rate, at_gain / np.maximum(at_cost, 1e-12))
    return rate


def _evaluate(rate: Array, std: Array, spreads: list[Array], price: Array) -> tuple[Array, Array]:
    """Expected gain and cost, over the grid, of stopping best when training costs `rate` per unit."""
    gain = std[:, None] * np.maximum(-GRID, 0.0)[None, :]
    both = np.stack([gain, np.zeros_like(gain)], axis=2)
    for stage in range(len(spreads) - 1, -1, -1):
        both = spreads[stage] @ both
        both[:, :, 1] += price[:, stage, None]
        if stage > 0:  # the first stage is what is being weighed: it is taken
            both[both[:, :, 0] <= rate[:, None] * both[:, :, 1]] = 0.0
    return both[:, :, 0], both[:, :, 1]


def _at(table: Array, place: Array) -> Array:
    """Linear interpolation of each row at its own place on the grid."""
    position = (place - GRID[0]) / (GRID[1] - GRID[0])
    low = np.clip(position.astype(int), 0, len(GRID) - 2)
    rows = np.arange(len(place))
    part = position - low
    return np.asarray(table[rows, low] * (1 - part) + table[rows, low + 1] * part)
