"""How far two runs are the same, and where a run can be taken up: what a search may count on having for nothing.

Two runs of one task and seed train the same network as long as their optimizers, clips and rates agree. A worker keeps
the state of a run at its `boundaries`, so that the next run with the same beginning starts from there. The rates of a
run on its way, plateaus included, are a `Course`.
"""

import itertools
from collections.abc import Iterable, Sequence

from lrtune.schedules import Plateau
from lrtune.wire.configuration import Configuration
from lrtune.wire.results import REPORTS, report_points


class Course:
    """The rate of every step of a run, as the reports so far leave it; `sign` is -1 where more is better.

    `end` is where the run is to end, if before its last step: a boundary like the others.
    """

    def __init__(self, configuration: Configuration, steps: int, *, sign: float = 1.0, end: int | None = None) -> None:
        self.configuration, self.steps, self.sign = configuration, steps, sign
        self.end = steps if end is None else min(end, steps)
        self.points = frozenset(report_points(steps))
        self._curve = configuration.curve
        self._lay()

    def learn(self, reports: Iterable[tuple[int, float | None]]) -> None:
        """Take all reports so far, (step, metric); only a family that looks at the loss changes its mind."""
        seen = [(step, self.sign * value) for step, value in reports if value is not None]
        curve = self.configuration.curve.after(seen, self.steps)
        if curve != self._curve:
            self._curve = curve
            self._lay()

    def rise(self) -> int:
        """How many steps warm up."""
        return self._curve.rise(self.steps)

    def held(self, step: int) -> bool:
        """Whether other runs may leave this one after `step`: its rate stands still there, or its warm-up ends."""
        return step == self.rise() or (step > 1 and self.rates[step - 1] == self.rates[step - 2])

    def _lay(self) -> None:
        factor, peak = self._curve.over(self.steps), self.configuration.learning_rate
        self.factors = [factor(step) for step in range(self.steps)]
        self.rates = [peak * factor for factor in self.factors]
        self.boundaries = self.points | _ends(self.rates, least=max(2, self.steps // REPORTS)) | {self.rise(), self.end}
        self.boundaries -= {0}


def _ends(rates: Sequence[float], *, least: int) -> frozenset[int]:
    """The steps after which a stretch of the same rate ends that was at least so long: where families branch."""
    ends, begun = set(), 0
    for step, (before, now) in enumerate(itertools.pairwise(rates), start=1):
        if now != before:
            if step - begun >= least:
                ends.add(step)
            begun = step
    return frozenset(ends)


def common(rates: Sequence[float], others: Sequence[float]) -> int:
    """How many leading rates are the same."""
    pairs = enumerate(zip(rates, others, strict=False))
    return next((step for step, (one, other) in pairs if one != other), min(len(rates), len(others)))


def shared(trained: Configuration, wanted: Configuration, steps: int, *, until: int | None = None) -> int:
    """How many leading steps of a run of `wanted` a run of `trained` gives for nothing, both over `steps`, same seed.

    `until` is how far `trained` has been trained, if not to its end. A plateau is counted on as far as no report
    can have lowered its rate. The states are the worker's, which may have dropped one for want of room.
    """
    until = steps if until is None else min(until, steps)
    if not same_but_for_rates(trained, wanted):
        return 0
    if trained == wanted:
        return until
    first = Course(trained, steps)
    sure = min(common(first.rates, Course(wanted, steps).rates), _sure(trained, steps), _sure(wanted, steps))
    if sure >= until:
        return until
    return max((step for step in first.boundaries if step <= sure and first.held(step)), default=0)


def same_but_for_rates(one: Configuration, other: Configuration) -> bool:
    """Whether two configurations differ at most in their schedules: their peaks, on the √2 grid, are to be the same."""
    knobs = ("optimizer", "learning_rate", "clip_norm", "clip_value")
    return all(getattr(one, name) == getattr(other, name) for name in knobs)


def _sure(configuration: Configuration, steps: int) -> int:
    """How many leading rates are known before any report."""
    family = configuration.schedule
    if not isinstance(family, Plateau):
        return steps
    rise = configuration.curve.rise(steps)
    seen = [step for step in report_points(steps) if step > rise]
    return seen[min(family.patience + 1, len(seen) - 1)]
