"""The worth of training in stages: expected improvement per cost when a run may be given up after every stage.

A candidate's final score is a normal variable; every stage of training explains some of its variance and costs
something, and after each stage one may stop. What counts is the highest ratio of expected improvement to expected cost
that any stopping rule achieves: the Gittins index of a bandit's arm (Gittins 1979, "Bandit processes and dynamic
allocation indices"), which for boxes that are opened once is Weitzman's rule (1979, "Optimal search for the best
alternative"); in Bayesian optimisation see Xie et al. 2024, "Cost-aware Bayesian optimization via the Pandora's box
Gittins index". So a cheap first stage of a long shot competes fairly with finishing a safe bet.
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

GRID = np.linspace(-5.0, 5.0, 41)  # (mean - best) / std, where the posterior mean may stand after a stage
SHARES = (np.arange(41) / 40) ** 2  # of the variance that one stage explains, as far apart as its roots are equal
ROUNDS = 4


def _transitions() -> Array:
    """(shares, grid, grid): how the posterior mean moves in a stage that explains each share of the variance."""
    gaps = (GRID[:, None] - GRID[None, :]) ** 2
    weights = np.exp(-0.5 * gaps[None] / np.maximum(SHARES, 1e-6)[:, None, None])
    return np.asarray(weights / weights.sum(2, keepdims=True))


TRANSITIONS = _transitions()


def gittins_index(best: float, mean: Array, std: Array, explained: Array, price: Array) -> Array:
    """Expected improvement on the `best` score per full run, (n,), for n candidates trained in stages.

    `mean` and `std`, (n,), forecast the final scores (lower is better); `explained`, (n, stages), is the share of the
    variance known after each stage (1 after the last); `price`, (n, stages), is what each stage costs, in full runs.
    The best ratio is found by Dinkelbach's iteration (1967): stop as is best when a unit of cost is worth the ratio
    so far; the ratio of that rule is the next.
    """
    start = np.clip((mean - best) / std, -4.5, 4.5)
    known = np.maximum.accumulate(np.column_stack([np.zeros(len(mean)), explained]), axis=1)
    moves = np.rint(np.sqrt(np.maximum(np.diff(known, axis=1), 0)) * (len(SHARES) - 1)).astype(int)
    transitions = [TRANSITIONS[move] for move in moves.T]
    ratio = np.zeros(len(mean))
    for _ in range(ROUNDS):
        gain, cost = _optimal_stopping(ratio, std, transitions, price)
        ratio = np.maximum(ratio, _at(gain, start) / np.maximum(_at(cost, start), 1e-12))
    return ratio


def _optimal_stopping(ratio: Array, std: Array, transitions: list[Array], price: Array) -> tuple[Array, Array]:
    """Expected improvement and cost, (n, grid) each, by backward induction where a unit of cost is worth `ratio`."""
    gain = std[:, None] * np.maximum(-GRID, 0.0)[None, :]
    both = np.stack([gain, np.zeros_like(gain)], axis=2)
    for stage in range(len(transitions) - 1, -1, -1):
        both = transitions[stage] @ both
        both[:, :, 1] += price[:, stage, None]
        if stage > 0:  # the first stage is what is being weighed: it is taken
            both[both[:, :, 0] <= ratio[:, None] * both[:, :, 1]] = 0.0
    return both[:, :, 0], both[:, :, 1]


def _at(table: Array, place: Array) -> Array:
    """Linear interpolation of each row at its own place on the grid."""
    position = (place - GRID[0]) / (GRID[1] - GRID[0])
    low = np.clip(position.astype(int), 0, len(GRID) - 2)
    rows = np.arange(len(place))
    part = position - low
    return np.asarray(table[rows, low] * (1 - part) + table[rows, low + 1] * part)
