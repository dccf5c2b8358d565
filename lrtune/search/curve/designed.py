"""Shapes of the learning rate that the law of training designs, near the end of a search that bears it out.

Of the tails of `wsd` where the job searches their power, and of curves of the family `points` where it leaves the
points open, the one that the law expects to end lowest. It is one candidate among the others, and wins only by being
trained.
"""

from collections.abc import Iterable, Iterator

import numpy as np

from lrtune.schedules import Points, schedule
from lrtune.search.curve.encode import POINTS, rates
from lrtune.search.engine.law import Law, histories
from lrtune.search.engine.law_model import LawModel
from lrtune.search.engine.types import Array
from lrtune.search.studies.draw import RandomTrial
from lrtune.search.studies.space import Coordinates
from lrtune.space import GRID, Fixed
from lrtune.wire.configuration import Configuration
from lrtune.wire.job import AdmittedJob
from lrtune.wire.results import Trial

OFF = np.arange(-4, 5)  # steps of the grid of rates around the leader's, at which a shape is looked at
DRAWN = 150  # tails, and curves in a round
ROUNDS, KEPT = 4, 15  # of curves, each drawn around the best of those before (the cross-entropy method)
MOMENTS = (0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0)  # of the points of a curve
MOST = 2  # curves that are designed in one job: what follows would be more of the same
NARROWER = 3.0  # by which a round's draws lie closer to the best than those of the round before


def designed(
    spec: AdmittedJob,
    space: Coordinates,
    law: LawModel,
    leader: Configuration,
    past: Iterable[Trial],
    random: np.random.Generator,
) -> Iterator[Configuration]:
    """What the law designs with all but the rate and the schedule as a leader has it; nothing where it may not."""
    place = space.place(leader)
    if place is None:
        return
    if not isinstance(space.schedules.get("wsd", {}).get("wsd.power", Fixed(1.0)), Fixed):
        own = {knob: value for knob, value in place.params.items() if knob.partition(".")[0] not in space.schedules}
        tails = [space.draw(RandomTrial(random, own | {"schedule": "wsd"})) for _ in range(DRAWN)]
        curves = np.array([rates(tail, law.target) for tail in tails])
        best, scale, _ = _lowest(law, curves)
        yield space.at_rate(tails[best], tails[best].learning_rate * scale)
    asked = next((one for one in spec.schedules if one.family == "points"), None)
    mine = sum(isinstance(t.configuration.schedule, Points) and t.configuration.schedule.at == MOMENTS for t in past)
    if asked is not None and not asked.model_fields_set & {"at", "factors"} and mine < MOST:
        factors, scale = _best_points(law, leader, random)
        curve = schedule("points", at=MOMENTS, factors=tuple(round(float(factor), 3) for factor in factors))
        yield space.at_rate(leader.model_copy(update={"schedule": curve}), leader.learning_rate * scale)


def _best_points(law: LawModel, leader: Configuration, random: np.random.Generator) -> tuple[Array, float]:
    """The factors at `MOMENTS` of the falling curve that is expected to end lowest, and its peak over a leader's."""
    peak = leader.optimizer.effective(leader.learning_rate)
    flat = leader.model_copy(update={"schedule": Points(at=(0.0,), factors=(1.0,))})
    around = np.array(rates(flat, law.target)) / peak  # its warm-up
    rise = flat.curve.rise(law.target) / law.target
    progress = np.clip(((np.arange(POINTS) + 0.5) / POINTS - rise) / (1 - rise), 0.0, 1.0)
    centres, concentration = np.full((1, len(MOMENTS)), 1 / len(MOMENTS)), 1.0
    best: tuple[float, Array, float] | None = None
    for _ in range(ROUNDS):
        falls = np.array([random.dirichlet(concentration * len(MOMENTS) * c + 0.05) for c in _again(centres)])
        factors = 1.0 - np.cumsum(falls, axis=1)
        factors = np.maximum(np.column_stack([np.ones(len(falls)), factors[:, :-1]]), 0.0)
        curves = peak * around * np.array([np.interp(progress, MOMENTS, one) for one in factors])
        place, scale, values = _lowest(law, curves)
        if best is None or values[place] < best[0]:
            best = float(values[place]), factors[place], scale
        centres, concentration = falls[np.argsort(values, kind="stable")[:KEPT]], concentration * NARROWER
    assert best is not None  # noqa: S101 - there is a round
    return best[1], best[2]


def _again(centres: Array) -> Array:
    """As many centres as are drawn around."""
    return np.asarray(np.resize(centres, (DRAWN, centres.shape[1])))


def _lowest(law: LawModel, curves: Array) -> tuple[int, float, Array]:
    """Of curves, (n, 64), at any scale of `OFF`: the one that is to end lowest, at which scale, and all their ends."""
    scales, end = GRID ** OFF.astype(float), float(law.target)
    every = (scales[:, None, None] * curves[None]).reshape(-1, curves.shape[1])
    over = np.full(len(every), end)
    values = Law(law.parameters, histories(every, over, over, law.target, law.unit)).value.reshape(len(scales), -1)
    lowest = values.min(axis=0)
    best = int(np.argmin(lowest))
    return best, float(scales[int(np.argmin(values[:, best]))]), lowest
