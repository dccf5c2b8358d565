"""How far two runs are the same, and where a run can be taken up: what a search may count on having for nothing.

Two runs of one task and seed train the same network as long as their optimizers, clips and rates agree. A worker keeps
the state of a run at its `boundaries`, so that the next run with the same beginning starts from there. The rates of a
run on its way, plateaus included, are a `Course`. A run may have 10^8 steps, so nothing here lists them: between two
breakpoints of a curve the rate only rises or only falls, and what is asked is found there by bisection.
"""

from bisect import bisect_left
from collections.abc import Iterable
from functools import cached_property
from itertools import pairwise
from typing import Self

from lrtune.schedules import Plateau
from lrtune.wire.configuration import Configuration
from lrtune.wire.job import Metric
from lrtune.wire.results import REPORTS, Trial, report_points

CHANGES = 3  # of two rates at the same steps, after which they are taken to go on alike or to part once for all


class Course:
    """The rate of every step of a run, as its reports, (step, metric), leave it; nothing changes after it is made.

    `sign` is -1 where more is better. `end` is where the run is to pause or to end: `until`, or else its last step.
    """

    def __init__(
        self,
        configuration: Configuration,
        horizon: int,
        *,
        sign: float = 1.0,
        until: int | None = None,
        reports: Iterable[tuple[int, float | None]] = (),
    ) -> None:
        self.configuration, self.horizon, self.sign = configuration, horizon, sign
        self.end = horizon if until is None else min(until, horizon)
        self.curve = configuration.curve
        if isinstance(configuration.schedule, Plateau):  # no other family looks at the loss
            seen = ((step, None if value is None else sign * value) for step, value in reports)
            self.curve = self.curve.after(seen, horizon)
        self.factor = self.curve.over(horizon)

    @classmethod
    def of(cls, trial: Trial, metric: Metric) -> Self:
        """The course of a trial, as its reports of the job's metric leave it."""
        seen = trial.values(metric.name)
        return cls(trial.configuration, trial.horizon, sign=metric.sign, until=trial.until, reports=seen)

    def after(self, reports: Iterable[tuple[int, float | None]]) -> "Course":
        """The course as all reports so far leave it: itself, but for a family that looks at the loss."""
        course = Course(self.configuration, self.horizon, sign=self.sign, until=self.end, reports=reports)
        return self if course.curve == self.curve else course

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        return self.configuration.learning_rate * self.factor(step)

    def rates(self, start: int, count: int) -> list[float]:
        """The learning rates of `count` steps from `start` on, fewer at the end of the run."""
        return [self.rate(step) for step in range(start, min(start + count, self.horizon))]

    def rise(self) -> int:
        """How many steps warm up."""
        return self.curve.rise(self.horizon)

    def held(self, step: int) -> bool:
        """Whether other runs may leave this one after `step`: its rate stands still there, or its warm-up ends."""
        return step == self.rise() or (step > 1 and self.rate(step - 1) == self.rate(step - 2))

    @cached_property
    def points(self) -> frozenset[int]:
        """The steps at which it reports."""
        return frozenset(report_points(self.horizon))

    @cached_property
    def boundaries(self) -> frozenset[int]:
        """The steps after which a state is kept: reports, the ends of long stretches, of the warm-up and of the run."""
        return (self.points | self._branches() | {self.rise(), self.end}) - {0}

    def _branches(self) -> frozenset[int]:
        """The steps after which a stretch of the same rate ends that was long enough: where families branch."""
        least = max(2, self.horizon // REPORTS)
        marks = sorted({*self.curve.breakpoints(self.horizon), *range(0, self.horizon, least)})
        ends, since = set(), (0, 0)  # the two marks between which the stretch at hand begins
        # A stretch that lies wholly between two marks is shorter than `least`, so only the marks' own stretches count.
        for left, right in pairwise(marks):
            if self.rate(left) != self.rate(right):
                if right - since[0] >= least:
                    end = self._change(left, right)
                    if end - self._arrival(*since) >= least:
                        ends.add(end)
                since = left, right
        return frozenset(ends)

    def _change(self, step: int, last: int) -> int:
        """The first step up to `last` whose rate is no longer that of `step`, else last + 1; no breakpoint between."""
        now = self.rate(step)
        if step < last and self.rate(step + 1) != now:
            return step + 1
        return step + 1 + bisect_left(range(step + 1, last + 1), True, key=lambda later: self.rate(later) != now)

    def _arrival(self, first: int, step: int) -> int:
        """The first step from `first` on whose rate is already that of `step`; no breakpoint between."""
        then = self.rate(step)
        if first < step and self.rate(step - 1) != then:
            return step
        return first + bisect_left(range(first, step), True, key=lambda earlier: self.rate(earlier) == then)


def common(one: Course, other: Course) -> int:
    """How many leading rates of two courses over the same horizon are the same.

    Exact for rates that change at steps of their own or part for good; of two formulas that differ by rounding alone it
    may say more than there are.
    """
    if one.rate(0) != other.rate(0):
        return 0
    marks = sorted({*one.curve.breakpoints(one.horizon), *other.curve.breakpoints(other.horizon)})
    parted = (_parting(one, other, left, right) for left, right in pairwise(marks))
    return next((step for step in parted if step is not None), one.horizon)


def _parting(one: Course, other: Course, left: int, right: int) -> int | None:
    """The first step after `left`, up to `right`, at which two courses differ that agree at `left`."""
    for _ in range(CHANGES):
        change, others = one._change(left, right), other._change(left, right)
        left = min(change, others)
        if left > right:
            return None
        if change != others or one.rate(left) != other.rate(left):
            return left
    if one.rate(right) == other.rate(right):
        return None
    return left + bisect_left(range(left, right), True, key=lambda step: one.rate(step) != other.rate(step))


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
    sure = min(common(first, Course(wanted, steps)), _sure(trained, steps), _sure(wanted, steps))
    if sure >= until:
        return until
    return max((step for step in first.boundaries if step <= sure and first.held(step)), default=0)


def begins_alike(trained: Trial, wanted: Trial, step: int, metric: Metric) -> bool:
    """Whether one trial has trained the first `step` steps of another just as that one would, with the same seed.

    A family that looks at the loss would see what the trained one has reported.
    """
    same = trained.seed == wanted.seed and trained.horizon == wanted.horizon
    if not same or not same_but_for_rates(trained.configuration, wanted.configuration):
        return False
    seen = [(at, value) for at, value in trained.values(metric.name) if at <= step]
    one, other = (
        Course(trial.configuration, trial.horizon, sign=metric.sign, reports=seen) for trial in (trained, wanted)
    )
    return common(one, other) >= step


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
