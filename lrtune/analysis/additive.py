"""What several configurations' values over several seeds say together: each is a configuration's part plus a seed's.

A seed is luck for all that ran over it, so configurations are compared by what is left once the seeds' parts are taken
out (the two-way layout without interaction; Scheffe 1959, "The analysis of variance", ch. 4), whether or not all of
them ran over all seeds; and how much is left is known from all of them together, not from the two or three runs of one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median_low, variance

from lrtune.wire.job import usable

Values = Mapping[int, float]  # of one configuration, by seed
OF_SEARCH = -1  # what stands for the search's own seed
HALF = 0.5  # of what that seed would say of the noise, because selected values differ by less
FAR = 1e9  # times the usual size, 1 at least, beyond which a value is that of a run which blew up
OTHERS = 0.5  # degrees of freedom that the noise of others is worth beside values of one's own


@dataclass(frozen=True, slots=True)
class Additive:
    """n configurations' parts, against the first one's; `residual` is the noise beside both parts.

    `factors` times its variance is the covariance of the parts, (n, n). `total` is the variance of one run's value over
    seeds, the seed's part with the noise. Each variance comes with its degrees of freedom, 0 where nothing is known.
    """

    parts: Sequence[float]
    factors: Sequence[Sequence[float]]
    residual: tuple[float, float]
    total: tuple[float, float]

    def difference(self, one: int, other: int) -> tuple[float, float]:
        """By how much one configuration's part exceeds another's, and what its variance is, in residual variances."""
        spread = self.factors[one][one] + self.factors[other][other] - 2 * self.factors[one][other]
        return self.parts[one] - self.parts[other], max(spread, 0.0)


def noise(fresh: Sequence[Values], searched: Mapping[int, float]) -> Additive | None:
    """What values over fresh seeds say, the variances also by those over the search's own of the rows it selected.

    Selected for being low, all of these are too low together, which counts as their seed's part. But they differ by
    less than others would, so only half of their degrees of freedom count. None where seeds do not tie all together.
    """
    fit = additive(fresh)
    rows = [{**values, OF_SEARCH: searched[i]} if i in searched else values for i, values in enumerate(fresh)]
    both = additive(rows)
    if fit is None or both is None:
        return None
    left, free = both.residual[0] * both.residual[1], both.residual[1] - HALF * max(len(searched) - 1, 0)
    return replace(fit, residual=(left / free, free) if free > 0 else (0.0, 0.0), total=both.total)


def moderated(own: Sequence[float], others: tuple[float, float] | None) -> tuple[float, float]:
    """The variance of two values or more that may vary as nothing else does, with its degrees of freedom.

    `others` is the variance of what may be alike, or may not, with its own: it is worth half a degree of freedom, which
    keeps two or three values that lie close together by luck from promising too much (a moderated variance;
    Smyth 2004, "Linear models and empirical Bayes methods for assessing differential expression").
    """
    known, free = variance(own), len(own) - 1
    if others is None or not others[1]:
        return known, float(free)
    return (free * known + OTHERS * others[0]) / (free + OTHERS), free + OTHERS


def exploded(values: Iterable[float]) -> bool:
    """Whether one of these blew up: then nothing tells the noise."""
    return bool(blown_up(list(values)))


def blown_up(values: Sequence[float]) -> list[float]:
    """Those that are too large for anything, as in old jobs one may be, or out of all proportion to the others."""
    usual = median_low(map(abs, values)) if values else 0.0
    return [value for value in values if not usable(value) or abs(value) > FAR * max(usual, 1.0)]


def additive(rows: Sequence[Values]) -> Additive | None:
    """The fit by least squares to each configuration's values, by seed.

    None where seeds do not tie all together, or one has exploded.
    """
    if exploded(value for row in rows for value in row.values()):
        return None
    seeds = list(dict.fromkeys(seed for row in rows for seed in row))
    columns = {seed: [i for i, row in enumerate(rows) if seed in row] for seed in seeds}
    middle = {seed: sum(rows[i][seed] for i in column) / len(column) for seed, column in columns.items()}
    n = len(rows)
    matrix = [[0.0] * n for _ in rows]
    for column in columns.values():
        for i in column:
            matrix[i][i] += 1.0
            for j in column:
                matrix[i][j] -= 1.0 / len(column)
    right = [sum(value - middle[seed] for seed, value in row.items()) for row in rows]
    inverse = _inverse([line[1:] for line in matrix[1:]])
    if not rows or inverse is None:
        return None
    factors = [[0.0] * n, *([0.0, *line] for line in inverse)]
    parts = [sum(factor * value for factor, value in zip(line, right, strict=True)) for line in factors]
    lifts = {s: middle[s] - sum(parts[i] for i in column) / len(column) for s, column in columns.items()}
    left = sum((value - parts[i] - lifts[seed]) ** 2 for i, row in enumerate(rows) for seed, value in row.items())
    free = sum(map(len, rows)) - n - len(seeds) + 1
    residual = (left / free, float(free)) if free > 0 else (0.0, 0.0)
    return Additive(parts, factors, residual, _total(list(lifts.values()), list(columns.values()), residual))


def _total(
    lifts: Sequence[float], columns: Sequence[Sequence[int]], residual: tuple[float, float]
) -> tuple[float, float]:
    """The variance of a value over seeds, from how far the seeds' parts differ and what is left beside them.

    A seed's part is known but for the noise of the runs that it is the mean of; the degrees of freedom of the sum are
    those of Satterthwaite (1946, "An approximate distribution of estimates of variance components").
    """
    free = len(lifts) - 1
    if free <= 0:
        return 0.0, 0.0
    mean, within = sum(lifts) / len(lifts), 0.0
    between = sum((lift - mean) ** 2 for lift in lifts) / free
    if residual[1]:
        within = (1.0 - sum(1.0 / len(column) for column in columns) / len(columns)) * residual[0]
    spread = between**2 / free + (within**2 / residual[1] if residual[1] else 0.0)
    return between + within, (between + within) ** 2 / spread if spread else float(free)


def _inverse(matrix: Sequence[Sequence[float]]) -> list[list[float]] | None:
    """The inverse of a symmetric matrix by Gauss and Jordan; None where it has none."""
    n = len(matrix)
    rows = [[*line, *(float(i == j) for j in range(n))] for i, line in enumerate(matrix)]
    for i in range(n):
        pivot = max(range(i, n), key=lambda row: abs(rows[row][i]))
        if abs(rows[pivot][i]) < 1e-9:
            return None
        rows[i], rows[pivot] = rows[pivot], [*rows[i]]
        rows[i] = [value / rows[i][i] for value in rows[i]]
        for j in range(n):
            if j != i and rows[j][i]:
                rows[j] = [value - rows[j][i] * own for value, own in zip(rows[j], rows[i], strict=True)]
    return [row[n:] for row in rows]
