"""What a picture of a job is drawn from: the curves of some of its trials, and where good rates lie.

Small whatever the size of the job: `lrtune/store/charts.py` chooses the trials and thins their reports. The page and
every other picture are drawn from these.
"""

from typing import Annotated, Literal

from pydantic import PlainSerializer

from lrtune.wire.report import Findings, Plateau
from lrtune.wire.results import Result, Role, TrialState

LARGE = 1000.0
# Five digits are finer than any screen, and halve what travels.
Short = Annotated[float, PlainSerializer(lambda value: float(f"{value:.5g}"))]
# What was measured may differ far behind its first digits where it is large: energies, the likelihood of a whole text.
Measured = Annotated[float, PlainSerializer(lambda value: float(f"{value:.{5 if abs(value) < LARGE else 10}g}"))]
Part = Literal["winner", "baseline", "confirm", "running", "best", "recent", "stopped", "diverged"]


class Line(Result):
    """One trial to draw: its metric at `steps`, its rates as (step, rate), and why it is among those drawn."""

    number: int
    part: Part
    role: Role
    state: TrialState
    words: str
    value: Measured | None
    horizon: int
    steps: list[int]
    values: list[Measured | None]
    rates: list[tuple[int, Short]]


class Band(Result):
    """The trials that are not drawn one by one: at each step a tenth lies below `low`, half below `middle`.

    Read off a sample of `sampled` of them that completed the horizon; `trials` is how many there are in all.
    """

    trials: int
    sampled: int
    steps: list[int]
    low: list[Measured]
    middle: list[Measured]
    high: list[Measured]


class Curves(Result):
    """A job's curves, few enough to draw: the winner, the baseline, the best, the newest, some stopped; the rest.

    They are of `metric`, one of the `metrics` that those drawn have reported; `goal` is null where that is not the
    job's own, which is `aim`, and which the values at the lines' ends are of.
    """

    metric: str
    metrics: list[str] = []
    aim: str = ""
    goal: Literal["minimize", "maximize"] | None
    steps: int | None
    trials: int
    lines: list[Line]
    rest: Band | None


class Expected(Result):
    """Where a run, or a configuration, is expected to end at the job's horizon: the median of the forecast.

    `low` and `high` lie a standard deviation to both sides of it, inside the metric's range.
    """

    value: Measured
    low: Measured
    high: Measured


class Point(Result):
    """A trial on the map of rates, which got to `share` of the job's horizon.

    `value` is null where it did not complete the horizon: it diverged, or `forecast` says where it is expected to end
    (null where nobody can say). `fresh` is one over a fresh seed, whose value compares with those over the same seed.
    """

    number: int
    role: Role
    state: TrialState
    rate: Short
    share: Short
    value: Measured | None
    forecast: Expected | None = None
    fresh: bool = False


class FamilyCurve(Result):
    """What the job's model expects of a family at each of `rates`, with the knobs of trial `trial`, the family's best.

    `low` and `high` are a standard deviation away from `values`, inside the metric's range.
    """

    trial: int
    rates: list[Short]
    values: list[Measured]
    low: list[Measured]
    high: list[Measured]


class Series(Result):
    """One schedule family under one optimizer: its trials by rate, and the rates that do as well as the best."""

    optimizer: str
    family: str
    plateau: Plateau | None
    curve: FamilyCurve | None = None
    points: list[Point]


class Edge(Result):
    """Up to which rate an optimizer's learning-rate range test, a trial, still made progress: the edge of stability."""

    optimizer: str
    rate: Short


class Terrain(Result):
    """The map of rates with the report that explains it; of a large job, from its best trials and a sample.

    `trials` is how many there are, `sampled` how many of them it shows. `report` is null before there is an answer.
    """

    metric: str
    goal: Literal["minimize", "maximize"]
    trials: int
    sampled: int
    series: list[Series]
    edges: list[Edge] = []
    report: Findings | None


class RunEnd(Result):
    """A run that completed the job's horizon once the job had cost `cost` full runs; `best` if it was the best so far.

    Runs over fresh seeds are left out: their values compare with those over the same seed only.
    """

    number: int
    cost: Short
    value: Measured
    best: bool


class Clock(Result):
    """Where the time of a job went, in seconds of the clock that add up to `total`; each moment is counted once.

    `training`: some trial was being trained, over all of them `device` seconds of a device; `waiting`: a trial waited
    for a worker; `held`: the job was paused, or over until it was extended; `between`: none of these, while the search
    decided or no worker was there.
    """

    total: float
    training: float
    waiting: float
    held: float
    between: float
    device: float


class SearchHistory(Result):
    """How a search went: its best value over its cost, and what its trials and its time went to.

    `ends` are few whatever the size of the job, every best so far among them. `cost` counts full runs; `reused` is the
    share of steps that needed no training, because another trial had trained them. Of the `trials` of the search
    `partial` are paused or stopped before their end; `resumed` went on after a partial evaluation, whatever became of
    them.
    """

    metric: str
    goal: Literal["minimize", "maximize"]
    cost: float
    reused: float
    trials: int
    complete: int
    partial: int
    resumed: int
    stages: int
    ends: list[RunEnd]
    clock: Clock
