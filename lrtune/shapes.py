"""The pieces that formulas of schedules are made of. Exports copy their source: each stands alone."""

import math


def whole(blocks: float) -> int:
    """How many blocks are over. The hair's breadth keeps floor(0.3 / 0.1) at 3."""
    return math.floor(min(blocks, 1e300) + 1e-9)


def fall(shape: str, x: float, final: float) -> float:
    """From 1 at x = 0 to `final` at x = 1. An exponential cannot reach zero, so it ends at a thousandth at least."""
    x = min(1.0, x)  # (1 - (1 - decay)) / decay can be a hair above
    if shape == "constant":
        return 1.0
    if shape == "linear":
        return 1.0 - x * (1.0 - final)
    if shape == "sqrt":
        return final + (1.0 - final) * (1.0 - math.sqrt(x))
    if shape == "exponential":
        return math.pow(max(final, 1e-3), x)
    return final + (1.0 - final) * (1.0 + math.cos(math.pi * x)) / 2.0


def between(at: tuple[float, ...], factors: tuple[float, ...], u: float) -> float:
    """On the straight lines through points: `factors[k]` at `at[k]`, which rises; level before and after them."""
    after = sum(1 for moment in at if moment <= u)
    if after in (0, len(at)):
        return factors[max(0, after - 1)]
    share = (u - at[after - 1]) / (at[after] - at[after - 1])
    return factors[after - 1] + share * (factors[after] - factors[after - 1])
