"""Runs that have learned nothing: their values stand where an untrained network, or a trivial predictor, stands.

Nobody says what that value is: the class frequencies' cross entropy, the variance of the target. But it can be seen:
at their first reports runs of very different learning rates stand at one value, to a per mille. Runs that are no better
later on are not worth their end, and their differences, a third decimal, are no scale for anything.
"""

from collections.abc import Sequence

import numpy as np

from lrtune.search.engine.features import embed
from lrtune.search.engine.types import Run

FIRST = 16  # runs by which the level is known: what comes later was chosen for being good
LEAST, SHARE = 3, 0.25  # of these that must have stood there: so many, and such a share
STILL = 0.001  # of the level, within which they must have stood
FACTOR = 8.0  # between the lowest and the highest of their mean rates
BETTER = 0.01  # of the level, by which a run must be better to have learned something


def level(runs: Sequence[Run]) -> float:
    """The value at which runs stand that learn nothing, lower being better; infinite where none is to be seen."""
    first = sorted((run for run in runs if run.reports), key=lambda run: run.born)[:FIRST]
    values = np.array([run.reports[0][1] for run in first])
    wanted, found = max(LEAST, SHARE * len(first)), (0, np.inf)
    for candidate in np.unique(values[np.isfinite(values)]):
        middle = candidate + STILL * abs(candidate)  # of the window that the candidate begins
        near = np.flatnonzero(abs(values - middle) <= STILL * abs(middle))
        if len(near) >= max(wanted, found[0] + 1) and _factor([first[place] for place in near]) >= FACTOR:
            found = len(near), float(middle)
    return found[1]


def _factor(runs: Sequence[Run]) -> float:
    """The highest mean rate of some runs, each up to its first report, over the lowest."""
    progress = np.array([run.reports[0][0] / run.horizon for run in runs])
    return float(np.exp(np.ptp(embed(np.array([run.curve for run in runs]), progress)[:, 0])))


def learned(run: Run, nothing: float) -> bool:
    """Whether a run stands better than `nothing`, the level of those that learn nothing; one that diverged does not."""
    if not run.reports or not np.isfinite(run.reports[-1][1]):
        return False
    return nothing == np.inf or run.reports[-1][1] < nothing - BETTER * abs(nothing)


def moved(run: Run, nothing: float) -> bool:
    """Whether a run stands below all that stand at `nothing`, by however little."""
    return bool(run.reports) and run.reports[-1][1] < nothing - 2 * STILL * abs(nothing)


def scale_setting(runs: Sequence[Run], nothing: float) -> list[Run]:
    """The runs that set the scale of a job: of those that learned nothing only one, the longest that stands still.

    Where none has learned anything that is all of them.
    """
    idle = [run for run in runs if run.reports and np.isfinite(run.reports[-1][1]) and not learned(run, nothing)]
    if not any(learned(run, nothing) for run in runs):
        return list(runs)
    one = max(
        idle, key=lambda run: (abs(run.reports[-1][1] - nothing) <= BETTER * abs(nothing), run.steps), default=None
    )
    return [run for run in runs if run is one or run not in idle]
