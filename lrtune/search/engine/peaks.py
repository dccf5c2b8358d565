"""Where the best peak of a schedule lies over another number of steps, relative to where it lies over the target's.

By the law: its parameters are drawn from what the reports leave of them, and each draw has a best peak over both. By
the rule of thumb: the best peak falls with the square root of the steps (Schaipp et al. 2025, arXiv:2501.18965, from
convex optimisation). What was measured scatters around it: exponents of -0.32 (Bjorck et al. 2024, arXiv:2409.19913)
and -0.51 (Shen et al. 2024, arXiv:2408.13359), and about 0 where the rate is bounded by stability. So the exponent is
normal around -1/2 with a standard deviation of 1/4, until runs over several horizons tell more.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from lrtune.search.engine.law import Law, histories
from lrtune.search.engine.law_model import LawModel
from lrtune.search.engine.types import Array

EXPONENT, SPREAD = -0.5, 0.25
DRAWS = 200
FACTORS = np.arange(-48, 49) / 8.0  # doublings of the answer's peak among which the law looks for the best


@dataclass(frozen=True)
class Move:
    """How far runs show the best peak to move from the target horizon to one of `steps`: log peak ratio `moved`.

    `std` is the standard deviation of the log of either best peak; that over the target is shared by all moves.
    """

    steps: int
    moved: float
    std: float


def covariance(moves: Sequence[Move]) -> Array:
    """Of what moves are off by, (n, n)."""
    std = np.array([move.std for move in moves])
    return np.asarray(np.diag(std**2) + np.outer(std, std))


def exponent(moves: Sequence[Move], target: int) -> tuple[float, float]:
    """Mean and standard deviation of the exponent by which the best peak moves with the steps, given these moves."""
    if not moves:
        return EXPONENT, SPREAD
    logs = np.log([move.steps / target for move in moves])
    weights = np.linalg.solve(covariance(moves), logs)
    precision = float(weights @ logs) + SPREAD**-2
    known = float(weights @ np.array([move.moved for move in moves])) + EXPONENT * SPREAD**-2
    return known / precision, precision**-0.5


def moves_by_rule(steps: int, target: int, moves: Sequence[Move]) -> Array:
    """Quantiles of the log of the best peak over `steps` relative to that over `target`, (`DRAWS`,)."""
    mean, std = exponent(moves, target)
    return np.asarray((mean + std * ndtri(_even())) * np.log(steps / target))


def moves_by_law(
    model: LawModel, curves: Mapping[int, Array], steps: int, known: Sequence[Move]
) -> tuple[Array, Array]:
    """Draws of the same by the law, (`DRAWS`,), and the weight of each by the moves that runs show, (`DRAWS`,).

    A draw by which no peak within reach of the answer's is the best, over some of these steps, says nothing of how that
    moves: it has no weight, and the weights sum to less than 1. `curves` are the rates, (64,), at the answer's peak of
    its schedule over `steps`, over the target and over what runs show moves to.
    """
    scales, over = 2.0 ** FACTORS[:, None], (model.target, steps, *(move.steps for move in known))
    asked = [(scales * curves[end], np.full(len(scales), float(end))) for end in over]
    pasts = [histories(rates, end, end, model.target, model.unit) for rates, end in asked]
    drawn = model.draw_parameters(DRAWS, np.random.default_rng(0))
    peaks = np.array([[_lowest(Law(parameters, past).value) for past in pasts] for parameters in drawn])
    moved, far = (peaks[:, 1:] - peaks[:, :1]) * np.log(2.0), np.zeros(DRAWS)
    if known:
        off = moved[:, 1:] - np.array([move.moved for move in known])
        far = 0.5 * (off * np.linalg.solve(covariance(known), off.T).T).sum(axis=1)
    likely = np.exp(far.min() - far)
    inside = (np.abs(peaks) < FACTORS[-1]).all(axis=1)
    return moved[:, 0], np.where(inside, likely, 0.0) / likely.sum()


def _lowest(values: Array) -> float:
    """The factor, in doublings, at which values, one for each of `FACTORS`, are lowest; between them by a parabola."""
    place = int(np.argmin(values))
    if place in (0, len(values) - 1):
        return float(FACTORS[place])
    left, middle, right = values[place - 1 : place + 2]
    bend = left - 2 * middle + right
    off = 0.5 * (left - right) / bend if bend > 0 else 0.0
    return float(FACTORS[place] + off * (FACTORS[1] - FACTORS[0]))


def mixture(by_rule: Array, std: float, by_law: tuple[Array, Array] | None = None, share: float = 0.0) -> Array:
    """Median and both ends of 95 % of the log peak, (3,): of the law by its share of its weights, else of the rule.

    `std` is that of the log of the answer's own peak; `by_law` as `moves_by_law` has it.
    """
    moved, weights = by_law or (np.zeros(0), np.zeros(0))
    draws = np.concatenate([moved, by_rule])
    draws = draws + std * np.random.default_rng(0).permutation(ndtri(_even(len(draws))))
    rest = np.full(len(by_rule), (1 - share * weights.sum()) / len(by_rule))
    mass = np.concatenate([share * weights, rest])
    order = np.argsort(draws)
    below = np.cumsum(mass[order]) - 0.5 * mass[order]
    return np.asarray(np.interp([0.5, 0.025, 0.975], below / mass.sum(), draws[order]))


def _even(n: int = DRAWS) -> Array:
    return np.asarray((np.arange(n) + 0.5) / n)
